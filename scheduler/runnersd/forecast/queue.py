"""Who is in line, as far as it is looked at: a copy of the head of the queue that can be played forward."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from runners.api import Code, JobState
from runnersd.model import Job, JobId
from runnersd.planner.images import Images
from runnersd.planner.order import Order
from runnersd.planner.world import World
from runnersd.ready import Ready

#: So many jobs are played; those behind them are not foretold.
DEPTH = 100
#: Waiting jobs that are looked at, in queue order, for those that others or a time hold back.
LOOKED_AT = 1000
#: Jobs that may be waited for, counted for each job that waits for them.
MAX_NEEDS = 20_000


@dataclass(frozen=True, slots=True)
class Following:
    """A job that comes into line later: when others are over, and not before a time (Unix seconds)."""

    job: Job
    after: tuple[JobId, ...] = ()
    not_before: float = 0.0


@dataclass(slots=True)
class Queue:
    """The head of the queue: what is ready, in lines of its own, and what follows."""

    ready: Ready
    jobs: dict[JobId, Job]
    following: list[Following] = field(default_factory=list)


def queue_of(world: World, now: float) -> Queue:
    """The head of the queue as it is now. It does not change when the world does."""
    snapshot = world.snapshot
    jobs: dict[JobId, Job] = {}
    queue = Queue(Ready(jobs, snapshot.experience, world.measures), jobs)
    images = Images(world, now)
    for job in _ready(world):
        if _can_have_its_image(job, images):
            jobs[job.id] = job
            queue.ready.enter(job, shown=True)
    needs = 0
    for job in itertools.islice(snapshot.in_order(), LOOKED_AT):
        if len(jobs) + len(queue.following) >= 2 * DEPTH:
            break
        if job.state is not JobState.QUEUED or job.id in snapshot.doomed or job.id in jobs:
            continue
        if not _can_have_its_image(job, images):
            continue
        if snapshot.ready(job):
            jobs[job.id] = job
            queue.ready.enter(job, shown=True)
            continue
        after = snapshot.progress[job.pipeline.id].waits_for(job.position, MAX_NEEDS - needs)
        if after is not None:
            needs += len(after)
            queue.following.append(Following(job, after, job.not_before or 0.0))
    return queue


def _ready(world: World) -> list[Job]:
    """The first jobs that could start, in the planner's order."""
    snapshot, found = world.snapshot, list[Job]()
    for priority in sorted(snapshot.lines.bands, reverse=True):
        order = Order(snapshot.lines, priority, {})
        while len(found) < DEPTH and (first := order.first()) is not None:
            found.append(snapshot.jobs[first[0]])
            order.go_on("taken")
    return found


def _can_have_its_image(job: Job, images: Images) -> bool:
    """Whether a job runs on the host, or its image is there or on its way."""
    if job.spec.run_in != "container" or job.spec.image is None:
        return True
    lacking = images.lacks(job, job.spec.image)
    return lacking is None or lacking.code is Code.PULLING_IMAGE
