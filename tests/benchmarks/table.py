"""The table that the benchmarks print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """One line of the table."""

    key: str
    what: str
    ours: str
    floor: str
    ratio: str
    wanted: str


def printed(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    table = [Row("", "what", "ours", "floor", "ratio", "wanted"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(6)]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in table)
    return "\n".join(lines)
