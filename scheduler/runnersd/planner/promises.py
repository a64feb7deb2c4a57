"""When cards are kept for a job that needs several, which was promised them.

To have many cards free at once is costly: those that are free wait for the last one. So nothing is kept where that
would take long and the job has not waited long. Until then the cards are only *owed*: who has a time limit heeds that,
others may go first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from runners.api import JobState
from runnersd.model import GpuId, Job
from runnersd.past.estimates import Estimate
from runnersd.planner.decisions import Reservation
from runnersd.planner.lengths import is_brief, length
from runnersd.planner.world import World

#: So many promises are looked at at a time.
KEPT = 8
#: A job that is expected to run no longer than this starts when it can, whenever that was promised (seconds).
SHORT = 4 * 3600.0
#: It may have cards kept for so large a part of the longest delay, before its promise.
SOON = 1 / 6
#: Who has run for so large a part of the longest delay, has no limit, and is of no brief kind, may run on for long; to
#: so large a part of the cards' number there may be such while cards are kept free beside them.
LONG, FEW = 1 / 12, 1 / 4
#: Until a short job's promise others may have what is owed to it until so many times the longest delay after that.
AFTER = 1.5
#: So many times the longest delay after its promise, cards are kept for a job whoever has them.
AT_LAST = 3.0


def is_short(estimate: Estimate, world: World) -> bool:
    """Whether the job starts as soon as it can."""
    return estimate.known and length(estimate, world) <= SHORT


def lent_until(promised: float, short: bool, world: World, now: float) -> float:
    """Until when others may have what is owed to a job that was promised a start then, however soon it could be free.

    A short job has cards kept from its promise on. Before that it needs no more than a bound: if others had to leave
    its cards by the first time at which it could start, hardly anything could begin beside what runs for long anyway.
    """
    return promised + AFTER * world.measures.max_delay if short and now < promised else -math.inf


def is_ripe(
    made: Reservation,
    promised: float,
    short: bool,
    waited: float,
    given: Mapping[GpuId, Sequence[Job]],
    world: World,
    now: float,
) -> bool:
    """Whether it is time to keep what was found for a job that was promised a start then (Unix seconds).

    ``waited`` is how long it and others like it have waited, together (seconds): so long may the cards that are free
    wait for the rest of them. ``given`` are the jobs that start with this plan, by card.
    """
    delay, snapshot = world.measures.max_delay, world.snapshot
    if now >= promised + AT_LAST * delay:
        return True
    if now < promised and not short:
        return False
    holders = {id: job for uuid in made.gpus for id, job in snapshot.holders.get(uuid, {}).items()}
    starting = (job for uuid in made.gpus for job in given.get(uuid, ()))
    left, long = max((job.spec.time_limit or 0.0 for job in starting), default=0.0), 0
    for id, job in holders.items():
        began = world.began(job)
        if job.state is JobState.STOPPING or began is None:
            continue
        estimate, ran = snapshot.outlook[id], now - began
        if estimate.limit is not None:
            left = max(left, estimate.limit - ran)
        elif ran > LONG * delay and not is_brief(estimate, ran, world):
            long += 1
    if long > FEW * world.measures.cards:
        return False
    return now >= promised or left <= max(SOON * delay, waited)
