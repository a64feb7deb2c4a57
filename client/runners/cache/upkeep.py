"""What there is in a cache directory, who uses it, and what of it may go. Loads neither zarr nor NumPy."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from runners.errors import NotAllowed

from . import deletion, layout, locks, naming, sums
from .layout import CacheError, Directory

_LEFT = re.compile(
    rf"(?:{re.escape(layout.SCRATCH_PREFIX)}|{re.escape(layout.TRASH_PREFIX)})({naming.ID.pattern})\.[0-9a-f]{{8}}"
)

_EXCLUSIVE = fcntl.LOCK_EX | fcntl.LOCK_NB


@dataclass(frozen=True, slots=True)
class Entry:
    """One finished cache. Sizes are bytes, times Unix seconds; ``problem`` says why its `meta.json` is not there."""

    id: str
    name: str
    uid: int
    meta: dict[str, Any]
    last_used: float
    leased: bool
    pids: tuple[int, ...] = ()  #: processes known to hold a lease; there may be others
    problem: str = ""

    @property
    def bytes(self) -> int:
        """Of its data; 0 when that is not known."""
        found = self.meta.get("bytes")
        return max(0, found) if isinstance(found, int) else 0


@dataclass(frozen=True, slots=True)
class Building:
    """A cache that is being built, and what its builder has said of itself."""

    id: str
    builder: dict[str, Any]


def entries(directory: Directory) -> list[Entry]:
    """Every finished cache, by name. What is not marked as ours, links, and what we may not open are passed over."""
    held = _holders()
    found = []
    for id in sorted(os.listdir(directory.fd)):
        match = naming.ID.fullmatch(id)
        folder = _folder_we_may_open(directory, id) if match else None
        if folder is None or match is None:
            continue
        try:
            if layout.is_marked(folder):
                found.append(_entry(directory, id, match[1], folder, held))
        finally:
            os.close(folder)
    return found


def _folder_we_may_open(directory: Directory, name: str) -> int | None:
    try:
        return layout.open_folder(directory, name)
    except CacheError:
        return None


def _entry(
    directory: Directory, id: str, name: str, folder: int, held: dict[tuple[int, int], tuple[int, ...]]
) -> Entry:
    meta, problem = {}, ""
    try:
        meta = layout.read_meta(directory, id, folder)
    except CacheError as error:
        problem = str(error)
    here = os.fstat(folder)
    fd = _open_lease(folder)
    if fd is None:
        return Entry(id, name, here.st_uid, meta, here.st_mtime, False, (), problem or "it lacks its lease")
    try:
        leased = not locks.flock(fd, _EXCLUSIVE, directory.file(id, layout.LEASE))
        lease = os.fstat(fd)
    finally:
        os.close(fd)
    pids = held.get((lease.st_dev, lease.st_ino), ()) if leased else ()
    return Entry(id, name, here.st_uid, meta, lease.st_mtime, leased, pids, problem)


def building(directory: Directory) -> list[Building]:
    """Every cache that somebody builds at the moment."""
    found = []
    for name in sorted(os.listdir(directory.fd)):
        id = name.removeprefix(layout.LOCK_PREFIX)
        if id != name and naming.ID.fullmatch(id) and _is_locked(directory, name):
            found.append(Building(id, locks.builder_of(directory, id)))
    return found


def verify(directory: Directory, entry: Entry) -> Iterator[str]:
    """What is wrong with a cache, a sentence each, found by reading all of it. It is leased meanwhile."""
    if entry.problem:
        yield entry.problem
        return
    folder = layout.open_folder(directory, entry.id)
    lease = None
    try:
        lease = None if folder is None else locks.take_lease(directory, entry.id, folder, note=False)
        if folder is None or lease is None:
            yield "it has been removed"
            return
        yield from sums.damage(folder, str(entry.meta.get("sums")))
    finally:
        if lease is not None:
            lease.close()
        if folder is not None:
            os.close(folder)


# -- what may go -------------------------------------------------------------------------------------------------------


def to_prune(
    found: Sequence[Entry], now: float, *, keep: int | None, unused: float | None, needed: Collection[str], uid: int
) -> list[Entry]:
    """Which caches to remove: those not used for ``unused`` seconds, then those used longest ago until the rest take at
    most ``keep`` bytes. Pure.

    Never one that is leased or ``needed``, nor another user's, unless ``uid`` is root's. Only caches that ``uid`` may
    remove count for ``keep``.
    """
    mine = sorted((one for one in found if uid in (0, one.uid)), key=lambda one: (one.last_used, one.id))
    free = [one for one in mine if not one.leased and one.id not in needed]
    gone = [one for one in free if unused is not None and now - one.last_used >= unused]
    if keep is not None:
        total = sum(one.bytes for one in mine) - sum(one.bytes for one in gone)
        for one in free:
            if total <= keep:
                break
            if one not in gone:
                gone.append(one)
                total -= one.bytes
    return gone


def remove(directory: Directory, entry: Entry) -> bool:
    """Remove a cache: away from its name in one step, then deleted. False when it is leased, or gone already.

    A process that is killed in between leaves it under a name that :func:`sweep` finishes.

    Raises:
        CacheError: it is not ours, or cannot be deleted.
        NotAllowed: it is another user's.
    """
    folder = layout.open_folder(directory, entry.id)
    if folder is None:
        return False
    try:
        _check_ours(directory, entry.id, folder)
        trash = _taken_away(directory, entry.id, folder)
    finally:
        os.close(folder)
    if trash is None:
        return False
    deletion.delete(directory, trash)
    return True


def _check_ours(directory: Directory, id: str, folder: int) -> None:
    if not layout.is_marked(folder):
        raise CacheError(f"cannot remove {directory.file(id)}: it lacks the mark {layout.MARK}, so it is not ours")
    if os.geteuid() not in (0, os.fstat(folder).st_uid):
        raise NotAllowed(f"cannot remove {directory.file(id)}: it is another user's; they or root can")


def _taken_away(directory: Directory, id: str, folder: int) -> str | None:
    """Rename it while nobody reads it; the name it has now, or None when somebody does."""
    lease = _open_lease(folder)
    try:
        if lease is not None and not locks.flock(lease, _EXCLUSIVE, directory.file(id, layout.LEASE)):
            return None
        trash = f"{layout.TRASH_PREFIX}{id}.{secrets.token_hex(4)}"
        try:
            os.rename(id, trash, src_dir_fd=directory.fd, dst_dir_fd=directory.fd)
        except FileNotFoundError:
            return None  # another was faster
        except OSError as error:
            raise CacheError(f"cannot remove {directory.file(id)}: {error.strerror}") from None
        if not locks.same_file(directory, trash, folder):
            os.rename(trash, id, src_dir_fd=directory.fd, dst_dir_fd=directory.fd)
            raise CacheError(f"cannot remove {directory.file(id)}: it was replaced at this moment; look again")
        return trash
    finally:
        if lease is not None:
            os.close(lease)


def sweep(directory: Directory, *, dry_run: bool = False) -> Iterator[tuple[str, str]]:
    """Finish what was begun: delete what a killed removal or a dead builder has left, one at a time.

    Gives each name, and why it could not be deleted, or nothing when it has been. Another user's are left alone.
    """
    for name in sorted(os.listdir(directory.fd)):
        id = name.removeprefix(layout.LOCK_PREFIX)
        if id != name and naming.ID.fullmatch(id) and not dry_run:
            lock = locks.take_build_lock(directory, id, wait=False)
            if lock is not None:
                lock.release()  # and with it the file that a dead builder has left
        match = _LEFT.fullmatch(name)
        if match and _is_own(directory, name):
            yield from _finished_deleting(directory, name, match[1], dry_run)


def _finished_deleting(directory: Directory, name: str, id: str, dry_run: bool) -> Iterator[tuple[str, str]]:
    scratch = name.startswith(layout.SCRATCH_PREFIX)
    if dry_run:
        if not (scratch and _is_locked(directory, layout.LOCK_PREFIX + id)):
            yield name, ""
        return
    lock = locks.take_build_lock(directory, id, wait=False) if scratch else None
    if scratch and lock is None:
        return  # it is being built
    try:
        deletion.delete(directory, name)
        yield name, ""
    except CacheError as error:
        yield name, str(error)
    finally:
        if lock is not None:
            lock.release()


def _is_own(directory: Directory, name: str) -> bool:
    """Whether it is a folder, and ours to delete."""
    folder = _folder_we_may_open(directory, name)
    if folder is None:
        return False
    try:
        return os.geteuid() in (0, os.fstat(folder).st_uid)
    finally:
        os.close(folder)


# -- who uses it -------------------------------------------------------------------------------------------------------


def _open_lease(folder: int) -> int | None:
    """The lease's file; for writing if we may, since a network file system locks only such a one exclusively.

    None where there is no plain file: then nobody can have a lease.
    """
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        if not stat.S_ISREG(os.stat(layout.LEASE, dir_fd=folder, follow_symlinks=False).st_mode):
            return None
        try:
            return os.open(layout.LEASE, os.O_RDWR | flags, dir_fd=folder)
        except OSError:
            return os.open(layout.LEASE, os.O_RDONLY | flags, dir_fd=folder)
    except OSError:
        return None


def _is_locked(directory: Directory, name: str) -> bool:
    """Whether a builder holds this lock."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory.fd)
    except OSError:
        return False  # there is none, or none that we may know of
    try:
        return not locks.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB, directory.file(name))
    finally:
        os.close(fd)


def _holders() -> dict[tuple[int, int], tuple[int, ...]]:
    """Processes that hold a lock, by the file's device and number, as far as the kernel tells us.

    Some file systems (btrfs) give their files another device number than the kernel's table has: then nobody is found,
    and that a cache is leased is still known.
    """
    found: dict[tuple[int, int], tuple[int, ...]] = {}
    with contextlib.suppress(FileNotFoundError), open("/proc/locks", encoding="ascii") as table:
        for line in table:
            words = line.replace("->", "").split()
            if words[1] != "FLOCK" or int(words[4]) <= 0:
                continue
            major, minor, number = words[5].split(":")
            key = (os.makedev(int(major, 16), int(minor, 16)), int(number))
            found[key] = tuple(dict.fromkeys((*found.get(key, ()), int(words[4]))))
    return found


def job_of(pid: int) -> int | None:
    """The job that a process belongs to, by its environment; None where it has none, or where we may not look."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return None
    value = next((one[15:] for one in variables if one.startswith(b"RUNNERS_JOB_ID=")), b"")
    return int(value) if value.isdigit() and len(value) < 19 else None
