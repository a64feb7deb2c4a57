"""What standard output is: a terminal of some size that may want colour, or a pipe that wants plain text."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

#: Tables are laid out for at least this many columns.
NARROWEST = 80


class Terminal:
    """``interactive``, ``redraws``, ``colour``, ``width`` and ``height`` of a stream, as they are now."""

    __slots__ = ("colour", "height", "interactive", "redraws", "unicode", "width")

    def __init__(self, stream: TextIO) -> None:
        self.interactive = stream.isatty()
        self.redraws = redraws(stream)
        self.colour = self.interactive and wants_colour()
        self.unicode = (stream.encoding or "").lower().replace("-", "") == "utf8"
        self.width, self.height = NARROWEST, 24
        self.measure(stream)

    def measure(self, stream: TextIO) -> None:
        """Look at the size again. `COLUMNS` and `LINES` beat what the terminal says, as everywhere."""
        size = (0, 0)
        if self.interactive:
            try:
                size = os.get_terminal_size(stream.fileno())
            except OSError:
                size = (0, 0)  # a terminal that does not know: the usual size is assumed
        self.width = _number("COLUMNS") or size[0] or NARROWEST
        self.height = _number("LINES") or size[1] or 24


def wants_colour() -> bool:
    """Whether the person at the terminal wants colour: not with ``NO_COLOR``, nor on a terminal that has none."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") not in ("dumb", None)


def redraws(stream: TextIO) -> bool:
    """Whether its lines can be drawn again: not in a pipe, nor where no cursor moves, as in an editor's shell."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def output() -> Terminal:
    """Standard output."""
    return Terminal(sys.stdout)


def _number(variable: str) -> int:
    value = os.environ.get(variable, "")
    return int(value) if value.isascii() and value.isdigit() else 0
