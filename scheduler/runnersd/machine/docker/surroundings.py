"""What all attempts on one engine share: the connection, what the engine can do, and where things lie."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runnersd.machine.docker.body import Entry
from runnersd.machine.docker.connection import Connection, Engine
from runnersd.machine.docker.gate import Gate
from runnersd.machine.docker.instance import finds_hook
from runnersd.model import EngineState, Image, Launch

if TYPE_CHECKING:
    from runnersd.machine.docker.staging import Staged

#: A static shell of the host's, for images that have none.
STATIC_SHELL = Path("/bin/busybox")

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
        *,
        boot: str,
        gated: bool,
        private: Sequence[str],
        owned: Callable[[str, Any], None],
    ) -> None:
        self.connection = connection
        self.gates = state / "gates"
        self.boot = boot
        self.booted_at = _booted_at()
        self.gated = gated
        self.private = tuple(private)
        self.state = EngineState("it was not reached yet", seen=os.path.exists(connection.socket))
        self.owns = owned
        self.take: Callable[[Launch], Awaitable[Staged | None]] = _nothing_staged
        self._kept: set[asyncio.Task[Any]] = set()
        self._shells: dict[str, bool] = {}

    @property
    def runc(self) -> bool:
        """Whether the engine has a runtime of that name, which passes no card unless asked."""
        engine = self.connection.engine
        return engine is not None and "runc" in (engine.info.get("Runtimes") or {})

    @property
    def rootless(self) -> bool:
        """Whether the engine itself runs as a user, whom its containers call root."""
        engine = self.connection.engine
        options = engine.info.get("SecurityOptions") or () if engine is not None else ()
        return any("rootless" in str(option) for option in options)

    def reached(self, engine: Engine) -> None:
        """The engine answers."""
        how = _passes_cards(engine.info, finds_hook(engine.instance))
        self.state = EngineState(None, how, "" if how else _INSTALL, seen=True)

    def lost(self, why: str) -> None:
        """The engine does not answer."""
        known = self.state
        seen = known.seen or os.path.exists(self.connection.socket)
        self.state = EngineState(why, known.cards, known.no_cards, seen=seen)

    def keep(self, task: asyncio.Task[Any]) -> None:
        """Hold on to a task that nobody waits for, until it is done."""
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)

    def entry(self, image: Image) -> Entry:
        """What runs first in containers of this image."""
        if not self.gated:
            return "plain"
        if self._shells.get(image.id, True):
            return "shell"
        return "static" if _is_static(STATIC_SHELL) else "plain"

    async def learn(self, image: Image, container: str) -> None:
        """Find out, by a container of it that has not been started, whether the image has a shell."""
        if self.gated and image.id not in self._shells:
            self._shells[image.id] = await self.connection.holds(container, "/bin/sh")

    async def furnish(self, gate: Gate, entry: Entry) -> None:
        """Put a static shell beside the gate, where the image has none."""
        if entry == "static" and not gate.shell.exists():
            await asyncio.to_thread(shutil.copyfile, STATIC_SHELL, gate.shell)
            gate.shell.chmod(0o755)


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


def _is_static(path: Path) -> bool:
    """Whether a program needs no loader: its ELF has no interpreter."""
    try:
        head = path.read_bytes()[:4096]
    except OSError:
        return False
    return head[:4] == b"\x7fELF" and b"/ld-" not in head


def _booted_at() -> float:
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0


async def _nothing_staged(launch: Launch) -> Staged | None:
    """Before there is anybody who stages."""
    return None
