"""What is kept for jobs that need several cards: they are promised a start, and others may have the cards until then.

The promise gives way to smaller jobs that wait, as long as the machine needs for them, but not for longer than a
reservation may be delayed. So a long job for all cards does not follow the last one while everybody else still waits.
"""

from __future__ import annotations

from runnersd.lines import Shape
from runnersd.past.estimates import Estimate
from runnersd.planner.lengths import length
from runnersd.planner.world import World
from runnersd.urgency import work_of

#: So many promises are kept at a time.
KEPT = 8
#: A promise gives way to jobs of at most this part of its work, for so many times what the machine needs for them.
SMALLER, GIVEN_WAY = 0.25, 2.0
#: A job that is expected to run no longer than this starts when it can, whenever that was promised: to have so many
#: cards free at once was costly (seconds).
SHORT = 4 * 3600.0
#: One that is short keeps cards at once that are expected to be free so soon (seconds).
SOON = 3600.0


def not_before(promised: float, shape: Shape, priority: int, estimate: Estimate, world: World, now: float) -> float:
    """When cards are to be kept from, for a job that was promised a start then (Unix seconds)."""
    start = max(promised, now)
    measures = world.measures
    work = work_of(shape, estimate, measures)
    smaller = world.snapshot.lines.smaller_work(priority, SMALLER * work)
    clear = now + GIVEN_WAY * smaller / measures.cards
    return max(start, min(clear, promised + measures.max_delay))


def is_short(estimate: Estimate, world: World) -> bool:
    """Whether the job starts as soon as it can."""
    return estimate.known and length(estimate, world) <= SHORT
