"""Owns the cards across daemons: a lock file a card, in a folder that every daemon of the machine shares.

The file's first line says who owns the card (JSON; ``state`` is what counts, the rest is for people). The lock on it
is an flock, so it belongs to an open file: supervisors that inherit the descriptor keep it after their daemon is gone.

To own a card:

1. Try LOCK_EX. With it nobody else has any lock: write our identity, then turn it into LOCK_SH.
2. If that fails and the identity is our own state directory's, take LOCK_SH: our predecessor's supervisors hold it.
3. Either way, read the identity again. It is ours if and only if it names our state directory; else let go.

Why there are never two owners. An owner has held LOCK_SH without a break since before it last read its own name
(step 3). The name of the state directory changes only under LOCK_EX (step 1), which nobody gets while anybody holds
LOCK_SH. Of two owners, look at the moment the later one read its own name: the earlier one had its LOCK_SH since
before *its* reading, so the name cannot have changed between the two readings, so both belong to the same state
directory; and of one state directory there is one daemon. Turning LOCK_EX into LOCK_SH is not one step in the kernel:
another daemon may get in between and write its name, which is why step 3 is needed after step 1 too.

A daemon that is not to own a card may hold LOCK_SH for an instant between steps 2 and 3, or LOCK_EX in step 1: then
another one's attempt fails, and succeeds at its next look.

The folder is open to everybody, as /tmp is, so a file in it is not trusted: it is opened without waiting and without
following links, and what is not a plain file we may lock belongs to somebody else. A user can so keep a card from
others, which they could as well by computing on it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import pwd
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from runners.errors import InvalidConfig
from runnersd.model import CardOwner, GpuId

_log = logging.getLogger(__name__)

#: Bytes of an identity, padded: one write of one page is whole or not there, whenever we are killed.
_SIZE = 512

_OPEN = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class CardLocks:
    """The cards that the daemon of one state directory owns.

    ``directory`` is made on the first claim of a card, with mode 1777. ``state_id`` names the state directory: the
    same for every daemon that ever runs on it, and no other's.
    """

    def __init__(self, directory: Path, state_id: str) -> None:
        self._directory = directory
        self._state_id = state_id
        self._locks: dict[GpuId, int] = {}
        self._orphans: list[int] = []  # locks whose file was removed, kept because our jobs may rely on them
        self._complaints: dict[GpuId, str] = {}

    def claim(self, uuids: Sequence[GpuId]) -> dict[GpuId, CardOwner | None]:
        """Try to own every card; for each, None when it is ours now, else who has it. May be repeated.

        Raises:
            InvalidConfig: the lock directory cannot be used.
        """
        missing = [uuid for uuid in uuids if not self._still_ours(uuid)]
        if missing:
            self._make_directory()
        owners: dict[GpuId, CardOwner | None] = dict.fromkeys(uuids)
        return owners | {uuid: self._claim(uuid) for uuid in missing}

    def descriptors(self, uuids: Sequence[GpuId]) -> list[int]:
        """The open locks of cards that are ours, for a supervisor to keep while its job lives.

        Raises:
            KeyError: a card that is not ours.
        """
        return [self._locks[uuid] for uuid in uuids]

    def close(self) -> None:
        """Let go of every card that no job of ours keeps.

        The descriptors are closed and never unlocked: an unlock would take the lock from the supervisors too.
        """
        for descriptor in (*self._locks.values(), *self._orphans):
            os.close(descriptor)
        self._locks.clear()
        self._orphans.clear()

    def _path(self, uuid: GpuId) -> Path:
        return self._directory / uuid.replace("/", "_")  # old drivers have slashes in the UUIDs of MIG devices

    def _still_ours(self, uuid: GpuId) -> bool:
        descriptor = self._locks.get(uuid)
        if descriptor is None:
            return False
        if _is_at(descriptor, self._path(uuid)):
            return True
        _log.warning("the lock of card %s was removed from %s: claiming it anew", uuid, self._directory)
        self._orphans.append(self._locks.pop(uuid))
        return False

    def _claim(self, uuid: GpuId) -> CardOwner | None:
        path = self._path(uuid)
        try:
            descriptor = self._open(path)
        except OSError as error:
            self._complain(uuid, f"cannot open the lock of card {uuid}: {error}")
            return _file_owner(path)
        try:
            owner = self._lock(descriptor, path)
        except OSError as error:
            os.close(descriptor)
            self._complain(uuid, f"cannot lock card {uuid}: {error}")
            return CardOwner(None, None)
        self._complaints.pop(uuid, None)
        if owner is not None:
            os.close(descriptor)
            return owner
        self._locks[uuid] = descriptor
        return None

    def _complain(self, uuid: GpuId, what: str) -> None:
        """Say it once, however often it is tried again."""
        if self._complaints.get(uuid) != what:
            self._complaints[uuid] = what
            _log.warning("%s", what)

    def _open(self, path: Path) -> int:
        """The lock file, made if need be. Two steps, for the kernel may refuse O_CREAT on another user's file in a
        sticky folder (fs.protected_regular) even where the file may be opened."""
        for _ in range(3):
            try:
                return self._plain(os.open(path, _OPEN), path)
            except FileNotFoundError:
                try:
                    descriptor = os.open(path, _OPEN | os.O_CREAT | os.O_EXCL, 0o666)
                except FileExistsError:
                    continue  # another daemon was faster
            os.fchmod(descriptor, 0o666)  # whatever our umask says: the next owner may be another user
            return descriptor
        raise FileExistsError(f"{path} comes and goes")

    @staticmethod
    def _plain(descriptor: int, path: Path) -> int:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        raise OSError(f"{path} is not a plain file")

    def _make_directory(self) -> None:
        """Make the folder, if need be: complete before it has its name, for another user's daemon may be as fast."""
        try:
            if not self._directory.is_dir():
                self._directory.parent.mkdir(parents=True, exist_ok=True)
                made = Path(tempfile.mkdtemp(prefix=f".{self._directory.name}-", dir=self._directory.parent))
                made.chmod(0o1777)
                try:
                    made.rename(self._directory)
                except OSError:
                    made.rmdir()
                    if not self._directory.is_dir():
                        raise
        except OSError as error:
            raise InvalidConfig(f"cannot own cards in {self._directory}: {error.strerror}; {_ADVICE}") from error
        if not os.access(self._directory, os.W_OK | os.X_OK):
            raise InvalidConfig(f"cannot own cards in {self._directory}: no permission to make files in it; {_ADVICE}")

    def _lock(self, descriptor: int, path: Path) -> CardOwner | None:
        """Steps 1 to 3. None: the card is ours while the descriptor is open; else who has it."""
        if _try_lock(descriptor, fcntl.LOCK_EX):
            os.ftruncate(descriptor, _SIZE)
            os.pwrite(descriptor, self._identity(), 0)
            joined = False
        elif _state_of(_read(descriptor)) == self._state_id:
            joined = True
        else:
            return _owner(_read(descriptor))
        if not _try_lock(descriptor, fcntl.LOCK_SH):
            return _owner(_read(descriptor))
        said = _read(descriptor)
        if _state_of(said) != self._state_id:
            return _owner(said)
        if not _is_at(descriptor, path):
            return CardOwner(None, None)  # the file was removed before we had the lock: a lock on nothing
        if joined:
            os.pwrite(descriptor, self._identity(), 0)  # the pid is now ours; the state directory stays the same
        return None

    def _identity(self) -> bytes:
        uid = os.geteuid()
        said = {
            "state": self._state_id,
            "user": _user(uid),
            "uid": uid,
            "pid": os.getpid(),
            "host": os.uname().nodename,
        }
        line = json.dumps(said).encode() + b"\n"
        if len(line) > _SIZE:
            raise ValueError(f"the identity of a card's owner is longer than {_SIZE} bytes")
        return line.ljust(_SIZE)


_ADVICE = "set RUNNERS_LOCK_DIR to a folder that every daemon of this machine can write to"


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at the path."""
    try:
        there = path.stat(follow_symlinks=False)
    except OSError:
        return False
    here = os.fstat(descriptor)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _read(descriptor: int) -> dict[str, object]:
    """What the file says of its owner; nothing, where that cannot be understood."""
    try:
        said = json.loads(os.pread(descriptor, _SIZE, 0).partition(b"\n")[0])
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _state_of(said: dict[str, object]) -> object:
    return said.get("state")


def _owner(said: dict[str, object]) -> CardOwner:
    user, pid = said.get("user"), said.get("pid")
    return CardOwner(user if isinstance(user, str) else None, pid if isinstance(pid, int) else None)


def _file_owner(path: Path) -> CardOwner:
    """Whose file it is that we may not open."""
    try:
        return CardOwner(_user(path.stat(follow_symlinks=False).st_uid), None)
    except OSError:
        return CardOwner(None, None)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
