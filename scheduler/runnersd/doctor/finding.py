"""What a check says: one line, how bad it is, and what mends it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is. Only a failure makes `runnersd doctor` exit 1."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. ``fix``: commands for root, in order; what must be done by hand begins with `#`."""

    check: str  #: a short name that stays the same, for scripts
    level: Level
    text: str
    fix: tuple[str, ...] = ()


def ok(check: str, text: str) -> Finding:
    """As it should be."""
    return Finding(check, Level.OK, text)


def warning(check: str, text: str, *fix: str) -> Finding:
    """Missing, or weaker than it could be."""
    return Finding(check, Level.WARNING, text, fix)


def failure(check: str, text: str, *fix: str) -> Finding:
    """Breaks a promise, or keeps the daemon from starting."""
    return Finding(check, Level.FAILURE, text, fix)
