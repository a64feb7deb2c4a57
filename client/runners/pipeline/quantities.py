"""Durations and sizes as people write them: `90`, `30m`, `1:30:00`; `20GiB`, `512MiB`. Pure."""

from __future__ import annotations

import math
import re
from datetime import datetime

#: The longest duration taken, in seconds: a hundred years. Keeps every sum of times a sane float.
MAX_DURATION = 100 * 365.25 * 86400
#: The largest size taken, in bytes: one EiB. Fits SQLite's and C's signed 64 bits with room to add.
MAX_SIZE = 1 << 60

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_PARTS = re.compile(
    r"\s*".join(rf"(?:(?P<{unit}>\d+(?:\.\d+)?){unit})?" for unit in _UNITS),
    re.ASCII | re.IGNORECASE,
)
_PLAIN = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d\d(?:\.\d+)?)", re.ASCII)
_DAYS = re.compile(r"(\d+)-(\d?\d)(?::(\d\d)(?::(\d\d))?)?", re.ASCII)  # as Slurm has it
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(ib?|b?)", re.ASCII | re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_LONGEST = 40  #: no quantity needs more characters; keeps `int` and `float` away from hostile digits

_DURATION_FORMS = "write seconds (90), 90s, 30m, 12h, 2d, 1h30m, 1:30:00 or 2-12:00:00 (days)"
MOMENT_FORMS = "an ISO time such as 2026-01-31T18:00, or a delay such as +2h"
_SIZE_FORMS = "write bytes (1073741824), 512MiB, 20GiB or 20GB"


def parse_duration(value: object) -> float:
    """Seconds of `90`, `"90s"`, `"30m"`, `"12h"`, `"2d"`, `"1h30m"`, `"1:30:00"` (hours), `"1:30"` (minutes), or
    `"2-12:00:00"` (days).

    Raises:
        ValueError: it is none of these, negative, or over a hundred years.
    """
    seconds = _seconds(value)
    if seconds is None or not 0 <= seconds <= MAX_DURATION:
        if seconds is not None and seconds > MAX_DURATION:
            raise ValueError("a duration of more than 100 years")
        raise ValueError(f"not a duration: {_DURATION_FORMS}")
    return seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return float(value) if value.bit_length() < 64 else math.inf
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if not isinstance(value, str) or len(value) > _LONGEST:
        return None
    text = value.strip()
    if clock := _CLOCK.fullmatch(text):
        hours, minutes, rest = clock.groups()
        if float(rest) >= 60 or (hours is not None and int(minutes) >= 60):
            return None
        return int(hours or 0) * 3600.0 + int(minutes) * 60.0 + float(rest)
    if days := _DAYS.fullmatch(text):
        hours, minutes, rest = days[2], days[3] or "0", days[4] or "0"
        if int(hours) >= 24 or int(minutes) >= 60 or int(rest) >= 60:
            return None
        return float(days[1]) * 86400.0 + int(hours) * 3600.0 + int(minutes) * 60.0 + int(rest)
    if _PLAIN.fullmatch(text):
        return float(text)
    parts = _PARTS.fullmatch(text)
    if not text or parts is None:
        return None
    return math.fsum(float(amount) * _UNITS[unit] for unit, amount in parts.groupdict().items() if amount)


def parse_moment(value: object, now: float) -> float | None:
    """Unix seconds, from themselves, an ISO time (local where it names no zone) or `+2h` from ``now``; None for `now`.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, str) and value.startswith("+"):
        return now + parse_duration(value[1:])
    if value == "now":
        return None
    if isinstance(value, str) and len(value) <= 64:
        try:
            return datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError, OSError):
            raise ValueError(f"not a time: write {MOMENT_FORMS}") from None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e11:
        return float(value)
    raise ValueError(f"not a time: write {MOMENT_FORMS}")


def parse_size(value: object) -> int:
    """Bytes of `1024`, `"512MiB"`, `"20GiB"`; `"20G"` and `"20g"` are GiB as docker has it, `"20GB"` is decimal.

    Raises:
        ValueError: it is none of these, negative, not whole bytes, or over one EiB.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        size: float = value
    elif isinstance(value, float) and value.is_integer():
        size = int(value)
    else:
        match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) and len(value) <= _LONGEST else None
        if match is None or (match[3].lower().startswith("i") and not match[2]):
            raise ValueError(f"not a size: {_SIZE_FORMS}")
        decimal = bool(match[2]) and match[3].lower() == "b"
        scale = (1000 if decimal else 1024) ** _POWERS[match[2].lower()]
        size = int(match[1]) * scale if match[1].isdigit() else round(float(match[1]) * scale)
    if size < 0:
        raise ValueError(f"not a size: {_SIZE_FORMS}")
    if size > MAX_SIZE:
        raise ValueError("a size of more than 1 EiB")
    return int(size)


def format_duration(seconds: float) -> str:
    """For people, in at most two units: `45s`, `1h 30m`, `2d 3h`; below ten seconds with one decimal: `1.5s`."""
    sign = "-" if seconds < 0 else ""
    seconds = abs(seconds)
    if seconds < 9.95:
        return f"{sign}{seconds:.1f}".removesuffix(".0") + "s"
    # Two units are shown, so the rounding is to the smaller of them: 59m 59.7s is 1h, not 59m 60s.
    grain = 1 if seconds < 3600 else 60 if seconds < 86400 else 3600
    left = round(seconds / grain) * grain
    shown = []
    for name, length in _UNITS.items():
        count, left = divmod(left, int(length))
        if count:
            shown.append(f"{count}{name}")
    return sign + " ".join(shown[:2])


def format_size(size: int) -> str:
    """For people, in binary units with at most one decimal: `0B`, `512MiB`, `1.5GiB`."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(amount) < 1023.95:
            return f"{amount:.1f}".removesuffix(".0") + unit
        amount /= 1024
    return f"{amount:.1f}".removesuffix(".0") + "PiB"
