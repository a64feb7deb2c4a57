"""The engine's log stream taken apart: frames of eight bytes of header, each line with its time. Pure.

Docker's attach and log format: one byte of stream (1 stdout, 2 stderr), three of nothing, four of big-endian length;
then, with `timestamps`, an RFC 3339 time with nanoseconds, a blank, and what was written. A line longer than the
engine's buffer comes in several frames of one time.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

_HEADER = 8
#: A frame larger than this is not one: the stream is out of step.
LARGEST = 1 << 26
#: A time is cut off at the first blank, which is never further away than this.
_TIME = 64
#: Nanoseconds by which an engine may write down a piece of one stream after a newer one of the other.
LATE = 5 * 10**9


class Piece(NamedTuple):
    """Something that a container wrote: to which stream (1 or 2), when (the engine's text), and what."""

    stream: int
    at: str
    data: bytes


class Demultiplexer:
    """Takes bytes as they come, gives pieces as they are whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that these bytes complete.

        Raises:
            ValueError: this is not a log stream.
        """
        self._buffer += data
        pieces: list[Piece] = []
        start = 0
        while len(self._buffer) - start >= _HEADER:
            stream = self._buffer[start]
            size = int.from_bytes(self._buffer[start + 4 : start + _HEADER], "big")
            if stream not in (1, 2) or size > LARGEST:
                raise ValueError(f"cannot read the log stream: frame of stream {stream} and {size} bytes")
            end = start + _HEADER + size
            if len(self._buffer) < end:
                break
            pieces.append(_piece(stream, bytes(self._buffer[start + _HEADER : end])))
            start = end
        del self._buffer[:start]
        return pieces


class Position(NamedTuple):
    """How far a copy of one stream has come: the time of the last piece copied, how many of that time have been, and
    whether its line goes on."""

    at: str = ""
    pieces: int = 0
    goes_on: bool = False


class Resume:
    """Leaves out the pieces up to where a copy had come, which a log that is opened again repeats.

    Each stream has its own position (of stdout, of stderr). Only within a stream do times never go back: all of a line
    that comes in pieces has the time of its beginning, which may be hours ago for a progress bar.
    """

    def __init__(self, positions: Sequence[Position] = (Position(), Position())) -> None:
        self.positions = list(positions)
        self._from = [position.at for position in positions]
        self._skip = [position.pieces for position in positions]

    @property
    def since(self) -> str:
        """The time from which on to ask an engine (Unix seconds, as its API wants them); empty for all there is.

        What comes next in a stream is no older than its last piece. It is about as new as the newest of the other
        stream, unless it goes on with a line that was begun before.
        """
        times = [nanoseconds(position.at) for position in self.positions]
        newest = max(times)
        if not newest:
            return ""
        bounds = [
            time if position.goes_on else max(time, newest - LATE)
            for time, position in zip(times, self.positions, strict=True)
        ]
        return f"{min(bounds) // 10**9}.{min(bounds) % 10**9:09}"

    def fresh(self, piece: Piece) -> bool:
        """Whether the piece has not been copied yet; from then on it has."""
        number = piece.stream - 1
        if self._from[number] and self._copied(number, piece.at):
            return False
        at, pieces, _ = self.positions[number]
        self.positions[number] = Position(piece.at, pieces + 1 if piece.at == at else 1, piece.data[-1:] != b"\n")
        return True

    def _copied(self, number: int, at: str) -> bool:
        last = self._from[number]
        if at == last and self._skip[number]:
            self._skip[number] -= 1
            return True
        if comparable(at) < comparable(last):
            return True
        if at != last:
            self._from[number] = ""
        return False


def nanoseconds(at: str) -> int:
    """An engine's time in nanoseconds of Unix time; 0 for no time."""
    if not at:
        return 0
    whole, _, fraction = comparable(at).partition(".")
    return int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp()) * 10**9 + int(fraction)


def comparable(at: str) -> str:
    """The engine's times as texts that sort: it leaves out trailing zeros of the fraction. No time is before all."""
    if not at:
        return at
    whole, _, fraction = at.rstrip("Z").partition(".")
    return f"{whole}.{fraction:0<9}"


def _piece(stream: int, content: bytes) -> Piece:
    time, blank, data = content.partition(b" ")
    if not blank or len(time) > _TIME:
        raise ValueError(f"cannot read the log stream: a frame without a time: {content[:40]!r}")
    # Docker's driver `local` loses the newline of a line that fills its buffers exactly, and sends an empty end of it.
    return Piece(stream, time.decode("ascii", "replace"), data or b"\n")
