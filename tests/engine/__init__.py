"""A Docker engine of the tests' own, images for it, and a proxy that stands between it and whoever calls it."""

from __future__ import annotations

from engine.api import Answer, call, following
from engine.engine import CARDS, Engine
from engine.images import BARE, PROGRAM, SHELL
from engine.proxy import Delay, Disconnect, Hang, Proxy, Reply
from engine.requirements import Unavailable, cards_are_isolated, require_tools

__all__ = [
    "BARE",
    "CARDS",
    "PROGRAM",
    "SHELL",
    "Answer",
    "Delay",
    "Disconnect",
    "Engine",
    "Hang",
    "Proxy",
    "Reply",
    "Unavailable",
    "call",
    "cards_are_isolated",
    "following",
    "require_tools",
]
