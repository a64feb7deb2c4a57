"""How long jobs are taken to run: those that run, and those that wait. Times in seconds."""

from __future__ import annotations

import math
from typing import NamedTuple

from runners.api import JobState
from runnersd.model import Job, JobId
from runnersd.past.estimates import Estimate
from runnersd.planner.world import World

#: Which of the jobs like it a running job is thought to outlast: as many as not.
_LIKELY = 0.5
#: So many of a job's kind make a prediction that others may have to rely on.
SEEN = 3
#: What passes kept cards takes at most that part of the longest delay: who holds the others may leave sooner than
#: thought.
_AT_MOST = 1 / 3
#: A kind is brief if all of it that was seen took at most that part.
_BRIEFLY = 1 / 6
#: A job without a limit that wants to start while another is later than it may be, must be of a kind of which so large
#: a part takes at most that part of the longest delay.
_MOST, _BRIEF = 0.95, 2 / 3
#: The least that is thought to be left of a job that runs, where no limit says so.
_LEAST = 30.0
#: What passes kept cards is taken to need so long at least. What is shorter would pass for ever, one after another,
#: since what runs is thought to need `_LEAST`.
SHORTEST = 2 * _LEAST
#: A job without a limit starts on a card that is booked if so large a part of jobs like it would end before that.
_SURE = 0.9


def end_of(job: Job, world: World, now: float) -> float:
    """When a live job is expected to end (Unix seconds)."""
    if job.state is JobState.STOPPING:
        return now + job.spec.grace
    estimate = world.snapshot.outlook[job.id]
    unknown = world.measures.max_delay
    began = world.began(job)
    if began is None:
        return now + max(estimate.quantile(_LIKELY, unknown), _LEAST)
    left = estimate.remaining(now - began, _LIKELY, unknown)
    return now + (left if estimate.limit is not None else max(left, _LEAST))


def expected_ends(world: World, now: float) -> dict[JobId, float]:
    """When every live job is expected to end (Unix seconds)."""
    return {id: end_of(job, world, now) for id, job in world.snapshot.live.items()}


def end_is_known(job: Job, world: World) -> bool:
    """Whether there is anything to go by for a live job's end."""
    return job.state is JobState.STOPPING or world.snapshot.outlook[job.id].known


def length(estimate: Estimate, world: World) -> float:
    """How long a job that waits is expected to run."""
    return estimate.expected(world.measures.max_delay)


def clear_of_bookings(estimate: Estimate, world: World) -> float:
    """How long before somebody else's booking a job must start, to be on that card: its limit, or what few jobs like it
    pass. One of which nothing is known needs just longer than a reservation may be delayed."""
    if estimate.limit is not None:
        return estimate.limit
    return estimate.quantile(_SURE, world.measures.max_delay + _LEAST)


def is_brief(estimate: Estimate, elapsed: float, world: World) -> bool:
    """Whether a job that has run for so long is known to end soon, as all of its kind did."""
    longest = estimate.quantile(1.0, math.inf)
    seen = estimate.ground == "kind" and len(estimate.likely) >= SEEN
    return seen and elapsed < longest <= _BRIEFLY * world.measures.max_delay


class Passing(NamedTuple):
    """What a job must be given that is to go before others: seconds, and whether it ``heeds`` what is only owed."""

    seconds: float
    heeds: bool = False


def passing(estimate: Estimate, world: World, strict: bool = False, late: float = -math.inf) -> Passing:
    """What a job must be given that is to pass others for whom cards are kept (``strict``) or owed.

    A job with a limit must be done by then, since it keeps it. Another passes what is kept by a prediction: if all of
    its kind would have been done. What is owed it passes as it likes, until that is ``late`` by as many seconds as it
    may be: from then on only if jobs of its kind are known to be brief. One of which nothing is known passes nothing
    that is kept, and nothing that is late.
    """
    if estimate.limit is not None:
        return Passing(estimate.limit, heeds=True)
    most = world.measures.max_delay
    if not estimate.known:
        return Passing(math.inf, late > 0) if strict or late > 0 else Passing(most + _LEAST)
    seen = estimate.ground == "kind" and len(estimate.likely) >= SEEN
    if late >= most and not (seen and estimate.quantile(_MOST, most) <= _BRIEF * most):
        return Passing(math.inf, heeds=True)
    if strict:
        longest = estimate.quantile(1.0, most)
        return Passing(max(longest, SHORTEST) if seen and longest <= _AT_MOST * most else math.inf)
    return Passing(estimate.quantile(_LIKELY, most))
