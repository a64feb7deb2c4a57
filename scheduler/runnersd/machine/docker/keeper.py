"""Keeps the locks of containers' cards while the containers live, whatever becomes of the daemon.

A host job's supervisor inherits its cards' locks. A container has no process of ours, so one small process a daemon
holds them in its place: it is given the locks together with a descriptor of the container's first process, and lets go
of them when that has ended. It is outside of the daemon's tree, and ends when its daemon is gone and it holds nothing.

This module also runs in that process, whose interpreter loads nothing else of this project.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import select
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

#: Seconds it may take to start.
_READY = 20.0
#: Descriptors in one message.
_MOST = 128
_PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); import keeper; keeper.main(int(sys.argv[2]))"


class Keeper:
    """The daemon's end of it. Started when it is first needed, and again when it is gone."""

    def __init__(self) -> None:
        self._channel: socket.socket | None = None
        self._starting = asyncio.Lock()

    async def hold(self, process: int, locks: Sequence[int]) -> None:
        """Have the locks held until the process (a pidfd) has ended. The descriptors stay the caller's.

        Raises:
            OSError: it cannot be had.
        """
        if not locks:
            return
        from runnersd.in_thread import in_thread  # which is not to be had in the process that holds them

        async with self._starting:
            for attempt in range(2):
                if self._channel is None:
                    self._channel = await in_thread(_start)
                rights = array.array("i", [process, *locks])
                try:
                    self._channel.sendmsg([b"hold"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
                    return
                except ConnectionError:  # it was killed: another one holds from now on
                    self.close()
                    if attempt:
                        raise

    def close(self) -> None:
        """Let it go: it goes on while it holds something."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None


def _start() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-I", "-S", "-E", "-c", _PROGRAM, str(Path(__file__).parent), str(theirs.fileno())]
        try:
            subprocess.run(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, cwd="/", env={}, check=True, timeout=_READY,
            )  # fmt: skip
        except subprocess.SubprocessError as error:
            ours.close()
            raise OSError(f"cannot start what keeps the cards of containers: {error}") from error
    ours.settimeout(_READY)
    return ours


def main(number: int) -> None:
    """Hold what is given over the socket with this number."""
    channel = socket.socket(fileno=number)
    if os.fork():
        os._exit(0)  # our parent is init now
    os.setsid()
    held: dict[int, list[int]] = {}  # the pidfd of each process, and the locks that are held for it
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    listening = True
    while listening or held:
        for fd, _ in poll.poll():
            if fd == channel.fileno():
                listening = _take(channel, held, poll)
                if not listening:
                    poll.unregister(channel)
            else:
                poll.unregister(fd)
                for one in (fd, *held.pop(fd)):
                    os.close(one)


def _take(channel: socket.socket, held: dict[int, list[int]], poll: select.poll) -> bool:
    """Take one message's descriptors; False when nothing will ever come."""
    with contextlib.suppress(ConnectionError):
        data, rights, _, _ = channel.recvmsg(16, socket.CMSG_SPACE(_MOST * 4), socket.MSG_CMSG_CLOEXEC)
        if data:
            found = array.array("i")
            for level, kind, content in rights:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    found.frombytes(content[: len(content) - len(content) % found.itemsize])
            if found:
                process, *locks = found.tolist()
                held[process] = locks
                poll.register(process, select.POLLIN)
            return True
    return False
