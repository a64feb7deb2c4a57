"""How long jobs are taken to run: those that run, and those that wait. Times in seconds."""

from __future__ import annotations

import math

from runners.api import JobState
from runnersd.model import Job, JobId
from runnersd.past.estimates import Estimate
from runnersd.planner.world import World

#: Which of the jobs like it a running job is thought to outlast: as many as not.
_LIKELY = 0.5
#: A job without a limit passes a reservation if so large a part of jobs like it would end in time. The larger, the
#: later the reservation already is, in times that it may be delayed; and from the last of these on it does not pass.
_CAUTION = ((0.0, 0.5), (2.0, 0.9), (8.0, 1.0))
#: The least that is thought to be left of a job that runs, where no limit says so.
_LEAST = 30.0
#: A job without a limit starts on a card that is booked if so large a part of jobs like it would end before that.
_SURE = 0.9


def end_of(job: Job, world: World, now: float) -> float:
    """When a live job is expected to end (Unix seconds)."""
    if job.state is JobState.STOPPING:
        return now + job.spec.grace
    estimate = world.snapshot.outlook[job.id]
    unknown = world.measures.max_delay
    if job.started_at is None:
        return now + max(estimate.quantile(_LIKELY, unknown), _LEAST)
    left = estimate.remaining(now - job.started_at, _LIKELY, unknown)
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


def passing(estimate: Estimate, world: World, late: float) -> float:
    """What a job must be given that is to pass a reservation, which is so many seconds later than it was promised.

    A job with a limit needs that, since it keeps it. Another passes by a prediction, which must be the safer the later
    the reservation is. One of which nothing is known is taken to run for just longer than a reservation may be delayed,
    and does not pass one that has been.
    """
    if estimate.limit is not None:
        return estimate.limit
    most = world.measures.max_delay
    if not estimate.known:
        return most + _LEAST if late <= most else math.inf
    if late > most * _CAUTION[-1][0]:
        return math.inf
    share = max(share for times, share in _CAUTION if late >= times * most)
    seconds = estimate.quantile(share, most)
    # What runs is thought to need `_LEAST` at least. What is shorter would pass for ever, one after another.
    return seconds if late <= most else max(seconds, 2 * _LEAST)
