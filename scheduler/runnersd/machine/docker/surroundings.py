"""What all attempts on one engine share: the connection, what the engine can do, and where things lie."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runnersd.in_thread import in_thread
from runnersd.machine import Cards
from runnersd.machine.docker import shells
from runnersd.machine.docker.body import Entry
from runnersd.machine.docker.connection import Connection, Engine
from runnersd.machine.docker.gate import Gate
from runnersd.machine.docker.instance import finds_hook
from runnersd.machine.docker.interior import Interiors
from runnersd.machine.docker.keeper import Keeper
from runnersd.model import EngineState, Image, Launch

if TYPE_CHECKING:
    from runnersd.machine.docker.staging import Staged

_INSTALL = (
    "the container engine cannot pass cards to containers: install nvidia-container-toolkit, then run "
    "`nvidia-ctk runtime configure --runtime=docker` and restart docker"
)


class Surroundings:
    """``gated`` is whether payloads wait at gates; ``private`` are the daemon's own directories."""

    def __init__(
        self,
        connection: Connection,
        state: Path,
        database: str,
        *,
        boot: str,
        gated: bool,
        private: Sequence[str],
        owned: Callable[[str, Any], None],
        cards: Cards | None = None,
    ) -> None:
        self.connection = connection
        self.gates = state / "gates"
        self.boot = boot
        self.booted_at = _booted_at()
        self.gated = gated
        self._private = tuple(private)
        self.state = EngineState("it was not reached yet", seen=os.path.exists(connection.socket))
        self.owns = owned
        self._cards = cards
        self._keeper = Keeper()
        self.take: Callable[[Launch], Awaitable[Staged | None]] = _nothing_staged
        self.interiors = Interiors(connection, database)
        self.shell: Path | None = None  #: our own, for gates; None where the host has none
        self._kept: set[asyncio.Task[Any]] = set()

    async def keep_cards(self, process: int, gpus: Sequence[str]) -> None:
        """Have the locks of these cards kept until the process (a pidfd) has ended.

        Raises:
            OSError: nobody can be had who does.
        """
        if gpus and self._cards is not None:
            await self._keeper.hold(process, self._cards.descriptors(gpus))

    def close(self) -> None:
        """Let go of what keeps the cards; it goes on while it has to."""
        self._keeper.close()

    def prepare(self) -> None:
        """Have our shell lie ready for gates. The state directory must be there."""
        self.shell = shells.prepared(self.gates.parent) if self.gated else None

    @property
    def runc(self) -> bool:
        """Whether the engine has a runtime of that name, which passes no card unless asked."""
        engine = self.connection.engine
        return engine is not None and "runc" in (engine.info.get("Runtimes") or {})

    @property
    def private(self) -> tuple[str, ...]:
        """The directories that no job gets: the daemon's own, and the engine's."""
        root = _root(self.connection.engine)
        return (*self._private, root) if root else self._private

    @property
    def rootless(self) -> bool:
        """Whether the engine itself runs as a user, whom its containers call root."""
        engine = self.connection.engine
        options = engine.info.get("SecurityOptions") or () if engine is not None else ()
        return any("rootless" in str(option) for option in options)

    def reached(self, engine: Engine) -> None:
        """The engine answers."""
        how = _passes_cards(engine.info, finds_hook(engine.instance))
        self.state = EngineState(None, how, "" if how else _INSTALL, seen=True, root=_root(engine))

    def lost(self, why: str) -> None:
        """The engine does not answer."""
        known = self.state
        seen = known.seen or os.path.exists(self.connection.socket)
        self.state = EngineState(why, known.cards, known.no_cards, seen=seen)

    def keep(self, task: asyncio.Task[Any]) -> None:
        """Hold on to a task that nobody waits for, until it is done."""
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)

    async def entry(self, image: Image) -> Entry:
        """What runs first in containers of this image. A shell of ours rather than the image's: that one is whatever
        its maker likes, and need not wait.

        Raises:
            EngineError: the image could not be looked into.
        """
        if not self.gated:
            return "plain"
        if self.shell is not None:
            return "static"
        return "shell" if await self.interiors.holds(image, "/bin/sh") else "plain"

    async def furnish(self, gate: Gate, entry: Entry) -> None:
        """Put our shell beside the gate, where it is what runs there."""
        if entry == "static" and self.shell is not None:
            await in_thread(gate.furnish, self.shell)


def _root(engine: Engine | None) -> str:
    """The directory of the engine's own; empty where that cannot be seen from here."""
    root = str(engine.info.get("DockerRootDir") or "") if engine is not None else ""
    return root if root.startswith("/") and os.path.isdir(root) else ""


def _passes_cards(info: Mapping[str, Any], hook: bool) -> Any:
    """How the engine hands cards to containers: by CDI where it knows them by UUID, else by NVIDIA's own way."""
    discovered = [str(one.get("ID", "")) for one in info.get("DiscoveredDevices") or () if isinstance(one, Mapping)]
    if any(name.startswith("nvidia.com/gpu=GPU-") for name in discovered) or _specified(info.get("CDISpecDirs") or ()):
        return "cdi"
    return "nvidia" if "nvidia" in (info.get("Runtimes") or {}) or hook else None


def _specified(directories: Sequence[str]) -> bool:
    """Whether a CDI specification names cards by UUID."""
    for directory in directories:
        for path in sorted(Path(directory).glob("*")) if os.path.isdir(directory) else ():
            if path.suffix in (".yaml", ".yml", ".json"):
                try:
                    text = path.read_text(errors="replace")
                except OSError:
                    continue  # not ours to read: then the engine is asked the other way
                if "nvidia.com/gpu" in text and "GPU-" in text:
                    return True
    return False


def _booted_at() -> float:
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0


async def _nothing_staged(launch: Launch) -> Staged | None:
    """Before there is anybody who stages."""
    return None
