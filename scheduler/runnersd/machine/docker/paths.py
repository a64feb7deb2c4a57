"""What a container may be given of the host's files: looked up with the submitter's rights, and looked at again inside.

A path is opened as the submitter would open it, so that a job mounts nothing that its owner cannot read; what was
opened, and not its name, is then judged and remembered by device and inode. Until it has been judged it is only held,
not opened: opening a device or a pipe does things. Links of /proc are not followed: through them a path leads into
other mount namespaces, where the same name is another file. After the container has started and before its payload
runs, the same device and inode must be found at the mount's place in it: a symlink that was swapped in between is seen.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath

from runnersd.machine import LaunchFailed
from runnersd.model import Mount

#: Never mounted, nor anything below those of the second line.
_NEVER = ("/",)
_NEVER_BELOW = ("/etc", "/proc", "/sys", "/dev", "/run", "/var/run", "/boot", "/var/lib/docker", "/var/lib/containerd")

_libc = ctypes.CDLL(None, use_errno=True)
#: setgroups as a system call acts on the calling thread alone; the C library's acts on all of them.
_SETGROUPS = {"x86_64": 116}.get(platform.machine(), 159)
_OPENAT2 = 437
_AT_FDCWD = -100
_NO_MAGICLINKS, _NO_SYMLINKS, _IN_ROOT = 0x02, 0x04, 0x10


@dataclass(frozen=True, slots=True)
class Found:
    """A mount whose source has been looked up: its real path, and which file that is."""

    mount: Mount
    device: int
    inode: int
    masked: tuple[str, ...] = ()  #: directories of the daemon's below it, where the container would see them


@dataclass(frozen=True, slots=True)
class _Rules:
    """Real paths: below ``roots`` lies what may be asked for; ``closed`` is never mounted; ``ours`` is the daemon's."""

    roots: Sequence[str]
    closed: Sequence[str]
    ours: Sequence[str]


def resolve(
    mounts: Sequence[Mount],
    *,
    allowed: Sequence[str],
    private: Sequence[str],
    uid: int | None,
    gid: int = 0,
    groups: Sequence[int] = (),
) -> list[Found]:
    """The mounts with their sources' real paths. Blocks: to be called beside the loop.

    ``allowed`` are the roots that hold what a submitter may ask for, ``private`` the daemon's own directories. With a
    ``uid``, sources are opened with that user's rights; without, with this process's own.

    Raises:
        LaunchFailed: one of them cannot be had, with the reason.
    """
    rules = _Rules(*([os.path.realpath(path) for path in paths] for paths in (allowed, _NEVER_BELOW, private)))

    def all_of_them() -> list[Found]:
        return [_resolve(mount, rules) for mount in mounts]

    if uid is None or (uid == 0 and os.geteuid() == 0):
        return all_of_them()
    return _as_user(uid, gid, groups, all_of_them, len(mounts))


def mismatch(pid: int, found: Sequence[Found]) -> str | None:
    """Which mount is not what was looked up, inside the container whose first process is ``pid``; None when all are.

    Raises:
        OSError: it cannot be looked at; the process may have ended.
    """
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for one in found:
            try:
                fd = in_root(root, one.mount.target)
            except OSError as error:
                return f"{one.mount.target} cannot be found in it: {error.strerror}"
            try:
                there = os.fstat(fd)
            finally:
                os.close(fd)
            if (there.st_dev, there.st_ino) != (one.device, one.inode):
                return f"{one.mount.target} is not {one.mount.source} as it was looked up: it has changed meanwhile"
    finally:
        os.close(root)
    return None


def in_root(root: int, path: str) -> int:
    """A descriptor that only holds the file that ``path`` is for a process whose root directory ``root`` is.

    Raises:
        OSError: there is none.
    """
    return _openat2(root, path, _IN_ROOT)


def _resolve(mount: Mount, rules: _Rules) -> Found:
    what = f"cannot mount {mount.source}"
    if not mount.source.startswith("/") or "\0" in mount.source:
        raise LaunchFailed(f"{what}: it must be an absolute path")
    target = PurePosixPath(mount.target)
    if not mount.target.startswith("/") or ".." in target.parts or str(target) == "/":
        raise LaunchFailed(f"{what} at {mount.target}: it must be an absolute path in the container, below /")
    with _held(what, mount.source, _NO_MAGICLINKS) as fd:
        there = os.fstat(fd)
        real = os.readlink(f"/proc/self/fd/{fd}")
        _judge(what, there, real, mount.asked, rules)
        with _held(what, real, _NO_MAGICLINKS | _NO_SYMLINKS) as again:
            if not os.path.samestat(os.fstat(again), there):
                raise LaunchFailed(f"{what}: it has changed while it was looked up")
        _read(what, fd)
    masked = tuple(
        f"{str(target).rstrip('/')}/{os.path.relpath(path, real)}" for path in rules.ours if _below(path, real)
    )
    return Found(Mount(real, str(target), mount.read_only, mount.asked), there.st_dev, there.st_ino, masked)


def _judge(what: str, there: os.stat_result, real: str, asked: bool, rules: _Rules) -> None:
    """Refuse what is never mounted, and what was asked for and is not allowed."""
    if not (stat.S_ISDIR(there.st_mode) or stat.S_ISREG(there.st_mode)):
        raise LaunchFailed(f"{what}: neither a directory nor a plain file")
    if any("\ud800" <= character <= "\udfff" for character in real):
        raise LaunchFailed(f"{what}: its path is not UTF-8, which is all that the engine takes")
    shut = any(_below(real, path) or _below(path, real) for path in rules.closed)
    if real in _NEVER or shut or any(_below(real, path) for path in rules.ours):
        raise LaunchFailed(f"{what}: {real} belongs to the system or to the daemon, and is never mounted")
    if asked and not any(_below(real, root) for root in rules.roots):
        where = ", ".join(rules.roots) or "nothing"
        raise LaunchFailed(f"{what}: {real} is not below what this daemon allows (containers.allowed_mounts: {where})")


@contextmanager
def _held(what: str, path: str, how: int) -> Iterator[int]:
    """A descriptor that only holds the file at ``path``; the file is not opened."""
    try:
        fd = _openat2(_AT_FDCWD, path, how)
    except OSError as error:
        why = "it leads through a link of /proc, or in circles" if error.errno == errno.ELOOP else error.strerror
        raise LaunchFailed(f"{what}: {why}, for the submitter") from error
    try:
        yield fd
    finally:
        os.close(fd)


def _read(what: str, held: int) -> None:
    """Make sure that this thread may read a held directory or plain file."""
    try:
        os.close(os.open(f"/proc/self/fd/{held}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY))
    except OSError as error:
        raise LaunchFailed(f"{what}: {error.strerror}, for the submitter") from error


def _below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _as_user(uid: int, gid: int, groups: Sequence[int], work: Callable[[], list[Found]], count: int) -> list[Found]:
    """Do it in a thread of its own that has the user's rights to files; the thread ends with them.

    Linux keeps the identity that files are checked against for each thread (setfsuid(2)), as user-space file servers
    use it; the rest of the daemon keeps its own.
    """
    result: list[Found] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            _become(uid, gid, groups)
            result.extend(work())
        except (LaunchFailed, OSError) as error:
            errors.append(error)

    thread = threading.Thread(target=run, name=f"files as {uid}", daemon=True)  # it may hang with its file system
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    if len(result) != count:
        raise RuntimeError("the look at files as their submitter broke off")
    return result


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


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _openat2(directory: int, path: str, resolve: int) -> int:
    """Hold the file at ``path`` (openat2(2), O_PATH); ``resolve`` is how its links are followed."""
    how = _How(os.O_PATH | os.O_CLOEXEC, 0, resolve)
    fd: int = _libc.syscall(_OPENAT2, directory, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return fd
