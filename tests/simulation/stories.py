"""How a named story is told: what every one of them begins and ends with, and short words for what it is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from runnersd.model import RunName
from simulation.promises import check, check_end
from simulation.simulation import Simulation

#: Every moment of a short while, one by one.
MOMENTS = range(26)


@contextmanager
def told(seed: int = 1, **more: Any) -> Iterator[Simulation]:
    """A story that ends well: every promise is kept when it is told, and once everybody had the time to."""
    story = Simulation(seed, **more)
    try:
        yield story
        check(story)
        story.come_to_an_end()
        check(story)
        check_end(story)
    finally:
        story.close()


def job(command: str = "serve", **keys: Any) -> dict[str, Any]:
    """A job as it travels."""
    return {"name": keys.pop("name", "a"), "command": command, "num_gpus": 1, "grace": 2, **keys}


def run_of(story: Simulation, id: int = 1, attempt: int = 1) -> RunName:
    """What the machine knows an attempt by."""
    return RunName(story.database, id, attempt)


def runs(story: Simulation, id: int = 1, attempt: int = 1) -> Callable[[], bool]:
    """Whether an attempt runs, and the disk says so."""
    return lambda: run_of(story, id, attempt) in story.machine.running and story.state(id) == "running"
