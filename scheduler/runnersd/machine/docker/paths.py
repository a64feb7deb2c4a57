"""What a container may be given of the host's files: looked up with the submitter's rights, and looked at again inside.

A path is opened as the submitter would open it, so that a job mounts nothing that its owner cannot read; what was
opened, and not its name, is then judged and remembered by device and inode. After the container has started and before
its payload runs, the same device and inode must be found at the mount's place in it: a symlink that was swapped in
between is seen.
"""

from __future__ import annotations

import ctypes
import os
import platform
import stat
import threading
from collections.abc import Callable, Sequence
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
_RESOLVE_IN_ROOT = 0x10


@dataclass(frozen=True, slots=True)
class Found:
    """A mount whose source has been looked up: its real path, and which file that is."""

    mount: Mount
    device: int
    inode: int
    masked: tuple[str, ...] = ()  #: directories of the daemon's below it, where the container would see them


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
    roots = [os.path.realpath(root) for root in allowed]
    closed = [os.path.realpath(path) for path in _NEVER_BELOW]
    ours = [os.path.realpath(path) for path in private]

    def all_of_them() -> list[Found]:
        return [_resolve(mount, roots, closed, ours) for mount in mounts]

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
                fd = _open_in(root, one.mount.target)
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


def _resolve(mount: Mount, roots: Sequence[str], closed: Sequence[str], ours: Sequence[str]) -> Found:
    what = f"cannot mount {mount.source}"
    if not mount.source.startswith("/") or "\0" in mount.source:
        raise LaunchFailed(f"{what}: it must be an absolute path")
    target = PurePosixPath(mount.target)
    if not mount.target.startswith("/") or ".." in target.parts or str(target) == "/":
        raise LaunchFailed(f"{what} at {mount.target}: it must be an absolute path in the container, below /")
    try:
        fd = os.open(mount.source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise LaunchFailed(f"{what}: {error.strerror}, for the submitter") from error
    try:
        there = os.fstat(fd)
        real = os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    if not (stat.S_ISDIR(there.st_mode) or stat.S_ISREG(there.st_mode)):
        raise LaunchFailed(f"{what}: neither a directory nor a plain file")
    shut = any(_below(real, path) or _below(path, real) for path in closed)
    if real in _NEVER or shut or any(_below(real, path) for path in ours):
        raise LaunchFailed(f"{what}: {real} belongs to the system or to the daemon, and is never mounted")
    if mount.asked and not any(_below(real, root) for root in roots):
        where = ", ".join(roots) or "nothing"
        raise LaunchFailed(f"{what}: {real} is not below what this daemon allows (containers.allowed_mounts: {where})")
    masked = tuple(f"{str(target).rstrip('/')}/{os.path.relpath(path, real)}" for path in ours if _below(path, real))
    return Found(Mount(real, str(target), mount.read_only, mount.asked), there.st_dev, there.st_ino, masked)


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

    thread = threading.Thread(target=run, name=f"files as {uid}")
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


def _open_in(root: int, path: str) -> int:
    """Open ``path`` as a process would whose root directory this is: its symlinks lead nowhere else (openat2(2))."""
    how = _How(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT)
    fd: int = _libc.syscall(_OPENAT2, root, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return fd
