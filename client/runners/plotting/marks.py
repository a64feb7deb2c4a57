"""Round numbers for an axis, and how they are written. Pure."""

from __future__ import annotations

import math

#: Steps of time that people count in, in seconds.
_TIMES = (
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 2 * 3600, 3 * 3600, 6 * 3600, 12 * 3600,
    86_400, 2 * 86_400, 7 * 86_400, 14 * 86_400, 28 * 86_400, 91 * 86_400, 365 * 86_400,
)  # fmt: skip


def time_step(seconds: float, most: int) -> float:
    """The smallest of the usual steps of time of which so many at most fit into the span; both in seconds."""
    return float(next((step for step in _TIMES if seconds <= step * most), _TIMES[-1]))


def elapsed(seconds: float) -> str:
    """A time since the start as an axis says it: ``0``, ``30s``, ``10m``, ``1h30m``, ``2d``, ``2d06h``."""
    whole = round(seconds)
    if whole == 0:
        return "0"
    sign, whole = ("-" if whole < 0 else ""), abs(whole)
    for size, name, smaller, small in ((86_400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{sign}{whole // size}{name}" + (f"{rest:02d}{small}" if rest else "")
    return f"{sign}{whole}s"


def top(value: float) -> float:
    """A round number that is no smaller, for the upper end of an axis: 1, 1.5, 2, 3, 4, 5, 6 or 8 tens, hundreds..."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8) if value <= step * power * 1.0001), 10 * power)


def figure(value: float) -> str:
    """A number in about three figures: ``0``, ``0.4``, ``7.9``, ``80``, ``1204``."""
    if value and abs(value) < 0.95:
        return f"{value:.2g}"
    return f"{value:.0f}" if abs(value) >= 99.95 or value == round(value) else f"{value:.1f}".removesuffix(".0")
