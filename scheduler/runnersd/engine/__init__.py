"""The one loop: look at the world, plan, record, act. `Engine` is its door."""

from runnersd.engine.engine import Engine
from runnersd.engine.loop import Machine

__all__ = ["Engine", "Machine"]
