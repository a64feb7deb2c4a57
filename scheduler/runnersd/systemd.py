"""What systemd and the daemon tell each other: readiness, sockets handed over, the watchdog.

The protocols are those of sd_notify(3), sd_listen_fds(3) and sd_watchdog_enabled(3), spoken without libsystemd. Under
anything but systemd every function here answers "no" and does nothing.

systemd speaks through environment variables, which must not reach a job or a helper process: the first call of any
function here reads them all and takes them out of ``os.environ``.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import cache

from runners.errors import InvalidConfig

#: systemd passes its sockets from this descriptor on.
LISTEN_FDS_START = 3

#: Seconds a message may wait for room in systemd's queue; the loop stands still meanwhile.
SEND_TIMEOUT = 1.0

_VARIABLES = (
    "NOTIFY_SOCKET",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
)


@dataclass(frozen=True, slots=True)
class Handover:
    """What a service manager said in the environment of the process it started."""

    notify_socket: str = ""  #: a path, or an abstract name that starts with ``@``
    listen_names: tuple[str, ...] = ()  #: one for each descriptor passed, in their order
    watchdog: float | None = None  #: seconds of silence after which the process is taken for hung

    @classmethod
    def take(cls, environ: MutableMapping[str, str], pid: int) -> Handover:
        """Read what ``environ`` says to the process ``pid``, and remove it whoever it was meant for.

        Raises:
            InvalidConfig: a variable that should be a number is none.
        """
        said = {name: environ.pop(name, "") for name in _VARIABLES}
        count = _number(said, "LISTEN_FDS") if _meant_for(said, "LISTEN_PID", pid) else 0
        names = said["LISTEN_FDNAMES"].split(":") if said["LISTEN_FDNAMES"] else []
        names += ["unknown"] * (count - len(names))
        # sd_watchdog_enabled: without WATCHDOG_PID it is meant for whoever reads it.
        ours = not said["WATCHDOG_PID"] or _meant_for(said, "WATCHDOG_PID", pid)
        silence = _number(said, "WATCHDOG_USEC") if ours else 0
        return cls(said["NOTIFY_SOCKET"], tuple(names[:count]), silence / 1e6 or None)


def notify(state: str) -> bool:
    """Tell systemd ``state``: lines such as ``READY=1``, ``STATUS=...``, ``WATCHDOG=1``, as in sd_notify(3).

    Returns:
        Whether it was told. False when nobody listens, or the message could not be delivered: a daemon that does its
        work has no reason to stop because its supervisor is away, and one that systemd misses is restarted by it.
    """
    name = _handover().notify_socket
    if not name:
        return False
    address = "\0" + name[1:] if name.startswith("@") else name
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(SEND_TIMEOUT)
        try:
            sender.sendto(state.encode(), address)
        except OSError:
            return False
    return True


def listen_sockets() -> dict[str, int]:
    """The listening sockets that systemd passed to this process: their names (``FileDescriptorName=``, else the socket
    unit's name) and descriptors, which no program started from here inherits. A name that comes again, as of a unit
    with several ``ListenStream=``, gets ``#2``, ``#3``.

    Raises:
        InvalidConfig: systemd announced a descriptor that is not open.
    """
    sockets: dict[str, int] = {}
    seen: dict[str, int] = {}
    for fd, name in enumerate(_handover().listen_names, LISTEN_FDS_START):
        try:
            fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.fcntl(fd, fcntl.F_GETFD) | fcntl.FD_CLOEXEC)
        except OSError as error:
            raise InvalidConfig(
                f"cannot listen on systemd's socket {name}: descriptor {fd}: {error.strerror}"
            ) from error
        seen[name] = seen.get(name, 0) + 1
        sockets[name if seen[name] == 1 else f"{name}#{seen[name]}"] = fd
    return sockets


def watchdog_interval() -> float | None:
    """Seconds between two ``WATCHDOG=1``: half of the silence that systemd allows. None when it does not watch."""
    silence = _handover().watchdog
    return None if silence is None else silence / 2


@cache
def _handover() -> Handover:
    return Handover.take(os.environ, os.getpid())


def _meant_for(said: dict[str, str], name: str, pid: int) -> bool:
    return bool(said[name]) and _number(said, name) == pid


def _number(said: dict[str, str], name: str) -> int:
    text = said[name]
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()):
        raise InvalidConfig(f"cannot read what systemd says: {name} is {text!r}, not a number")
    return int(text)
