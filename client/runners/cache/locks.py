"""Who builds a cache, and who reads it: flocks, which the kernel lets go of however their holder ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
import weakref
from typing import Any

from runners.errors import NotAllowed

from . import layout
from .layout import CacheError, Directory

#: What flock says on a file system that has none.
_NONE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)
#: What the kernel says where we may not write: another user's, or mounted to be read.
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)


def flock(fd: int, operation: int, where: str) -> bool:
    """Lock a file; False when another holds it (with ``LOCK_NB``).

    Raises:
        CacheError: the file system has no locks.
    """
    try:
        fcntl.flock(fd, operation)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NONE:
            raise CacheError(
                f"cannot lock {where}: its file system has no flock ({error.strerror}); keep caches on a local disk, "
                "or on a network file system that locks"
            ) from None
        raise
    return True


class Lease:
    """A reader's hold on a cache: nobody deletes it. Let go of by :meth:`close`, by the last process that has it, or
    when it is collected. A fork keeps it; so does each process for itself.
    """

    __slots__ = ("__weakref__", "_finalize", "fd")

    def __init__(self, fd: int, note: bool = True) -> None:
        self.fd = fd
        self._finalize = weakref.finalize(self, _let_go if note else os.close, fd)

    def close(self) -> None:
        """Let go, and ``note`` that it was in use until now."""
        self._finalize()


def _let_go(fd: int) -> None:
    _note_use(fd)
    os.close(fd)


def _note_use(fd: int) -> None:
    try:
        os.utime(fd)
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise


def new_lease(folder: int, directory: Directory, name: str) -> Lease:
    """Make the lease file of a cache that is being built, and hold it."""
    fd = os.open(layout.LEASE, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=folder)
    lease = Lease(fd)
    # Whoever may add caches to the directory may say that they have used this one.
    os.fchmod(fd, os.fstat(fd).st_mode | os.fstat(directory.fd).st_mode & 0o022)
    flock(fd, fcntl.LOCK_SH, directory.file(name, layout.LEASE))
    return lease


def take_lease(directory: Directory, id: str, folder: int, *, note: bool = True) -> Lease | None:
    """Hold a finished cache, and ``note`` that it is used now; None when it has been taken away meanwhile."""
    where = directory.file(id, layout.LEASE)
    try:
        fd = os.open(layout.LEASE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if not same_file(directory, id, folder):
            return None
        raise CacheError(
            f"cannot use cache {directory.file(id)}: its lease cannot be opened ({error.strerror}); remove it with "
            f"`runners-client caches rm {id}`"
        ) from None
    lease = Lease(fd, note)
    flock(fd, fcntl.LOCK_SH, where)  # who deletes holds it for the moment of a rename
    if not same_file(directory, f"{id}/{layout.LEASE}", fd):
        lease.close()
        return None
    if note:
        _note_use(fd)
    return lease


def same_file(directory: Directory, name: str, fd: int) -> bool:
    """Whether what has this name is still what was opened."""
    try:
        now = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return os.path.samestat(now, os.fstat(fd))


# -- the builder's -----------------------------------------------------------------------------------------------------

#: Locks that this process holds. A process that it forks must not keep them after it has died.
_held: set[int] = set()


def _forget_in_child() -> None:
    for fd in _held:
        os.close(fd)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)


class BuildLock:
    """The lock of one cache's builder, held. Its file says who that is; it is removed with the lock."""

    __slots__ = ("_directory", "_fd", "_name", "_own", "_pid")

    def __init__(self, directory: Directory, name: str, fd: int, own: bool) -> None:
        self._directory, self._name, self._fd, self._own = directory, name, fd, own
        self._pid = os.getpid()
        _held.add(fd)

    def write(self, record: dict[str, Any]) -> None:
        """Say who builds, for those who wait."""
        if self._own:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, json.dumps(record).encode(), 0)

    def release(self) -> None:
        """Let go. The file is removed first: who waits at it finds that out, and looks again."""
        if os.getpid() != self._pid:
            return  # a process that was forked in the middle has nothing to let go of
        try:
            os.unlink(self._name, dir_fd=self._directory.fd)
        except OSError as error:
            if error.errno not in (*_NOT_OURS, errno.ENOENT):  # in a sticky directory it may be another's
                raise
        _held.discard(self._fd)
        os.close(self._fd)


def take_build_lock(directory: Directory, id: str, *, wait: bool) -> BuildLock | None:
    """Lock the building of a cache. Without ``wait`` None when another holds it."""
    name = layout.LOCK_PREFIX + id
    while True:
        fd, own = _open_lock(directory, name)
        try:
            if not flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), directory.file(name)):
                os.close(fd)
                return None
            if same_file(directory, name, fd):
                _check_locks_hold(directory, name)
                return BuildLock(directory, name, fd, own)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # its holder has removed it: the next one has another file


def _open_lock(directory: Directory, name: str) -> tuple[int, bool]:
    """The lock's file, made if need be, and whether we may write to it (a network file system asks for that)."""
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        # Made only where it is not: in a sticky directory the kernel refuses O_CREAT for a file of another user.
        with contextlib.suppress(FileNotFoundError):
            try:
                return os.open(name, os.O_RDWR | flags, dir_fd=directory.fd), True
            except OSError as error:
                if error.errno not in _NOT_OURS:
                    raise
                return os.open(name, os.O_RDONLY | flags, dir_fd=directory.fd), False
        try:
            return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags, 0o644, dir_fd=directory.fd), True
        except FileExistsError:
            continue  # another was faster
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise
            raise NotAllowed(f"cannot build a cache in {directory.path}: you may not write there") from None


def _check_locks_hold(directory: Directory, name: str) -> None:
    """Some file systems grant every lock. Building a cache twice at once is what this would be found out by."""
    with contextlib.suppress(FileNotFoundError):
        second = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory.fd)
        try:
            if flock(second, fcntl.LOCK_SH | fcntl.LOCK_NB, directory.file(name)):
                raise CacheError(
                    f"cannot lock {directory.file(name)}: its file system grants what another holds; keep caches "
                    "on a local disk"
                )
        finally:
            os.close(second)


def builder_of(directory: Directory, id: str) -> dict[str, Any]:
    """Who builds a cache, as their lock says: `pid`, `user`, `job`, `since`; empty when that is not known."""
    try:
        found = json.loads(layout.read_file(directory.fd, layout.LOCK_PREFIX + id, 65536))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict) or not os.path.exists(f"/proc/{found.get('pid')}"):
        return {}
    return found


def builder_record(who: dict[str, Any]) -> dict[str, Any]:
    """What :func:`builder_of` is to find of us."""
    return {"pid": os.getpid(), "since": time.time(), "user": who["user"], "job": who["job"]}
