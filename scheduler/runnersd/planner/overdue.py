"""Jobs for one card, or none, that have waited too long behind jobs for several; and when it is their turn.

Cards are kept for a job that needs several before anything is for others. Such jobs, one after another, could have all
cards for ever. So who has waited too long goes before those of them that come from then on. They take turns: else many
who came together could keep a job for several waiting for as long as all of them take.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from runnersd.lines import Line
from runnersd.model import JobId
from runnersd.planner.promises import AT_LAST
from runnersd.planner.world import World

#: So many lines with overdue jobs are looked at.
LOOKED_AT = 200


class Overdue(NamedTuple):
    """A job for at most one card that has waited too long, since then (Unix seconds)."""

    since: float
    job: JobId
    line: Line


def overdue(priority: int, world: World, now: float) -> Iterator[Overdue]:
    """The first job of each line of that priority, if it is: those first that have been for longest."""
    most = AT_LAST * world.measures.max_delay
    for promised, id, line in islice(world.snapshot.lines.turns.get(priority, ()), LOOKED_AT):
        if promised + most >= now:
            break
        yield Overdue(promised + most, id, line)


def is_their_turn(first: Overdue, world: World) -> bool:
    """Whether nobody like it that came as early has started since a job for several cards did."""
    return world.snapshot.came_since > world.snapshot.jobs[first.job].came_at
