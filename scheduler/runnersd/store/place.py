"""Whether a directory is a safe place for a database: on a disk of this machine, and written by no other machine."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
from pathlib import Path

from runners.errors import InvalidConfig

#: File systems on which locks, shared memory or fsync do not keep SQLite's promises, or that several machines mount.
NETWORK = frozenset(
    {
        "9p", "acfs", "afs", "afpfs", "beegfs", "bwfs", "ceph", "cifs", "coda", "davfs", "ftpfs", "gfs", "gfs2",
        "gpfs", "ibrix", "lustre", "mfs", "ncpfs", "ncp", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "prl_fs",
        "pvfs2", "smb3", "smbfs", "snfs", "vboxsf", "wekafs",
    }
)  # fmt: skip
#: FUSE file systems known to be local; every other one may be a network in disguise.
LOCAL_FUSE = frozenset(
    {"fuseblk", "fuse.encfs", "fuse.cryfs", "fuse.gocryptfs", "fuse.fuse-overlayfs", "fuse.mergerfs", "fuse.ntfs-3g"}
)

#: What is said of a directory in which we can make no names, nor see to those that are there.
_NOT_OURS = frozenset({errno.EACCES, errno.EPERM, errno.EINVAL, errno.EROFS})

#: A file of this name in the state directory lets another machine take it over, once.
ADOPT = "adopt"


def file_system(path: Path, mountinfo: str) -> str:
    """The type of the file system that holds ``path`` (absolute, resolved), as /proc/self/mountinfo's text tells it."""
    best, kind = -1, ""
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        fields = left.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = Path(_unescape(fields[4]))
        # The last of equally deep mounts is on top.
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), right.split(" ")[0]
    return kind


def is_network(kind: str) -> bool:
    """Whether a file system of this type is, or may be, on a network."""
    return kind in NETWORK or (kind.startswith("fuse") and kind not in LOCAL_FUSE and kind != "fusectl")


class Moved(Exception):
    """The database is not where it was opened any more. Who goes on writing fills a file that nobody will find."""

    def __init__(self, file: Path) -> None:
        super().__init__(
            f"the state directory {file.parent} was moved away or deleted; put it back as it was, or restart the "
            "daemon to begin anew without its jobs"
        )


class Anchor:
    """A database file as it was opened, to see whether it is still there."""

    def __init__(self, file: Path) -> None:
        """Remember which file that is; it must be there."""
        self._file, self._found = file, _identity(file)

    def check(self) -> None:
        """Pass only if the file of that name is still the same one.

        Raises:
            Moved: it is not.
        """
        try:
            same = _identity(self._file) == self._found
        except (FileNotFoundError, NotADirectoryError):
            same = False
        except OSError:
            return  # a disk that fails says nothing of where the file is; writing to it will tell
        if not same:
            raise Moved(self._file)


def refuse_network(path: Path, mountinfo: str) -> None:
    """Pass only if ``path`` is on a disk of this machine.

    Raises:
        InvalidConfig: it is on a network file system, or on one that may be.
    """
    kind = file_system(path, mountinfo)
    if is_network(kind):
        raise InvalidConfig(
            f"cannot keep state in {path}: it is on a network file system ({kind}), where a database is not safe; "
            "say a --state-dir on a disk of this machine"
        )


def read_mountinfo() -> str:
    """What is mounted where, as this process sees it."""
    return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")


def machine_id(path: Path = Path("/etc/machine-id")) -> str:
    """Names this machine: a hash of its machine id (which is confidential, machine-id(5)), else of its host name."""
    try:
        name = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        name = ""
    if not re.fullmatch("[0-9a-f]{32}", name):
        name = "host " + socket.gethostname()
    return hashlib.sha256(b"runnersd state " + name.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def make_private(file: Path) -> None:
    """See that the database file exists and is its owner's alone. SQLite gives the files beside it the same mode.

    A power cut does not take its name away, nor that of a directory on the way to it.

    Raises:
        InvalidConfig: it cannot be made.
    """
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if file.exists():
            file.chmod(0o600)
        else:
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        _sync_names(file)
    except OSError as error:
        raise InvalidConfig(f"cannot make the database {file}: {error.strerror}; say another --state-dir") from error


def log_of(file: Path) -> Path:
    """Where SQLite has the database's write-ahead log: it follows a link, and puts it where that leads."""
    file = file.resolve()
    return file.with_name(f"{file.name}-wal")


def sync_log(file: Path) -> None:
    """Have the database's write-ahead log, which must be there, on the disk.

    A daemon may have been killed between a write and its fsync: the next one finds the change, and says so, with no
    reason to write anything itself.

    Raises:
        OSError: the log cannot be written.
    """
    _sync(log_of(file), os.O_NOFOLLOW)


def _sync_names(file: Path) -> None:
    """Have every name on the way to the file on the disk, whoever made it: that daemon may have been killed at it."""
    file = file.absolute()
    for directory in dict.fromkeys((*file.parents, *file.resolve().parents)):
        try:
            _sync(directory, os.O_DIRECTORY)
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise


def _sync(path: Path, flags: int) -> None:
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _identity(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_dev, found.st_ino


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
