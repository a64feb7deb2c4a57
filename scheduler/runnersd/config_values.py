"""The kinds of value a setting takes. Pure: a value as YAML gave it in, the daemon's value out.

Every kind is a function that raises ValueError with what is allowed; `runnersd.config` says where.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from runners.pipeline.quantities import parse_duration, parse_size

#: Reads one value.
Kind = Callable[[Any], Any]


def maybe(kind: Kind) -> Kind:
    """That kind, or null."""
    return lambda value: None if value is None else kind(value)


def choice(*allowed: str) -> Kind:
    """One of a few words."""

    def parse(value: Any) -> str:
        if isinstance(value, str) and value in allowed:
            return value
        raise ValueError(f"must be {' or '.join(allowed)}")

    return parse


def integer(at_least: int = 0) -> Kind:
    """A whole number."""

    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value <= 1 << 53:
            raise ValueError(f"must be a whole number, at least {at_least}")
        return value

    return parse


def duration(at_least: float = 0.0) -> Kind:
    """Seconds, from a number or `90s`, `30m`, `12h`, `2d`, `1:30:00`."""

    def parse(value: Any) -> float:
        seconds = parse_duration(value)
        if seconds < at_least:
            raise ValueError(f"must be at least {at_least:g}s")
        return seconds

    return parse


def size(at_least: int = 0) -> Kind:
    """Bytes, from a number or `512MiB`, `8GiB`."""

    def parse(value: Any) -> int:
        size = parse_size(value)
        if size < at_least:
            raise ValueError(f"must be at least {at_least} bytes")
        return size

    return parse


def listing(of: Kind) -> Kind:
    """A list of that kind."""

    def parse(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError("must be a list")
        return tuple(of(item) for item in value)

    return parse


def flag(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def text(value: Any) -> str:
    """Text; a whole number counts as its digits, as for a card's index."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError("must be text")
    return value


def group_name(value: Any) -> str:
    """The name of a Unix group."""
    name = text(value)
    if not re.fullmatch(r"[^\s:/,]+", name):
        raise ValueError("must be the name of a group")
    return name


def absolute_path(value: Any) -> str:
    """A path that means the same wherever the daemon was started."""
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError("must be an absolute path")
    return value


def command(value: Any) -> str | tuple[str, ...]:
    """A shell command, or a list of arguments."""
    if isinstance(value, list):
        if not value:
            raise ValueError("must name a program")
        return tuple(text(part) for part in value)
    return text(value)
