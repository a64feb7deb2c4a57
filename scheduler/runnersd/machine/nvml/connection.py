"""Starts the NVML process and talks to it, with a deadline on every driver call and never a wait inside the loop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runnersd.child_process import ChildProcess
from runnersd.model import Xid

PROGRAM = Path(__file__).with_name("worker.py")

_LENGTH = struct.Struct(">I")
_ANSWER_MAX = 16 << 20
_REQUESTS = {more: _LENGTH.pack(len(body)) + body for more, body in ((False, b"{}"), (True, b'{"topology":true}'))}


class NvmlProcess:
    """One NVML process.

    Raises:
        OSError: it could not be started.
    """

    def __init__(self, environment: Mapping[str, str] | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._child = ChildProcess(["-X", "faulthandler", os.fspath(PROGRAM)], self._readable, environment=environment)
        self.process, self._socket = self._child.process, self._child.socket
        self._received = bytearray()
        self._heard = self._loop.time()
        self._pending: asyncio.Future[dict[str, Any]] | None = None
        self.started = self._heard
        self.answers = 0  #: how many it has given
        self.xids: list[Xid] = []  #: what it has reported, until somebody takes it

    async def look(self, limit: float, *, topology: bool = False) -> dict[str, Any] | None:
        """Its answer, with the ``topology`` if that is asked for.

        None when ``limit`` seconds passed and it is still busy, call after call: then ask again.

        Raises:
            TimeoutError: not a sign of life for ``limit`` seconds: a driver call hangs.
            EOFError: it has ended; the message says how.
            ValueError: it sent something that is not an answer.
        """
        begun = self._loop.time()
        if self._pending is None:
            self._pending = self._loop.create_future()
            self._heard = begun
            self._send(_REQUESTS[topology])
        while not self._pending.done():
            now = self._loop.time()
            if now - self._heard >= limit:
                raise TimeoutError
            if now - begun >= limit:
                return None
            await asyncio.wait({self._pending}, timeout=min(begun, self._heard) + limit - now)
        answer, self._pending = self._pending, None
        try:
            seen = answer.result()
        except EOFError:
            raise EOFError(await self._ending()) from None
        self.answers += 1
        return seen

    def kill(self) -> None:
        """End it at once and forget the socket. In a hanging system call it stays a while, or for ever."""
        self._child.hang_up()
        self.process.kill()
        self._fail(EOFError())
        if self._pending is not None:
            self._pending.exception()  # perhaps nobody waits for it any more

    def _send(self, request: bytes) -> None:
        try:
            self._socket.send(request)
        except (BrokenPipeError, ConnectionResetError):
            self._fail(EOFError())

    def _readable(self) -> None:
        try:
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self._loop.remove_reader(self._socket.fileno())
            self._fail(EOFError())
            return
        self._heard = self._loop.time()
        self._received += data
        self._take_frames()

    def _take_frames(self) -> None:
        while len(self._received) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._received)
            if size > _ANSWER_MAX:
                self._fail(ValueError(f"a frame of {size} bytes"))
                return
            end = _LENGTH.size + size
            if len(self._received) < end:
                return
            body = bytes(self._received[_LENGTH.size : end])
            del self._received[:end]
            if body:
                self._take_answer(body)

    def _take_answer(self, body: bytes) -> None:
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            self._fail(ValueError("a frame that is not JSON"))
            return
        if not isinstance(answer, dict):
            self._fail(ValueError("a frame that is not an object"))
        elif "xids" in answer:
            self._take_xids(answer["xids"])
        elif self._pending is not None and not self._pending.done():
            self._pending.set_result(answer)

    def _take_xids(self, said: Any) -> None:
        try:
            self.xids += [Xid(str(uuid), int(number)) for uuid, number in said]
        except (TypeError, ValueError):
            self._fail(ValueError("a report of another shape"))

    def _fail(self, error: Exception) -> None:
        if self._pending is not None and not self._pending.done():
            self._pending.set_exception(error)

    async def _ending(self) -> str:
        """How it ended. It closes its socket a moment before it can be waited for."""
        for _ in range(20):
            if (status := self.process.poll()) is not None:
                break
            await asyncio.sleep(0.01)
        else:
            return "it closed its socket"
        return f"it was ended by {signal.Signals(-status).name}" if status < 0 else f"it exited with code {status}"
