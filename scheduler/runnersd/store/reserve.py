"""Room on the disk for what must still be written when it is full: ends, cancels, time limits.

SQLite writes each change to its write-ahead log, and begins that anew once it is in the database, without making the
file smaller. So a log that is made large beforehand is room that nobody else can take. What lies behind the last frame
is not read: SQLite stops at the first one whose checksum is wrong (https://www.sqlite.org/walformat.html, section 4).

Submissions are refused before they use it up; see `runnersd.engine.sight.Sight.no_room`.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

#: Bytes. A change takes 10 to 30 KiB, and the log has up to 4 MiB of frames before they are brought to the database.
RESERVE = 16 << 20
#: A disk of which less than so many times that is free keeps what it has.
_TIMES = 4
#: What a file system says that cannot promise room, or has none.
_CANNOT = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


def reserve(database: Path) -> bool:
    """Make the database's write-ahead log, which must be there, as large as that; whether it is now.

    Raises:
        OSError: the log cannot be written.
    """
    database = database.resolve()  # SQLite follows a link, and has its log where that leads
    log = database.with_name(f"{database.name}-wal")
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
