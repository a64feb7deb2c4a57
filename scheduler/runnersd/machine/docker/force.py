"""Signals to a container's processes: by the engine, or past it when it is silent, or denies that there are any."""

from __future__ import annotations

import asyncio
import signal

from runnersd.in_thread import in_thread
from runnersd.machine.docker import kernel
from runnersd.machine.docker.connection import Connection
from runnersd.machine.docker.errors import Conflict, EngineError, NotFound
from runnersd.machine.docker.record import RecordFile
from runnersd.machine.host.processes import Process, send

#: Seconds for the engine to pass a signal on, before it is sent past it.
_PASS_ON = 5.0


class Force:
    """For one attempt, whose container and first process are in its record."""

    def __init__(self, connection: Connection, record: RecordFile) -> None:
        self._connection, self._record = connection, record

    async def signal(self, number: int) -> None:
        """Send it to the first process. Nothing happens where there is none."""
        said = self._record.said
        if said.container is None:
            return
        try:
            async with asyncio.timeout(_PASS_ON):
                await self._connection.kill(said.container, number)
        except (Conflict, NotFound):
            return  # it does not run
        except (EngineError, TimeoutError):
            if said.pid is not None and said.start is not None:
                send(Process(said.pid, "?", 0, 0, 0, said.start), number)

    async def kill(self) -> None:
        """Send SIGKILL to all of it."""
        container = self._record.said.container
        if container is None:
            return
        try:
            async with asyncio.timeout(_PASS_ON):
                await self._connection.kill(container, signal.SIGKILL)
        except (EngineError, TimeoutError):
            await in_thread(kernel.kill, container)

    async def end(self) -> None:
        """Kill all of it. Nothing of it is alive when this returns."""
        await self.kill()
        container = self._record.said.container
        if container is not None:
            await kernel.end(container)
