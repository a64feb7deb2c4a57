"""A database opened: in a safe place, undamaged, of the newest schema, and ours alone while it is open. With room on
the disk for what must still be written when that is full.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from runners.api import LIVE
from runners.errors import InvalidConfig
from runnersd.model import JobId
from runnersd.store.place import ADOPT, log_of, machine_id, make_private, read_mountinfo, refuse_network, sync_log
from runnersd.store.rows import text
from runnersd.store.schema import migrate

log = logging.getLogger(__name__)

#: EXCLUSIVE keeps every other connection out, and with it the WAL-reset bug of SQLite before 3.51.3; it also does
#: without the shared-memory file. FULL makes an acknowledged commit outlive a power cut.
PRAGMAS = (
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA busy_timeout = 5000",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA journal_size_limit = 67108864",
    "PRAGMA wal_autocheckpoint = 1000",
    "PRAGMA mmap_size = 0",
    "PRAGMA trusted_schema = OFF",
)
#: The SQLite library that this Python has.
SQLITE_VERSION = sqlite3.sqlite_version
#: Codes of `sqlite3.Error` after which nothing in the file can be believed.
DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
#: Bytes. A change takes 10 to 30 KiB, and the log has up to 4 MiB of frames before they are brought to the database.
RESERVE = 16 << 20
#: A disk of which less than so many times that is free keeps what it has.
_TIMES = 4
#: What a file system says that cannot promise room, or has none.
_CANNOT = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})

_LIVE = ", ".join(f"'{state.value}'" for state in sorted(LIVE))
_RESTORE = "keep a copy of it, put back a backup, or say another --state-dir"


@dataclass(frozen=True, slots=True)
class Identity:
    """Which database it is, and which attempts (job and number) were live when the machine last restarted.

    Attempts stay among these until they are over, however many daemons it takes to see to that.
    """

    database: str
    interrupted: frozenset[tuple[JobId, int]]


def is_damage(error: BaseException | None) -> bool:
    """Whether the error says that the database file is damaged."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in DAMAGE


def open_database(file: Path, *, boot: str | None, at: float) -> tuple[sqlite3.Connection, Identity]:
    """Open the database, making it if there is none. ``boot`` names the machine's boot, ``at`` is now (Unix seconds).

    Raises:
        InvalidConfig: the place is not safe, the file is damaged, newer, another program's or another machine's, or
            another process has it open.
    """
    refuse_network(file.parent.resolve(), read_mountinfo())
    make_private(file)
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(file, isolation_level=None, cached_statements=256)
        for pragma in PRAGMAS:
            connection.execute(pragma)
        connection.execute("PRAGMA journal_mode = WAL")
        _check(connection, file)
        migrate(connection)
        identity = _identify(connection, file, boot, at)
        if not reserve(file):
            log.warning("the disk of %s has no room to spare: when it is full, no job can be cancelled either", file)
        sync_log(file)
        return connection, identity
    except (sqlite3.Error, OSError, InvalidConfig) as error:
        if connection is not None:
            connection.close()
        if isinstance(error, InvalidConfig):
            raise
        raise InvalidConfig(_explanation(file, error)) from error


def reserve(database: Path) -> bool:
    """Keep room for ends, cancels and time limits on a disk that others fill: make the database's write-ahead log,
    which must be there, as large as :data:`RESERVE`. Returns whether it is now. Submissions are refused before they
    use it up (`runnersd.engine.sight.Sight.no_room`).

    Raises:
        OSError: the log cannot be written.
    """
    # SQLite writes each change to its log, and begins that anew once it is in the database, without making the file
    # smaller: so this is room that nobody else can take. What lies behind the last frame is not read, it stops at the
    # first one whose checksum is wrong (https://www.sqlite.org/walformat.html, section 4).
    log = log_of(database)
    # To be read too: where the file system cannot promise room, the C library looks at what is there, and fills it up.
    number = os.open(log, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if os.fstat(number).st_size >= RESERVE:
            return True
        if shutil.disk_usage(log.parent).free < _TIMES * RESERVE:
            return False
        os.posix_fallocate(number, 0, RESERVE)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return False
    finally:
        os.close(number)  # SQLite has no lock on this file that this could break
    return True


def _check(connection: sqlite3.Connection, file: Path) -> None:
    found = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
    if found != ["ok"]:
        raise InvalidConfig(f"cannot use the database {file}: it is damaged ({'; '.join(found)}); {_RESTORE}")


def _identify(connection: sqlite3.Connection, file: Path, boot: str | None, at: float) -> Identity:
    """Name a new database, and see that an old one is this machine's."""
    meta = {key: json.loads(value) for key, value in connection.execute("SELECT key, value FROM meta")}
    machine = machine_id()
    adopt = file.parent / ADOPT
    if meta.get("machine", machine) != machine and not adopt.exists():
        raise InvalidConfig(
            f"cannot use the state directory {file.parent}: another machine wrote it, and may still be at it; "
            f"say another --state-dir, or `touch {adopt}` if that machine is gone or this is it under a new name"
        )
    database = meta.get("database") or secrets.token_hex(6)
    interrupted = meta.get("interrupted", [])
    if boot is not None and meta.get("boot") not in (None, boot):
        interrupted = connection.execute(f"SELECT id, attempt FROM job WHERE state IN ({_LIVE})").fetchall()
    now = {
        "database": database,
        "machine": machine,
        "boot": boot or meta.get("boot"),
        "made_at": meta.get("made_at", at),
        # With the boot, in one transaction: a daemon that dies from here on leaves the next one what it has to know.
        "interrupted": interrupted,
    }
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(
        "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        [(key, text(value)) for key, value in now.items()],
    )
    connection.execute("COMMIT")
    adopt.unlink(missing_ok=True)
    return Identity(database, frozenset((job, attempt) for job, attempt in interrupted))


def _explanation(file: Path, error: sqlite3.Error | OSError) -> str:
    if is_damage(error):
        return f"cannot use the database {file}: it is damaged or no database ({error}); {_RESTORE}"
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
        return f"cannot use the database {file}: another process has it open; stop that one, or say another --state-dir"
    return f"cannot use the database {file}: {error}; see that its disk works and has space"
