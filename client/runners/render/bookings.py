"""Advance bookings: a line each, on a terminal and in a pipe. Pure: values in, text out."""

from __future__ import annotations

from . import words
from .lines import columns, left, width, with_rest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runners.api import BookingView

    from .lines import Line


def when(booking: BookingView, now: float) -> str:
    """``until 14:20``, or ``Mon 08:00 to 12:00`` for one that is yet to begin."""
    end = words.clock(booking["ends_at"], booking["starts_at"] if not booking["active"] else now)
    return f"until {end}" if booking["active"] else f"{words.clock(booking['starts_at'], now)} to {end}"


def which(booking: BookingView, indices: Mapping[str, int]) -> str:
    """``0,1``: its cards' indices; one that is not there any more is a question mark."""
    known = sorted(indices[uuid] for uuid in booking["gpus"] if uuid in indices)
    return ",".join([*map(str, known), *["?"] * (len(booking["gpus"]) - len(known))])


def screen(bookings: Sequence[BookingView], indices: Mapping[str, int], now: float, uid: int, most: int) -> list[Line]:
    """The section of `status` on a terminal of ``most`` columns; nothing where nothing is booked."""
    if not bookings:
        return []
    rows = [
        (str(one["id"]), f"card{'s' if len(one['gpus']) > 1 else ''} {which(one, indices)}", words.clean(one["user"]),
         when(one, now))
        for one in bookings
    ]  # fmt: skip
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    lines: list[Line] = [[], [(" Booked", "bold")]]
    for one, row in zip(bookings, rows, strict=True):
        line: Line = [
            (f" {left(row[0], widths[0])}  {left(row[1], widths[1])}", ""),
            (f"  {left(row[2], widths[2])}", "" if one["uid"] == uid else "dim"),
            (f"  {left(row[3], widths[3])}", "cyan" if one["active"] else ""),
        ]
        said = " · ".join(words.clean(text) for text in (one["text"], one["reason"]) if text)
        lines += with_rest([*line, ("  ", "")], said, "dim", most) if said else [line]
    return lines


def plain(bookings: Sequence[BookingView], indices: Mapping[str, int], now: float) -> list[str]:
    """The table of a pipe: a row a booking, under a heading; nothing where nothing is booked."""
    if not bookings:
        return []
    rows = [("BOOKING", "GPUS", "USER", "WHEN", "NOTE", "REASON")]
    rows += [
        (
            str(one["id"]),
            which(one, indices),
            words.clean(one["user"]),
            when(one, now),
            words.clean(one["text"]) or "-",
            words.clean(one["reason"]) or "-",
        )
        for one in bookings
    ]
    return columns(rows, rightmost=(0,))
