# ruff: noqa: PTH112 - pathlib would weigh on every fork
"""How a job's first process comes to be: own session, submitter's rights, umask and directory, nothing inherited."""

from __future__ import annotations

import errno
import os
import signal

from . import order as orders
from .confinement import confine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

#: Every signal, and those that can have a disposition.
EVERY = frozenset(signal.valid_signals())
_DEFAULTED = EVERY - {signal.SIGKILL, signal.SIGSTOP}
#: What the machine is short of for a while: processes, memory, descriptors. It passes, and so nothing fails for it.
PASSING = frozenset((errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETOOMANYREFS))
#: Begins the line in which a child says that it is not confined; what else it says begins with an error's number.
_UNCONFINED = "unconfined"


class LaunchError(Exception):
    """It did not start, and why. ``passing``: for want of something that there may be again."""

    def __init__(self, why: str, cause: Exception | None = None) -> None:
        super().__init__(why)
        self.passing = getattr(cause, "errno", None) in PASSING


def start(order: orders.Order, out: int, err: int) -> tuple[int, str | None]:
    """Run the order's program with these two as its stdout and stderr. Every signal must be blocked.

    Returns its pid, and why it could not be kept from cards that are not its own, where that is so. Who runs as the
    daemon's own user is not kept from any: root could undo it, and nobody else can do it.

    Raises:
        LaunchError: it did not start.
    """
    try:
        return (_spawn(order, out, err), None) if order.uid is None or _is_us(order) else _fork(order, out, err)
    except OSError as error:
        raise LaunchError(f"cannot run {order.argv[0]!r}: {error.strerror or error}", error) from error
    except (ValueError, LookupError) as error:  # a NUL in an argument, no argument at all
        raise LaunchError(f"cannot run {' '.join(order.argv)!r}: {error}") from error


def become_submitter(order: orders.Order) -> None:
    """Take on the rights and the umask that the order's job has, for good. Only in a child: there is no way back.

    Raises:
        LaunchError: it did not work.
    """
    os.umask(order.umask)
    if order.uid is None or _is_us(order):
        return
    uid, gid = order.uid, order.gid
    assert gid is not None
    try:
        os.setgroups(list(order.groups))
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise LaunchError(f"cannot run {order.argv[0]!r} as user {uid}: {error.strerror}") from error
    if os.getresuid() != (uid,) * 3 or os.getresgid() != (gid,) * 3 or set(os.getgroups()) != set(order.groups):
        raise LaunchError(f"cannot run {order.argv[0]!r} as user {uid}: the change of user did not hold")


def _is_us(order: orders.Order) -> bool:
    """Whether nothing would change by becoming the order's user: root's own jobs under root's daemon."""
    same = order.uid == os.getuid() == os.geteuid() and order.gid == os.getgid() == os.getegid()
    return same and set(order.groups) == set(os.getgroups())


def _spawn(order: orders.Order, out: int, err: int) -> int:
    """Start as the user we are. posix_spawn costs half of a fork; it inherits the umask and the directory."""
    ours = os.umask(order.umask)
    try:
        _enter(order)
        return os.posix_spawn(
            _program(order), order.argv, order.environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, out, 1), (os.POSIX_SPAWN_DUP2, err, 2)],
            setsid=True, setsigmask=(), setsigdef=_DEFAULTED,
        )  # fmt: skip
    finally:
        os.umask(ours)
        os.chdir("/")


def _fork(order: orders.Order, out: int, err: int) -> tuple[int, str | None]:
    """Start as the submitter: whatever looks at their files happens after the change, as them."""
    errors, errors_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            # Root's own jobs come here too: a shell of root's has groups that a service has not.
            if order.away and order.uid != os.getuid() and (unconfined := confine(order.away)):
                os.write(errors_end, f"{_UNCONFINED} {unconfined}\n".encode(errors="replace"))
            _become_job(order, out, err)
        except LaunchError as error:
            os.write(errors_end, f"0 {error}".encode(errors="replace"))
        except (OSError, ValueError, LookupError) as error:
            why = getattr(error, "strerror", None) or error
            number = getattr(error, "errno", None) or 0
            os.write(errors_end, f"{number} cannot run {order.argv[0]!r}: {why}".encode(errors="replace"))
        finally:
            os._exit(127)
    os.close(errors_end)
    with open(errors, "rb") as file:
        said = file.read().decode(errors="replace")
    unconfined = None
    if said.startswith(_UNCONFINED):
        first, _, said = said.partition("\n")
        unconfined = first.partition(" ")[2]
    if said:
        os.waitpid(pid, 0)
        number, _, why = said.partition(" ")
        raise LaunchError(why, OSError(int(number), why))
    return pid, unconfined


def _program(order: orders.Order) -> str:
    """Its command where that has a slash, else the first such program on the job's own PATH."""
    name = order.argv[0]
    if not name:
        raise ValueError("its first word is empty")
    if "/" in name:
        return name
    for directory in order.environment.get("PATH", os.defpath).split(":"):
        path = f"{directory}/{name}" if directory else name
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    raise FileNotFoundError(errno.ENOENT, "No such program on its PATH")


def _enter(order: orders.Order) -> None:
    try:
        os.chdir(order.cwd)
    except OSError as error:
        raise LaunchError(f"cannot run {order.argv[0]!r} in {order.cwd!r}: {error.strerror}") from error


def _become_job(order: orders.Order, out: int, err: int) -> NoReturn:
    """In the child: its own session, its submitter's rights, then the job.

    Raises:
        LaunchError: the change of user failed, or the directory cannot be entered.
        OSError: the program cannot be run.
    """
    signal.set_wakeup_fd(-1)
    os.setsid()
    os.dup2(out, 1)
    os.dup2(err, 2)
    become_submitter(order)
    _enter(order)
    for number in _DEFAULTED:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.execve(_program(order), order.argv, order.environment)
