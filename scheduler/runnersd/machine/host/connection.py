"""The daemon's end of its spawner: starts it, has it fork supervisors, sees it die."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from runnersd.in_thread import in_thread
from runnersd.machine.host.channel import Channel, Message, Refused

#: Seconds a spawner has to say that it is ready; it first waits for launches an earlier daemon left in flight.
READY = 20.0

_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from host.spawner import main; main()"

log = logging.getLogger(__name__)


class Connection:
    """One spawner. ``died`` is called once if it goes.

    ``fence`` is its lock, to be lent to each attempt that is ordered of a supervisor: the next spawner waits until
    nobody has it.
    """

    def __init__(self, lock: str, died: Callable[[], None]) -> None:
        self.pid: int | None = None
        self.fence = -1
        self._lock = lock
        self._died = died
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._channel: Channel | None = None

    async def start(self) -> None:
        """Start the spawner and wait until it is ready.

        Raises:
            OSError: it could not be started, or did not answer in time; the message says which.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel = Channel(ours, self._heard, self._gone)
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
                await in_thread(
                    subprocess.run, command, pass_fds=[number], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL, cwd="/", env=keep, check=True, timeout=READY,
                )  # fmt: skip
            except subprocess.SubprocessError as error:
                raise OSError(f"cannot start the spawner of host jobs: {error}") from error
        try:
            await asyncio.wait_for(asyncio.shield(self._ready), READY)
        except TimeoutError as error:
            raise OSError(
                f"cannot start the spawner of host jobs: an earlier daemon's launch still hangs and holds {self._lock}"
            ) from error

    def fork(self, payload: bytes | None, descriptors: Sequence[int], owned: Sequence[int], refused: Refused) -> None:
        """Have a supervisor made for this order; the first descriptor is its line (see `Channel.post`)."""
        assert self._channel is not None, "it was started"
        self._channel.post(("fork", payload), descriptors, owned, refused)

    def close(self) -> None:
        """Let the spawner go: it ends when it sees that."""
        if self._channel is not None:
            self._channel.close()
        self._let_go()
        self._ready.cancel()

    def _heard(self, message: Message, descriptors: list[int]) -> None:
        what, value = message
        if what == "broken":
            log.error("the spawner of host jobs failed: %s", value)
            return
        self.pid, (self.fence,) = value, descriptors
        if not self._ready.done():
            self._ready.set_result(None)

    def _gone(self) -> None:
        self._let_go()
        if not self._ready.done():
            self._ready.set_exception(OSError("cannot start the spawner of host jobs: it died"))
            with contextlib.suppress(OSError):
                self._ready.exception()
        died, self._died = self._died, _nothing
        died()

    def _let_go(self) -> None:
        if self.fence >= 0:
            os.close(self.fence)
            self.fence = -1


def _nothing() -> None:
    """Its death is told once."""
