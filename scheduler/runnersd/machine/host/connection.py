"""The daemon's end of its spawner: starts it, sends it orders without ever waiting, hears what it answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runnersd.machine.host import order as orders

#: Seconds a spawner has to say that it is ready; it first waits for launches an earlier daemon left in flight.
READY = 20.0

_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from host.spawner import main; main()"


class Connection:
    """One spawner. ``heard`` gets each of its messages with their descriptors, ``died`` is called once if it goes."""

    def __init__(
        self, lock: str, heard: Callable[[tuple[Any, ...], list[int]], None], died: Callable[[], None]
    ) -> None:
        self.pid: int | None = None
        self._lock = lock
        self._heard = heard
        self._died = died
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._channel: socket.socket | None = None
        self._process: int | None = None
        self._waiting: deque[tuple[tuple[str, bytes | None], list[int], int | None]] = deque()

    async def start(self) -> None:
        """Start the spawner and wait until it is ready.

        Raises:
            OSError: it could not be started, or did not answer in time; the message says which.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._channel = ours
        home = Path(__file__).parent.parent
        keep = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}  # it may need it itself
        with theirs:
            number = theirs.fileno()
            command = [
                sys.executable,
                "-I",
                "-S",
                "-E",
                "-X",
                "utf8",
                "-c",
                _PROGRAM,
                str(home),
                str(number),
                self._lock,
            ]
            try:
                await asyncio.to_thread(
                    subprocess.run, command, pass_fds=[number], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL, cwd="/", env=keep, check=True, timeout=READY,
                )  # fmt: skip
            except subprocess.SubprocessError as error:
                raise OSError(f"cannot start the spawner of host jobs: {error}") from error
        self._loop.add_reader(ours.fileno(), self._read)
        try:
            await asyncio.wait_for(asyncio.shield(self._ready), READY)
        except TimeoutError as error:
            raise OSError(
                f"cannot start the spawner of host jobs: an earlier daemon's launch still hangs and holds {self._lock}"
            ) from error

    def send(self, run: str, payload: bytes, descriptors: Sequence[int]) -> None:
        """Order one attempt. The descriptors are sent as they are when their turn comes, and stay the caller's."""
        if len(payload) <= orders.INLINE:
            self._waiting.append(((run, payload), list(descriptors), None))
        else:
            memory = os.memfd_create("order", os.MFD_CLOEXEC)
            with open(memory, "wb", closefd=False) as file:
                file.write(payload)
            self._waiting.append(((run, None), [memory, *descriptors], memory))
        self._write()

    def close(self) -> None:
        """Let the spawner go: it ends when it sees that."""
        self._drop_channel()
        self._drop_process()
        self._drop_waiting()
        self._ready.cancel()

    def _write(self) -> None:
        channel = self._channel
        if channel is None:
            return
        while self._waiting:
            message, descriptors, memory = self._waiting[0]
            try:
                orders.send(channel, message, descriptors)
            except BlockingIOError:
                self._loop.add_writer(channel.fileno(), self._write)
                return
            except ConnectionError:  # it is gone; what it was sent is sent again to the next one
                self._drop_waiting()
                break
            except OSError as error:
                self._heard(("failed", message[0], f"cannot hand it to a supervisor: {error.strerror}"), [])
            self._waiting.popleft()
            if memory is not None:
                os.close(memory)
        self._loop.remove_writer(channel.fileno())

    def _read(self) -> None:
        channel = self._channel
        while channel is not None:
            try:
                received = orders.receive(channel)
            except BlockingIOError:
                return
            except ConnectionError:
                received = None
            if received is None:
                self._drop_channel()
                self._gone()
                return
            message, descriptors = received
            if message[0] == "ready":
                self.pid, self._process = message[1], descriptors[0]
                self._loop.add_reader(self._process, self._gone)
                if not self._ready.done():
                    self._ready.set_result(None)
            else:
                self._heard(message, descriptors)
            channel = self._channel

    def _gone(self) -> None:
        """It died. Supervisors that it forked just before may still answer: the channel stays until its end."""
        self._drop_process()
        self._drop_waiting()
        if not self._ready.done():
            self._ready.set_exception(OSError("cannot start the spawner of host jobs: it died"))
            with contextlib.suppress(OSError):
                self._ready.exception()
        died, self._died = self._died, _nothing
        died()

    def _drop_channel(self) -> None:
        if self._channel is not None:
            self._loop.remove_reader(self._channel.fileno())
            self._loop.remove_writer(self._channel.fileno())
            self._channel.close()
            self._channel = None

    def _drop_process(self) -> None:
        if self._process is not None:
            self._loop.remove_reader(self._process)
            os.close(self._process)
            self._process = None

    def _drop_waiting(self) -> None:
        for _, _, memory in self._waiting:
            if memory is not None:
                os.close(memory)
        self._waiting.clear()


def _nothing() -> None:
    """Its death is told once."""
