"""A Docker engine of the tests' own, images for it, and a proxy that stands between it and whoever calls it."""

from __future__ import annotations

from engine.api import Answer, call
from engine.engine import CARDS, Engine
from engine.images import BARE, PROGRAM, SHELL
from engine.requirements import Unavailable, require_tools

__all__ = [
    "BARE",
    "CARDS",
    "PROGRAM",
    "SHELL",
    "Answer",
    "Engine",
    "Unavailable",
    "call",
    "require_tools",
]
