"""A libnvidia-ml.so.1 of our own: what cards there are, and what goes wrong with them, is a text file."""

from __future__ import annotations

from fake_nvml.builder import CannotBuild, build
from fake_nvml.driver import Card, FakeDriver, Fault, Link, MigDevice, Process, XidEvent

__all__ = ["CannotBuild", "Card", "FakeDriver", "Fault", "Link", "MigDevice", "Process", "XidEvent", "build"]
