"""What must end: jobs over their time limit, jobs whose card is lost, and, if so wanted, jobs that use no card."""

from __future__ import annotations

from collections.abc import Iterator

from runners.api import Code, JobState
from runnersd.model import Job, Reason
from runnersd.planner.decisions import Stop
from runnersd.planner.world import World
from runnersd.telemetry.idleness import idle_text


def time_limit_of(job: Job, world: World) -> float | None:
    """When a running job must be stopped (Unix seconds), if ever."""
    began = world.began(job)
    return None if began is None or job.spec.time_limit is None else began + job.spec.time_limit


def stops(world: World, now: float) -> Iterator[Stop]:
    """The live jobs that must end now."""
    seen = {gpu.uuid: gpu for gpu in world.inventory.gpus}
    unlisted = world.inventory.unlisted
    complete = not world.inventory.stale and world.inventory.problem is None
    for job in world.snapshot.live.values():
        if job.state not in (JobState.STARTING, JobState.RUNNING) or (job.id, job.attempt) in world.interrupted:
            continue
        lost = [id for id in job.gpus if (seen[id].lost if id in seen else complete and id not in unlisted)]
        limit = time_limit_of(job, world)
        if lost:
            yield Stop(job, Reason(Code.GPU_LOST, f"the driver lost card {', '.join(lost)}"))
        elif limit is not None and now >= limit:
            yield Stop(job, Reason(Code.TIME_LIMIT, f"over its time limit of {job.spec.time_limit:g} s"))
        elif world.stop_idle and job.idle_since is not None:
            yield Stop(job, Reason(Code.IDLE, f"{idle_text(job, now)}, for which jobs are stopped here"))


def deadlines(world: World, now: float) -> Iterator[float]:
    """When live jobs will have to end (Unix seconds)."""
    for job in world.snapshot.live.values():
        limit = time_limit_of(job, world)
        if limit is not None and limit > now and job.state is not JobState.STOPPING:
            yield limit
