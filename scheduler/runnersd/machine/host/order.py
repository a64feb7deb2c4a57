"""What the launcher asks of the spawner, the spawner hands to a supervisor, and what they answer."""

from __future__ import annotations

import array
import marshal
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

#: The largest message sent as it is; an order with a larger environment travels in a memory file.
INLINE = 1 << 16
#: The most descriptors a message may carry.
DESCRIPTORS = 128


class Order:
    """One attempt, as its supervisor needs it. ``uid`` is None where it runs as the daemon's own user."""

    __slots__ = (
        "argv", "cwd", "environment", "err", "gid", "grace", "groups", "log_max", "out", "record", "run", "uid",
        "umask", )  # fmt: skip

    def __init__(
        self,
        *,
        run: str,
        record: str,
        out: str,
        err: str,
        argv: tuple[str, ...],
        environment: dict[str, str],
        cwd: str,
        umask: int,
        grace: float,
        log_max: int,
        uid: int | None = None,
        gid: int | None = None,
        groups: Sequence[int] = (),
    ) -> None:
        self.run = run
        self.record = record
        self.out = out
        self.err = err
        self.argv = argv
        self.environment = environment
        self.cwd = cwd
        self.umask = umask
        self.grace = grace
        self.log_max = log_max
        self.uid = uid
        self.gid = gid
        self.groups = groups

    def pack(self) -> bytes:
        """As bytes for :meth:`unpack`: both ends are the same interpreter."""
        return marshal.dumps({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def unpack(cls, data: bytes) -> Order:
        """The order that :meth:`pack` made."""
        return cls(**marshal.loads(data))


def send(channel: socket.socket, message: tuple[Any, ...], descriptors: Sequence[int] = ()) -> None:
    """Send one message with descriptors.

    Raises:
        BlockingIOError: the other end has not read what it was sent (only of a channel that does not block).
        OSError: the other end is gone.
    """
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    channel.sendmsg([marshal.dumps(message)], rights)


def receive(channel: socket.socket) -> tuple[tuple[Any, ...], list[int]] | None:
    """The next message and its descriptors (closed on exec); None when the other end is gone.

    Raises:
        BlockingIOError: there is none now (only of a channel that does not block).
    """
    space = socket.CMSG_SPACE(DESCRIPTORS * 4)
    data, rights, _, _ = channel.recvmsg(INLINE + 4096, space, socket.MSG_CMSG_CLOEXEC)
    if not data:
        return None
    found = array.array("i")
    for level, kind, content in rights:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
    return marshal.loads(data), found.tolist()
