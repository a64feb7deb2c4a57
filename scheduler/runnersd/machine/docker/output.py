"""An attempt's output on its way into its logs: when the copy begins, and when all of it has come."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os

from runnersd.machine.docker.connection import Connection
from runnersd.machine.docker.logs import LogCopy
from runnersd.machine.docker.record import RecordFile

log = logging.getLogger(__name__)

#: Seconds without any of it after which the rest of an ended container's output is given up.
_SILENCE = 10.0
#: Bytes at the end of stderr in which its last line is looked for.
_LAST = 4096


class Output:
    """Of the attempt with this ``record``, into the files ``base``.out and .err."""

    def __init__(self, connection: Connection, record: RecordFile, base: str) -> None:
        self.ended = asyncio.Event()  #: set when its container has ended
        self._connection, self._record, self._base = connection, record, base
        self._logs: LogCopy | None = None
        self._copying: asyncio.Task[None] | None = None

    @property
    def truncated(self) -> bool:
        """Whether more came than is kept."""
        return self._logs is not None and self._logs.truncated

    @property
    def last_error(self) -> str:
        """The last line of its stderr."""
        with contextlib.suppress(OSError):
            with open(f"{self._base}.err", "rb") as file:
                file.seek(max(os.fstat(file.fileno()).st_size - _LAST, 0))
                lines = file.read().decode(errors="replace").strip().splitlines()
            return lines[-1][:500] if lines else ""
        return ""

    def copy(self) -> None:
        """Begin, once there is a container, and unless it has begun."""
        said = self._record.said
        if self._copying is None and said.container is not None:
            out, err = f"{self._base}.out", f"{self._base}.err"
            self._logs = LogCopy(self._connection, said.container, out, err, said.log_max)
            self._copying = asyncio.get_running_loop().create_task(self._logs.follow(self.ended))

    def go_on(self) -> None:
        """Its container has not ended after all, or was started again."""
        self.ended.clear()
        if self._copying is not None and self._copying.done():
            self._copying = None

    async def whole(self) -> bool:
        """Its container has ended: wait until all of its output is here, however much that is. False when it does not
        come."""
        self.ended.set()
        if self._record.said.starting:
            self.copy()  # it may have run and ended while nobody watched
        if self._copying is None or self._logs is None:
            return True
        while not self._copying.done():
            before = self._logs.received
            done, _ = await asyncio.wait([self._copying], timeout=_SILENCE)
            if not done and self._logs.received == before:
                log.warning("the last output in %s did not arrive: nothing came for %g s", self._base, _SILENCE)
                return False
        return True

    def close(self) -> None:
        """Leave off; the next daemon goes on."""
        if self._copying is not None and not self._copying.done():
            self._copying.cancel()
