"""Containers made early: the next job for a card waits at its gate while the card is still held by another.

A staged container is no attempt. It has a name of its own, holds nothing in the store, and its payload has not been
started: its gate is shut. The planner says which are wanted; one that is not wanted any more is thrown away. When a job
is reserved with the very launch that one was made for, the attempt takes it over, and the hand-off costs no more than
opening its gate.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runnersd.machine import LaunchFailed
from runnersd.machine.docker import kernel, result
from runnersd.machine.docker.connection import Engine
from runnersd.machine.docker.errors import EngineError
from runnersd.machine.docker.gate import Gate
from runnersd.machine.docker.making import Making
from runnersd.machine.docker.surroundings import Surroundings
from runnersd.model import Launch, RunName

log = logging.getLogger(__name__)

#: Seconds that throwing staged containers away may take when the daemon ends; the next one does the rest.
_LEAVE = 3.0
#: One launch is staged for one set of cards.
Key = tuple[RunName, tuple[str, ...]]


@dataclass(slots=True)
class Staged:
    """A container that waits at its gate, compared with its launch already."""

    launch: Launch
    container: str
    gate: Gate
    making: Making
    engine: Engine | None
    pid: int
    start: int  #: of its first process, in clock ticks after boot
    began: str  #: the engine's word for when


class Staging:
    """Keeps the wanted containers staged, one being made at a time."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._wanted: dict[Key, Launch] = {}
        self._ready: dict[Key, Staged] = {}
        self._making: tuple[Key, asyncio.Task[Staged | None]] | None = None
        self._claimed: set[Key] = set()
        self._given_up: dict[Key, Launch] = {}
        self._numbers = itertools.count(1)
        self._worker: asyncio.Task[None] | None = None

    def want(self, launches: Sequence[Launch]) -> None:
        """Have these staged, the first first, and no others. Returns at once."""
        self._wanted = {(launch.run, launch.gpus): launch for launch in launches} if self._around.gated else {}
        self._given_up = {key: launch for key, launch in self._given_up.items() if key in self._wanted}
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work(), name="staging")

    def claim(self, run: RunName, gpus: tuple[str, ...]) -> None:
        """Keep what is staged for this attempt and these cards: it has been reserved, and will be taken."""
        self._claimed = {key for key in self._claimed if key in self._ready or self._is_made(key)}
        self._claimed.add((run, gpus))

    def drop(self, run: RunName) -> None:
        """Nobody will take what was claimed for this attempt any more."""
        self._claimed = {key for key in self._claimed if key[0] != run}
        self.want(list(self._wanted.values()))

    async def take(self, launch: Launch) -> Staged | None:
        """The container staged for exactly this launch, which is the caller's from now on; None when there is none."""
        key = (launch.run, launch.gpus)
        if self._making is not None and self._is_made(key):
            await asyncio.wait([self._making[1]])
        self._claimed.discard(key)
        self._wanted.pop(key, None)
        staged = self._ready.pop(key, None)
        if staged is None:
            return None
        same_engine = staged.engine is self._around.connection.engine
        if same_engine and staged.launch == launch and kernel.process_started(staged.pid) == staged.start:
            return staged
        asyncio.get_running_loop().call_soon(self._throw_away_later, staged)
        return None

    def has(self, container: str) -> bool:
        """Whether the container is one of those staged, or may be the one that is being made."""
        return self._making is not None or any(one.container == container for one in self._ready.values())

    def keeps(self, folder: Path) -> bool:
        """Whether the gate there is that of a staged container."""
        return any(one.gate.folder == folder for one in self._ready.values())

    @property
    def busy(self) -> bool:
        """Whether one is being made."""
        return self._making is not None

    def forget_all(self) -> None:
        """The engine is another, or was lost sight of: what was staged is thrown away as soon as that can be done."""
        self._given_up.clear()
        for staged in self._ready.values():
            self._throw_away_later(staged)
        self._ready.clear()

    async def close(self) -> None:
        """Throw everything away, as far as that is quickly done."""
        self._wanted.clear()
        tasks = [self._worker] if self._worker is not None else []
        tasks += [self._making[1]] if self._making is not None else []  # type: ignore[list-item]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE):
                await asyncio.gather(*(self._throw_away(one) for one in self._ready.values()))

    # -- inside --------------------------------------------------------------------------------------------------------

    def _is_made(self, key: Key) -> bool:
        return self._making is not None and self._making[0] == key

    async def _work(self) -> None:
        """Until what is staged is what is wanted."""
        while True:
            for key in [key for key in self._ready if key not in self._wanted and key not in self._claimed]:
                await self._throw_away(self._ready.pop(key))
            missing = next((key for key in self._wanted if key not in self._ready and key not in self._given_up), None)
            if missing is None:
                if all(key in self._wanted or key in self._claimed for key in self._ready):
                    return
                continue
            launch = self._wanted[missing]
            task = asyncio.get_running_loop().create_task(self._make(launch), name=f"stage {launch.run}")
            self._making = (missing, task)
            await asyncio.wait([task])
            self._making = None
            if missing not in self._ready:
                self._given_up[missing] = launch

    async def _make(self, launch: Launch) -> Staged | None:
        around, run = self._around, launch.run
        name = f"runners-staged-{run.database}-{run.job}-{run.attempt}-{next(self._numbers)}"
        gate = Gate(around.gates / name)
        making = Making(run, launch, around, gate, staged_as=name)
        engine, container = around.connection.engine, None
        try:
            container, gated = await making.create()
            verified = await making.verify(container)
            # An image's own shell may do as it likes, and the card is still another's.
            if verified and gated and making.surely_waits:
                await around.connection.start(container)
                seen = await around.connection.inspect(container)
                pid, began = int(seen["State"].get("Pid") or 0), str(seen["State"].get("StartedAt"))
                start = kernel.process_started(pid) if result.status(seen) == "running" else None
                wrong = await making.difference(pid) if start is not None else "it has ended"
                if start is not None and wrong is None:
                    staged = Staged(launch, container, gate, making, engine, pid, start, began)
                    self._ready[run, launch.gpus] = staged
                    return staged
        except (LaunchFailed, EngineError, OSError) as error:
            log.debug("cannot stage job %d: %s; it is launched when its turn comes", run.job, error)
        if container is not None:
            await self._remove(container, gate)
        return None

    def _throw_away_later(self, staged: Staged) -> None:
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(self._throw_away(staged))
        self._around.keep(task)

    async def _throw_away(self, staged: Staged) -> None:
        await self._remove(staged.container, staged.gate)

    async def _remove(self, container: str, gate: Gate) -> None:
        """What cannot be removed now is at the launcher's next sweep, by its label."""
        with contextlib.suppress(EngineError):
            await self._around.connection.kill(container, signal.SIGKILL)
        await kernel.end(container)
        with contextlib.suppress(EngineError):
            await self._around.connection.remove(container, force=True)
        gate.remove()
