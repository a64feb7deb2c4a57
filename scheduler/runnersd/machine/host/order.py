"""What the daemon, its spawner and its supervisors say to each other: marshalled tuples over pairs of sockets.

    to the spawner       ("fork", order)                       with the new supervisor's end of its line first
    from the spawner     ("ready", pid)                        with the fence
                         ("broken", why)
    to a supervisor      ("run", order)                        with the fence first
                         ("stop", run, at_once)
                         ("signal", run, number)
    from a supervisor    ("started", at, pid, unconfined)      unconfined: why cards could not be kept from it, or None
                         ("over", code, finished, peak, truncated)
                         ("failed", why) or ("exists",)        in place of these two
    from the spawner     ("crowded", why)                      on that line, when it has no room for a supervisor

An order comes packed, or as None when it is too large for a message: then it is in a memory file, the second of the
descriptors. The locks of the attempt's cards come last. A supervisor has one attempt at a time, and is given the next
one only when it has said how the last one ended; what is asked of an attempt names it.
"""

from __future__ import annotations

import array
import marshal
import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

#: The largest message sent as it is; an order with a larger environment travels in a memory file.
INLINE = 1 << 16
#: The most descriptors a message may carry.
DESCRIPTORS = 128
_SAYING = 1 << 14  # bytes of what a supervisor says, at most
_CUT = int(socket.MSG_CTRUNC)  # as a flag it would be slow


class Order:
    """One attempt, as its supervisor needs it. ``uid`` is None where it runs as the daemon's own user.

    ``experiment`` is the folder whose record is told of it, if there is one. ``away`` are the minors of the cards that
    it must not be able to use.
    """

    __slots__ = (
        "argv", "away", "cwd", "environment", "err", "experiment", "gid", "grace", "groups", "log_max", "out", "record",
        "run", "uid", "umask", )  # fmt: skip

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
        experiment: str | None = None,
        away: Sequence[int] = (),
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
        self.experiment = experiment
        self.away = away

    def pack(self) -> bytes:
        """As bytes for :meth:`unpack`: both ends are the same interpreter."""
        return marshal.dumps({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def unpack(cls, data: bytes) -> Order:
        """The order that :meth:`pack` made."""
        return cls(**marshal.loads(data))


def packed(order: bytes) -> tuple[bytes | None, list[int]]:
    """A packed order as it is sent: itself, or the descriptor of a memory file (both ends are to close it).

    Raises:
        OSError: there is no room for one.
    """
    if len(order) <= INLINE:
        return order, []
    memory = os.memfd_create("order", os.MFD_CLOEXEC)
    with open(memory, "wb", closefd=False) as file:
        file.write(order)
    return None, [memory]


def taken(payload: bytes | None, descriptors: list[int]) -> tuple[Order, list[int]]:
    """An order as it was sent, and the locks among ``descriptors``, which are those after the message's own first."""
    if payload is not None:
        return Order.unpack(payload), descriptors
    memory, *locks = descriptors
    with open(memory, "rb") as file:
        file.seek(0)
        return Order.unpack(file.read()), locks


def send(channel: socket.socket, message: tuple[Any, ...], descriptors: Sequence[int] = ()) -> None:
    """Send one message with descriptors.

    Raises:
        BlockingIOError: the other end has not read what it was sent (only of a channel that does not block).
        OSError: the other end is gone.
    """
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    channel.sendmsg([marshal.dumps(message)], rights)


def tell(channel: socket.socket, message: tuple[Any, ...]) -> bool:
    """Send one message to somebody who may be gone; False when they are."""
    try:
        send(channel, message)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def receive(channel: socket.socket) -> tuple[tuple[Any, ...], list[int]] | None:
    """The next message and its descriptors (closed on exec); None when the other end is gone.

    There are all of its descriptors or, where this process has no room for them, none.

    Raises:
        BlockingIOError: there is none now (only of a channel that does not block).
    """
    space = socket.CMSG_SPACE(DESCRIPTORS * 4)
    data, rights, flags, _ = channel.recvmsg(INLINE + 4096, space, socket.MSG_CMSG_CLOEXEC)
    if not data:
        return None
    found = array.array("i")
    for level, kind, content in rights:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
    if flags & _CUT:
        while found:
            os.close(found.pop())
    return marshal.loads(data), found.tolist()


def listen(channel: socket.socket) -> tuple[tuple[Any, ...], list[int]] | None:
    """As :func:`receive`, from a supervisor: it sends no descriptors, and so this costs a fraction."""
    data = channel.recv(_SAYING)
    return (marshal.loads(data), []) if data else None
