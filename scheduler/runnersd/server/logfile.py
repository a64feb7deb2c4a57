"""Reading a job's output file: opened without following links, read in pieces, from the end where only that is wanted.

The calls here block; the server makes them in a thread.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

#: Bytes read at one go.
PIECE = 256 << 10


class LogFile:
    """One stream of one attempt. Until its file exists it is an empty one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def size(self) -> int:
        """Its length in bytes, as of now.

        Raises:
            OSError: it is there and cannot be read (it is a link, or no regular file).
        """
        descriptor = self._open()
        return 0 if descriptor is None else os.fstat(descriptor).st_size

    def read(self, offset: int, most: int = PIECE) -> bytes:
        """Up to ``most`` bytes from ``offset`` on; nothing at the end."""
        descriptor = self._open()
        return b"" if descriptor is None else os.pread(descriptor, most, offset)

    def start_of_tail(self, lines: int) -> int:
        """Where its last ``lines`` lines begin. A last line without its end counts as one."""
        end = self.size()
        if lines == 0:
            return end
        # The end of the last line ends no line of interest.
        position = end - 1
        left = lines
        while position > 0:
            begin = max(position - PIECE, 0)
            piece = self.read(begin, position - begin)
            at = len(piece)
            while (at := piece.rfind(b"\n", 0, at)) >= 0:
                left -= 1
                if not left:
                    return begin + at + 1
            position = begin
        return 0

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int | None:
        if self._descriptor is None:
            try:
                descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            except FileNotFoundError:
                return None
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise OSError(f"{self._path} is not a regular file")
            self._descriptor = descriptor
        return self._descriptor
