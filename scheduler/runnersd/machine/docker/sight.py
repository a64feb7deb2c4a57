"""One look at an attempt's container, through the engine's eyes and the kernel's, and what earlier looks had seen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from runnersd.in_thread import in_thread
from runnersd.machine.docker import body, kernel, result
from runnersd.machine.docker.connection import Connection
from runnersd.machine.docker.errors import EngineError, NotFound
from runnersd.machine.docker.reconcile import Look, Status
from runnersd.machine.docker.record import RecordFile
from runnersd.machine.host.processes import Process
from runnersd.model import RunName

#: Seconds between two looks that count as one ghost's.
GHOST_EVERY = 5.0


class Sight:
    """Of one attempt, by its ``record``."""

    def __init__(self, run: RunName, record: RecordFile, connection: Connection) -> None:
        self._run, self._record, self._connection = run, record, connection
        self._ghostly, self._ghost_seen = 0, 0.0
        self._doubted: float | None = None

    async def look(self, found: Callable[[dict[str, Any]], None], *, gone: bool) -> tuple[Look, dict[str, Any] | None]:
        """A look, and all that the engine says. ``found`` is told of a container whose making was not answered;
        ``gone`` is whether the kernel has said that nothing of it lives.

        Raises:
            LaunchFailed: what ``found`` raises.
        """
        said = self._record.said
        seen: dict[str, Any] | None = None
        status: Status = "absent"
        try:
            seen = await self._connection.inspect(said.container or body.name_of(self._run))
        except NotFound:
            status = "absent"
        except EngineError:
            return Look("unreachable", True), None
        else:
            status = result.status(seen)
            if said.container is None:
                found(seen)
        same = True
        if status in ("created", "ended") and said.instance is not None:
            try:  # after it was asked: whoever answers now has been there all the time
                same = await self._connection.instance() in (None, said.instance)
            except EngineError:
                return Look("unreachable", True), None
        alive: list[Process] = []
        if said.container is not None and not (gone and status == "ended"):
            alive = await in_thread(kernel.alive, said.container)
        return self._weighed(status, bool(alive), same), seen

    def _weighed(self, status: Status, alive: bool, same: bool) -> Look:
        """The look beside those before it: how often it was a ghost, and for how long it has been in doubt."""
        ghostly, now = 0, asyncio.get_running_loop().time()
        self._doubted = (self._doubted or now) if status == "created" and not alive else None
        if status == "running" and not alive:
            if self._ghostly == 0 or now - self._ghost_seen >= GHOST_EVERY:
                ghostly, self._ghostly, self._ghost_seen = self._ghostly, self._ghostly + 1, now
        else:
            self._ghostly = 0
        return Look(status, alive, same, ghostly, now - self._doubted if self._doubted is not None else 0.0)
