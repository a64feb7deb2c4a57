"""The state directory: made private, and held by one daemon at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from runners.errors import InvalidConfig

#: Held by flock while a daemon lives; names that daemon's pid for the next one's message.
LOCK = "runnersd.lock"


class StateDirectory:
    """A held state directory. The hold ends with :meth:`close` or with the process, never before."""

    def __init__(self, path: Path) -> None:
        """Make the directory if need be, private to its owner, and hold it.

        Raises:
            InvalidConfig: another daemon holds it, or it cannot be made.
        """
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise InvalidConfig(f"cannot use the state directory {path}: {error.strerror}; say --state-dir") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip()
            os.close(self._lock)
            raise InvalidConfig(
                f"cannot start: a runnersd with pid {holder or 'unknown'} already holds the state directory {path}; "
                "stop it, or say another --state-dir"
            ) from error
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def free(self) -> int:
        """Bytes that may still be written here, wherever the directory is by now."""
        stat = os.fstatvfs(self._lock)
        return stat.f_bavail * stat.f_frsize

    def close(self) -> None:
        """Let another daemon have it."""
        os.close(self._lock)
