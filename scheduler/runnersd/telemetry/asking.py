"""Asks a telemetry process for something and waits for the answer, one question at a time, with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from runners.errors import Unavailable
from runnersd.telemetry.frames import ANSWER
from runnersd.telemetry.process import TelemetryProcess

#: Questions that may wait for their turn.
MOST_WAITING = 16


class Asking:
    """A process that answers, started when there is a question and ended when there was none for ``idle`` seconds.

    ``act``: what it is asked to do, for messages. ``limit``: seconds an answer may take, with the turns before it.
    """

    def __init__(self, root: Path, environment: Mapping[str, str], *, act: str, limit: float, idle: float) -> None:
        self._act = act
        self._root, self._environment = root, environment
        self._limit, self._idle = limit, idle
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._closed = False
        self._process: TelemetryProcess | None = None
        self._buried: list[TelemetryProcess] = []
        self._answer: asyncio.Future[bytes] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, frame: bytes) -> bytes:
        """The answer.

        Raises:
            Unavailable: there is none, or not in time; the message says why.
        """
        if self._waiting >= MOST_WAITING:
            raise Unavailable(f"cannot {self._act} now: too many others do; try again")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._limit), self._turn:
                return await self._asked(frame)
        except TimeoutError:
            raise Unavailable(
                f"cannot {self._act}: it took more than {self._limit:g} s; ask for less, or later"
            ) from None
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """End the process; a question under way is given up."""
        self._closed = True
        self._discard()
        for process in self._buried:
            await process.wait(1.0)

    async def _asked(self, frame: bytes) -> bytes:
        try:
            try:
                body = await self._answered(frame)
            except EOFError:
                body = await self._answered(frame)  # it may have died long before it was asked; asking changes nothing
        except EOFError:
            raise Unavailable(f"cannot {self._act}: the process that does it ended; see the daemon's log") from None
        except OSError as error:
            raise Unavailable(f"cannot {self._act}: its process cannot be started: {error}") from error
        except asyncio.CancelledError:
            self._discard()  # it is busy with what nobody waits for any more
            raise
        self._timer = asyncio.get_running_loop().call_later(self._idle, self._discard)
        if body[:1] != ANSWER:
            raise Unavailable(f"cannot {self._act}: {body[1:].decode(errors='replace')}")
        return body[1:]

    async def _answered(self, frame: bytes) -> bytes:
        if self._closed:
            raise Unavailable(f"cannot {self._act}: the daemon is stopping")
        if self._timer is not None:
            self._timer.cancel()
        self._answer = asyncio.get_running_loop().create_future()
        if self._process is None:
            self._process = TelemetryProcess(self._root, self._environment, self._heard, self._gone)
        self._process.send(frame)
        return await self._answer

    def _heard(self, process: TelemetryProcess, body: bytes) -> None:
        if process is self._process and self._answer is not None and not self._answer.done():
            self._answer.set_result(body)

    def _gone(self, process: TelemetryProcess) -> None:
        if process is self._process:
            self._discard()

    def _discard(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._buried = [process for process in self._buried if not process.ended()]
        if self._process is not None:
            self._process.kill()
            self._buried.append(self._process)
            self._process = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(EOFError())
            self._answer.exception()  # perhaps nobody waits for it any more
