"""Why a job is where it is. Pure and total: every job gets a sentence, and every queued one a true one."""

from __future__ import annotations

from datetime import UTC, datetime

from runners.api import Code, JobState
from runnersd.lines import line_of
from runnersd.model import Job, Reason
from runnersd.planner import Plan, World
from runnersd.planner.words import cards_text
from runnersd.telemetry.idleness import idle_text

#: Seconds past a stopped job's grace after which it is called stuck.
STUCK_AFTER = 15.0


def explain(job: Job, world: World, plan: Plan, now: float) -> Reason:
    """The job's reason. ``plan`` is the last one made of ``world``; ``now`` in Unix seconds."""
    match job.state:
        case JobState.STARTING | JobState.STOPPING if _unseen(job, world):
            doing = "being launched" if job.state is JobState.STARTING else f"stopping: {_cause(job)}"
            return Reason(
                Code.UNKNOWN,
                f"{doing}{_on_cards(job)}; the container engine does not answer ({world.engine.problem})",
            )
        case JobState.STARTING:
            return Reason(Code.LAUNCHING, f"being launched{_on_cards(job)}")
        case JobState.RUNNING if _unseen(job, world):
            return Reason(
                Code.UNKNOWN,
                f"most likely runs{_on_cards(job)}, which stay held: the container engine does not answer "
                f"({world.engine.problem})",
            )
        case JobState.RUNNING if job.idle_since is not None:
            return Reason(Code.IDLE, f"runs; {idle_text(job, now)}")
        case JobState.RUNNING:
            return Reason(Code.RUNNING, f"runs{_on_cards(job)}")
        case JobState.STOPPING:
            return _stopping(job, now)
        case JobState.QUEUED:
            return _waiting(job, world, plan, now)
    return job.reason or Reason(Code.OK, "ended")


def _waiting(job: Job, world: World, plan: Plan, now: float) -> Reason:
    progress = world.snapshot.progress.get(job.pipeline.id)
    if progress is None:
        # Read from the rows, which are behind what is known of it: the write of that has failed or is about to.
        return Reason(Code.STARTING_SOON, "ready, or over already: the daemon's database is being looked at again")
    if job.id in world.snapshot.doomed:
        return progress.failed_need(job)
    if world.paused is not None:
        return Reason(Code.PAUSED, f"nothing new starts while the queue is paused: {world.paused or 'no reason given'}")
    if job.not_before is not None and job.not_before > now:
        if job.failures:
            return Reason(
                Code.RETRY_DELAY, f"attempt {job.attempt} failed; the next starts after {_clock(job.not_before)}"
            )
        return Reason(Code.BEGIN_TIME, f"not before {_clock(job.not_before)}")
    needs = progress.why(job.position)
    if needs is not None:
        return needs
    if world.low_disk is not None:
        return Reason(Code.LOW_DISK, world.low_disk)
    if not progress.below_limit:
        running = "1 job of this pipeline runs" if progress.live == 1 else f"{progress.live} jobs of this pipeline run"
        return Reason(Code.PIPELINE_LIMIT, f"{running}, its num_jobs is {job.pipeline.num_jobs}")
    claim = plan.claims.get(job.id)
    if claim is not None:
        return claim
    for over in plan.over_quota.get(job.pipeline.submitter.uid, ()):
        if job.spec.num_gpus >= over.num_gpus:
            wanted = f"needs {cards_text(job.spec.num_gpus)}: " if over.num_gpus else ""
            return Reason(over.reason.code, f"{wanted}{over.reason.text}")
    line = line_of(job)
    blocked = plan.blocked_for.get(line) or plan.blocked.get(line.shape)
    if blocked is not None:
        return blocked
    return Reason(Code.STARTING_SOON, "ready; starts when the jobs before it in the queue have been looked at")


def _stopping(job: Job, now: float) -> Reason:
    cause = _cause(job)
    late = now - (job.stopping_at or now) - job.spec.grace
    if late > STUCK_AFTER:
        return Reason(
            Code.STUCK, f"{cause}; its processes do not die ({late:.0f} s past their grace), its cards stay held"
        )
    return Reason(Code.STOPPING, cause)


def _unseen(job: Job, world: World) -> bool:
    """Whether nobody can tell how the job is: it is in a container, of an engine that does not answer."""
    return job.spec.run_in == "container" and world.engine.problem is not None


def _cause(job: Job) -> str:
    return job.reason.text if job.reason is not None else "asked to stop"


def _on_cards(job: Job) -> str:
    if not job.gpus:
        return ""
    return f" on {len(job.gpus)} card{'s' if len(job.gpus) > 1 else ''}"


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
