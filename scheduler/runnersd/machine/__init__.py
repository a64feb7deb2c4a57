"""What the daemon asks of the outside world. The modules beside this one answer; none of them knows another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from runnersd.model import (
    CardOwner,
    EngineState,
    GpuId,
    Image,
    ImageState,
    Inventory,
    JobId,
    Launch,
    Outcome,
    RunName,
    Submitter,
)
from runnersd.telemetry.sample import ProcessSample


class LaunchFailed(Exception):
    """The attempt could not be started. The message is for the person who submitted it."""


class Gpus(Protocol):
    """Sees the cards."""

    async def observe(self) -> Inventory:
        """The cards as they are now. Never raises for a driver's sake: a silent driver gives a stale inventory."""

    async def close(self) -> None:
        """Let go of the driver."""


class Cards(Protocol):
    """Owns the cards across daemons. A card has one owner; only the owner's daemon may reserve it."""

    def claim(self, uuids: Sequence[GpuId]) -> dict[GpuId, CardOwner | None]:
        """Try to own every card; for each, None when it is ours now, else who has it. May be repeated."""

    def descriptors(self, uuids: Sequence[GpuId]) -> list[int]:
        """The open locks of cards that are ours, for a supervisor to keep while its job lives."""

    def close(self) -> None:
        """Let go of every card that no job of ours keeps."""


class Containers(Protocol):
    """The container engine, as plans need it."""

    @property
    def state(self) -> EngineState:
        """The engine as just seen."""

    @property
    def images(self) -> Mapping[str, ImageState]:
        """What is known of each image that was asked for."""

    def resolve(self, image: str) -> None:
        """Find out which image a name means, and have it pulled if need be. Returns at once."""

    async def image(self, name: str) -> Image:
        """The image that a name means, as soon as that is known.

        Raises:
            LaunchFailed: it cannot be had.
        """

    def stage(self, launches: Sequence[Launch]) -> None:
        """Make these ready to start at once, the first first, and no others. Returns at once; nothing starts."""

    def claim(self, run: RunName, gpus: tuple[GpuId, ...]) -> None:
        """The attempt has been reserved with these cards: keep what is ready for it until it is launched or stopped."""

    async def failed(self) -> None:
        """Returns never; raises what ended the watch over the engine, which is a bug."""


class Launcher(Protocol):
    """Runs attempts by name. The name, not the daemon, is what an attempt belongs to:
    every call may be repeated, and may come from a daemon that did not make the one before."""

    async def launch(self, launch: Launch) -> float:
        """Have the attempt run, once; launching a name again changes nothing. Returns when it started (Unix seconds).

        Raises:
            LaunchFailed: it never ran and never will.
        """

    async def wait(self, run: RunName) -> Outcome:
        """How it ended, as soon as every process of it is gone."""

    async def stop(self, run: RunName, *, at_once: bool = False) -> None:
        """Ask it to end: its stop signal, then SIGKILL to all of it after its grace (now, if ``at_once``).
        Returns when that is asked for, not when it has ended. Nothing happens to an attempt that is over."""

    async def signal(self, run: RunName, number: int) -> None:
        """Pass a signal on to the attempt's process group. Nothing happens to an attempt that is over."""

    async def forget(self, run: RunName) -> None:
        """Clean up after an attempt whose end has been recorded. Its logs stay."""

    def supervisor(self, run: RunName) -> int | None:
        """The pid above all of a live attempt's processes, where there is one."""

    def logs(self, run: RunName) -> tuple[Path, Path]:
        """Where its stdout and stderr are; a file that does not exist is an empty one."""

    async def close(self) -> None:
        """Stop watching. Jobs keep running: the next daemon takes them back."""


#: A job and the number of one of its attempts.
AttemptKey = tuple[JobId, int]


@dataclass(frozen=True, slots=True)
class Metered:
    """Where the processes of an attempt are: below ``pid``, or ``contained``, with it in a cgroup of their own."""

    pid: int
    contained: bool


class Meter(Protocol):
    """Sees what the processes of running attempts have."""

    async def measure(self, attempts: Mapping[AttemptKey, Metered]) -> dict[AttemptKey, ProcessSample]:
        """The memory and CPU of those of which anything is known. To be told all that run each time."""


#: What the daemon's rows say of an attempt.
Row = Literal["live", "over", "unknown"]


class ContainerLauncher(Launcher, Containers, Protocol):
    """Runs attempts as containers."""

    changed: Callable[[], None]  #: called when the engine or an image is another than it was
    row: Callable[[RunName], Awaitable[Row]]  #: asked what the rows say of an attempt that nobody here knows

    async def note(self, folder: str, facts: Mapping[str, object], who: Submitter | None) -> None:
        """Add what happened to the record in an experiment's folder, with its submitter's rights (our own where that is
        None). Never fails, and does not wait for long."""
