"""`--since`: how long ago, or from when on."""

from __future__ import annotations

from .options import Command, wrong


def since(text: str | None, now: float, command: Command) -> float | None:
    """Unix seconds of ``7d``, ``12h`` (so long ago) or an ISO date or time; None for None.

    Raises:
        InvalidRequest: it is neither, or has not come yet.
    """
    if text is None:
        return None
    at = _read(text, now)
    if at is None:
        wrong(command, f"--since takes how long ago (12h, 7d) or a date (2026-01-31), not {text!r}")
    if at > now:
        wrong(command, f"--since {text} has not come yet")
    return max(at, 0.0)


def _read(text: str, now: float) -> float | None:
    from runners.pipeline.quantities import parse_duration, parse_moment

    try:
        return now - parse_duration(text)
    except ValueError:
        a_date = not text.startswith("+")  # `+2h` is a time to come
    try:
        return parse_moment(text, now) if a_date else None
    except ValueError:
        return None
