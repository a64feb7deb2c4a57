"""Work on files with the rights of another user, in a thread of its own.

Linux keeps the identity that files are checked against for each thread (setfsuid(2)), as user-space file servers use
it; the rest of the daemon keeps its own.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)
#: setgroups as a system call acts on the calling thread alone; the C library's acts on all of them.
_SETGROUPS = {"x86_64": 116}.get(platform.machine(), 159)


class _Done(Generic[T]):
    """What came of it."""

    value: T
    error: BaseException | None = None


def as_user(work: Callable[[], T], uid: int | None, gid: int = 0, groups: Sequence[int] = ()) -> T:
    """Do it as this user, or with this process's own rights where there is none; what it returns or raises."""
    if uid is None or (uid == 0 and os.geteuid() == 0):
        return work()
    done: _Done[T] = _Done()

    def run() -> None:
        try:
            _become(uid, gid, groups)
            done.value = work()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is for whoever asked
            done.error = error

    # The thread ends with the rights. It may hang with its file system, and then does not keep the daemon from ending.
    thread = threading.Thread(target=run, name=f"files as {uid}", daemon=True)
    thread.start()
    thread.join()
    if done.error is not None:
        raise done.error
    return done.value


def _become(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Take on a user's rights to files, in this thread. Capabilities to override them go with root's identity.

    Raises:
        PermissionError: it did not hold.
    """
    array = (ctypes.c_uint32 * len(groups))(*groups)
    if _libc.syscall(_SETGROUPS, len(groups), array) != 0:
        raise PermissionError(ctypes.get_errno(), "cannot take on the submitter's groups")
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)
    # Asked to become nobody, both say who they are, and change nothing.
    if _libc.setfsgid(-1) != gid or _libc.setfsuid(-1) != uid:
        raise PermissionError(1, "cannot take on the submitter's rights to files")
