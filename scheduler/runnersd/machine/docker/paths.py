"""What a container may be given of the host's files: looked up with the submitter's rights, and looked at again inside.

A path is looked up as the submitter would, so that a job mounts nothing that its owner cannot read; what was found, and
not its name, is then judged and remembered by device and inode. Until it has been judged it is only held, not opened:
opening a device or a pipe does things. Links of /proc are not followed: through them a path leads into other mount
namespaces, where the same name is another file. After the container has started and before its payload runs, the same
device and inode must be found at the mount's place in it: a symlink that was swapped in between is seen.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from posixpath import normpath

from runnersd.environment import refused_target
from runnersd.machine import LaunchFailed
from runnersd.machine.docker.openat import ANYWHERE, IN_ROOT, NO_MAGICLINKS, NO_SYMLINKS, held
from runnersd.model import Mount

#: Never mounted, nor anything below them or above.
_NEVER = ("/etc", "/proc", "/sys", "/dev", "/run", "/var/run", "/boot", "/var/lib/docker", "/var/lib/containerd")


_ESCAPED = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Found:
    """A mount whose source has been looked up: its real path, and which file that is."""

    mount: Mount
    device: int
    inode: int
    directory: bool
    masked: tuple[str, ...] = ()  #: directories of the daemon's below it, from there


@dataclass(frozen=True, slots=True)
class _Rules:
    """Real paths: below ``roots`` lies what may be asked for; ``closed`` is never mounted; ``ours`` is the daemon's."""

    roots: Sequence[str]
    closed: Sequence[str]
    ours: Sequence[str]


def resolve(mounts: Sequence[Mount], *, allowed: Sequence[str], private: Sequence[str]) -> list[Found]:
    """The mounts with their sources' real paths, as far as this thread may read them. Blocks.

    ``allowed`` are the roots that hold what a submitter may ask for, ``private`` the daemon's own directories.

    Raises:
        LaunchFailed: one of them cannot be had, with the reason.
    """
    rules = _Rules(*([os.path.realpath(path) for path in paths] for paths in (allowed, _NEVER, private)))
    return [_resolve(mount, rules) for mount in mounts]


def mismatch(pid: int, found: Sequence[Found], places: Mapping[str, str]) -> str | None:
    """Which mount is not what was looked up, inside the container whose first process is ``pid``; None when all are.

    ``places`` says where in it a target really lies, where that is not its name.

    Raises:
        OSError: it cannot be looked at; the process may have ended.
    """
    mounted = _mounted(pid)
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for one in found:
            target = one.mount.target
            try:
                with held(root, target, IN_ROOT) as fd:
                    there, place, number = os.fstat(fd), os.readlink(f"/proc/self/fd/{fd}"), _mount_of(fd)
            except OSError as error:
                return f"{target} cannot be found in it: {error.strerror}"
            if (there.st_dev, there.st_ino) != (one.device, one.inode):
                return f"{target} is not {one.mount.source} as it was looked up: it has changed meanwhile"
            point, options = mounted.get(number, ("", frozenset()))
            if place != places.get(target, target) or point != place:
                return (
                    f"{one.mount.source} is mounted at {point or place} and not at {target}: it has changed meanwhile"
                )
            if one.mount.read_only and "ro" not in options:
                return f"{target} may be written to"
    finally:
        os.close(root)
    return None


def _resolve(mount: Mount, rules: _Rules) -> Found:
    what = f"cannot mount {mount.source}"
    if not mount.source.startswith("/") or "\0" in mount.source:
        raise LaunchFailed(f"{what}: it must be an absolute path")
    refused = refused_target(mount.target)
    if refused is not None:
        raise LaunchFailed(f"{what} at {mount.target}: {refused}")
    with _held(what, mount.source, NO_MAGICLINKS) as fd:
        there = os.fstat(fd)
        real = os.readlink(f"/proc/self/fd/{fd}")
        _judge(what, there, real, mount.asked, rules)
        with _held(what, real, NO_MAGICLINKS | NO_SYMLINKS) as again:
            if not os.path.samestat(os.fstat(again), there):
                raise LaunchFailed(f"{what}: it has changed while it was looked up")
        _read(what, fd)
    target = normpath(f"/{mount.target.lstrip('/')}")
    masked = tuple(os.path.relpath(path, real) for path in rules.ours if _below(path, real))
    directory = stat.S_ISDIR(there.st_mode)
    return Found(Mount(real, target, mount.read_only, mount.asked), there.st_dev, there.st_ino, directory, masked)


def _judge(what: str, there: os.stat_result, real: str, asked: bool, rules: _Rules) -> None:
    """Refuse what is never mounted, and what was asked for and is not allowed."""
    if not (stat.S_ISDIR(there.st_mode) or stat.S_ISREG(there.st_mode)):
        raise LaunchFailed(f"{what}: neither a directory nor a plain file")
    if any("\ud800" <= character <= "\udfff" for character in real):
        raise LaunchFailed(f"{what}: its path is not UTF-8, which is all that the engine takes")
    shut = any(_below(real, path) or _below(path, real) for path in rules.closed)
    if shut or any(_below(real, path) for path in rules.ours):
        raise LaunchFailed(f"{what}: {real} belongs to the system or to the daemon, and is never mounted")
    if asked and not any(_below(real, root) for root in rules.roots):
        where = ", ".join(rules.roots) or "nothing"
        raise LaunchFailed(f"{what}: {real} is not below what this daemon allows (containers.allowed_mounts: {where})")


@contextmanager
def _held(what: str, path: str, how: int) -> Iterator[int]:
    try:
        with held(ANYWHERE, path, how) as fd:
            yield fd
    except OSError as error:
        why = "it leads through a link of /proc, or in circles" if error.errno == errno.ELOOP else error.strerror
        raise LaunchFailed(f"{what}: {why}, for the submitter") from error


def _read(what: str, held_fd: int) -> None:
    """Make sure that this thread may read a held directory or plain file."""
    try:
        os.close(os.open(f"/proc/self/fd/{held_fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY))
    except OSError as error:
        raise LaunchFailed(f"{what}: {error.strerror}, for the submitter") from error


def _below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _mounted(pid: int) -> dict[int, tuple[str, frozenset[str]]]:
    """Every mount that the process sees, by its number: where, and with which options."""
    mounts = {}
    for line in Path(f"/proc/{pid}/mountinfo").read_bytes().splitlines():
        words = line.split(b" ")
        place = (
            words[4].replace(b"\\040", b" ").replace(b"\\011", b"\t").replace(b"\\012", b"\n").replace(b"\\134", b"\\")
        )
        mounts[int(words[0])] = (os.fsdecode(place), frozenset(os.fsdecode(words[5]).split(",")))
    return mounts


def _mount_of(fd: int) -> int:
    """The number of the mount that a held file is in."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "mnt_id":
            return int(value)
    return -1
