"""A job's output on its way into a log."""

from __future__ import annotations

import fcntl
import os

CHUNK = 1 << 16  #: bytes read at once: what a pipe holds


class Stream:
    """Copies one of a job's streams into its log, at most ``limit`` bytes, and never holds the job up for its sake.

    The log is made when there is something to put in it. ``truncated`` says that something was left out.
    """

    def __init__(self, source: int, path: str, limit: int) -> None:
        os.set_blocking(source, False)
        self.source = source
        self.path = path
        self.limit = self.room = limit
        self.file = -1
        self.truncated = False

    def copy(self, most: int) -> bool:
        """Copy what is there, about ``most`` bytes of it. False when nothing more will come."""
        while most > 0:
            try:
                data = os.read(self.source, CHUNK)
            except BlockingIOError:
                return True
            if not data:
                return False
            most -= len(data)
            self._keep(data)
        return True

    def finish(self) -> None:
        """Copy what is left in the pipe: its writers are gone, or strangers that the job gave it to."""
        self.copy(fcntl.fcntl(self.source, fcntl.F_GETPIPE_SZ))

    def close(self) -> None:
        """Let go of the pipe and of the log."""
        os.close(self.source)
        if self.file >= 0:
            os.close(self.file)

    def _keep(self, data: bytes) -> None:
        if self.truncated:
            return
        try:
            if self.file < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
                self.file = os.open(self.path, flags, 0o600)
            self._write(data[: self.room])
            if len(data) > self.room:
                self.truncated = True
                self._write(f"\n[runners: cut here, at {self.limit} bytes]\n".encode())
            self.room -= len(data)
        except OSError:  # a full disk: the rest is dropped, and the record says so
            self.truncated = True

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.file, data) :]
