"""Who is at the other end of a connection, as the kernel says, and what they may do.

Credentials are those of the moment of connect(2), read once per connection (unix(7): SO_PEERCRED, SO_PEERGROUPS). A
pid is never part of a decision: it may belong to another process by now.
"""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from dataclasses import dataclass, field
from typing import Protocol

from runners.errors import NotAllowed
from runnersd.model import Booking, Job

#: Linux's SO_PEERGROUPS; the socket module of Python 3.11 does not name it.
SO_PEERGROUPS = 59
_UCRED = struct.Struct("iII")
#: The most that socket.getsockopt can be asked for: 256 groups.
_GROUPS_SIZE = 1024


class HasOptions(Protocol):
    """A socket, or what an event loop shows of one."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        """As socket.socket.getsockopt."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who connected. ``pid`` is for the log only."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    pid: int = 0


def peer_of(connection: HasOptions) -> Peer:
    """The credentials of the process that connected.

    Raises:
        OSError: the kernel does not tell; such a connection must be dropped.
    """
    pid, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, _GROUPS_SIZE)
        groups = struct.unpack(f"{len(raw) // 4}I", raw)
    except OSError:
        # More groups than Python can ask for, or a kernel before 4.13: what the group database says of the user.
        groups = tuple(os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)) if _known(uid) else ()
    return Peer(uid, gid, groups, pid)


def _known(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


@dataclass(slots=True)
class Names:
    """Users' names, looked up once each: the database may be on the network."""

    known: dict[int, str] = field(default_factory=dict)

    def of(self, uid: int) -> str:
        """The user's name, or the number as text for a user who has none."""
        if uid not in self.known:
            try:
                self.known[uid] = pwd.getpwuid(uid).pw_name
            except KeyError:
                return str(uid)
        return self.known[uid]


def group_id(name: str | None) -> int | None:
    """The group's number; None when there is no such group, or no name."""
    if name is None:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


@dataclass(frozen=True, slots=True)
class Access:
    """Who may do what. ``system``: the daemon serves the machine; else its own user (``uid``) and root alone."""

    system: bool
    uid: int
    operators: int | None = None  #: the group of operators beside root, where the daemon serves the machine

    def admits(self, peer: Peer) -> bool:
        """Whether they are answered at all. For the machine's daemon the socket file's mode has said so already."""
        return self.system or peer.uid in (0, self.uid)

    def is_operator(self, peer: Peer) -> bool:
        """Whether they may change everybody's jobs, and the daemon itself."""
        if peer.uid == 0:
            return True
        if not self.system:
            return peer.uid == self.uid
        return self.operators is not None and (peer.gid == self.operators or self.operators in peer.groups)

    def owns(self, peer: Peer, job: Job) -> bool:
        """Whether the job is theirs to see all of and to change."""
        return job.pipeline.submitter.uid == peer.uid or self.is_operator(peer)

    def check_operator(self, peer: Peer, act: str) -> None:
        """Refuse whoever is no operator.

        Raises:
            NotAllowed: with what they wanted to do.
        """
        if not self.is_operator(peer):
            raise NotAllowed(f"cannot {act}: that takes an operator (root, or a member of the operators' group)")

    def check_owner(self, peer: Peer, job: Job, act: str) -> None:
        """Refuse whoever neither owns the job nor is an operator.

        Raises:
            NotAllowed: with what they wanted to do, to which job, and whose it is.
        """
        if not self.owns(peer, job):
            owner = job.pipeline.submitter.user or f"uid {job.pipeline.submitter.uid}"
            raise NotAllowed(f"cannot {act} job {job.id}: it belongs to {owner}; ask them or an operator")

    def check_booker(self, peer: Peer, booking: Booking) -> None:
        """Refuse to cancel a booking for whoever neither made it nor is an operator.

        Raises:
            NotAllowed: with which booking, and whose it is.
        """
        if booking.uid != peer.uid and not self.is_operator(peer):
            owner = booking.user or f"uid {booking.uid}"
            raise NotAllowed(f"cannot cancel booking {booking.id}: it belongs to {owner}; ask them or an operator")
