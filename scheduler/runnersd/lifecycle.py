"""How a job moves. Every transition is in TRANSITIONS; nothing moves a job another way.

Events are news about one attempt, in the past tense. :func:`apply` is the only function that makes a job of another
state; the store calls it and writes what it returns. :func:`verdict` turns the end of an attempt into the event its
job takes, which is where retries are decided.
"""

from __future__ import annotations

import signal as signals
from dataclasses import dataclass, replace

from runners.api import Code, JobState
from runners.errors import IllegalTransition
from runners.spec import JobSpec
from runnersd.model import GpuId, Job, JobId, Outcome, Reason

S = JobState

#: `retries` applies to these ends and to no others.
RETRIED = frozenset(
    {
        Code.EXIT_CODE,
        Code.SIGNAL,
        Code.OUT_OF_MEMORY,
        Code.GPU_LOST,
        Code.CONTAINER_LOST,
        Code.SUPERVISOR_LOST,
        Code.MACHINE_RESTARTED,
    }
)
#: A retry's delay doubles up to this many seconds.
MAX_RETRY_DELAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to one attempt of a job."""

    job: JobId
    attempt: int


@dataclass(frozen=True, slots=True)
class Reserved(Event):
    """The job was given its cards, before anything is launched. ``attempt`` is the new one."""

    gpus: tuple[GpuId, ...] = ()


@dataclass(frozen=True, slots=True)
class Started(Event):
    """Its processes run since ``at`` (Unix seconds)."""

    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Stopping(Event):
    """It has to end, and ``reason`` says why; the effect comes after."""

    reason: Reason
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Ended(Event):
    """The attempt is over and so is its job. ``exit_code`` is the process's own, where there was one."""

    reason: Reason
    exit_code: int | None = None
    at: float = 0.0
    peak_memory: int | None = None  #: bytes that its processes had at most


@dataclass(frozen=True, slots=True)
class Succeeded(Ended):
    """It exited 0."""


@dataclass(frozen=True, slots=True)
class Failed(Ended):
    """It did not, and there is no attempt left; or it can never be started (its image cannot be had)."""


@dataclass(frozen=True, slots=True)
class TimedOut(Ended):
    """It was stopped at its time limit."""


@dataclass(frozen=True, slots=True)
class Cancelled(Ended):
    """Somebody stopped it, or took it out of the queue."""


@dataclass(frozen=True, slots=True)
class Skipped(Ended):
    """What it waited for did not end well."""


@dataclass(frozen=True, slots=True)
class Requeued(Event):
    """The attempt is over, and the job will be tried again, not before ``not_before`` (Unix seconds)."""

    reason: Reason
    exit_code: int | None = None
    at: float = 0.0
    not_before: float | None = None
    peak_memory: int | None = None  #: bytes that its processes had at most


@dataclass(frozen=True, slots=True)
class Held(Event):
    """Its owner keeps it from starting."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Released(Event):
    """It may start again."""


@dataclass(frozen=True, slots=True)
class Revised(Event):
    """What was asked for has changed: a queued job's keys, or a live one's time limit, name and such."""

    spec: JobSpec
    not_before: float | None = None


@dataclass(frozen=True, slots=True)
class Idled(Event):
    """Its cards have done nothing since then (Unix seconds), for too long; or, with None, they are busy again."""

    since: float | None


TRANSITIONS: dict[tuple[JobState, type[Event]], JobState] = {
    (S.QUEUED, Reserved): S.STARTING,
    (S.QUEUED, Held): S.HELD,
    (S.QUEUED, Cancelled): S.CANCELLED,
    (S.QUEUED, Skipped): S.SKIPPED,
    (S.QUEUED, Failed): S.FAILED,
    (S.QUEUED, Revised): S.QUEUED,
    (S.HELD, Released): S.QUEUED,
    (S.HELD, Cancelled): S.CANCELLED,
    (S.HELD, Skipped): S.SKIPPED,
    (S.HELD, Revised): S.HELD,
    (S.STARTING, Started): S.RUNNING,
    (S.STARTING, Stopping): S.STOPPING,
    (S.STARTING, Succeeded): S.SUCCEEDED,
    (S.STARTING, Failed): S.FAILED,
    (S.STARTING, Requeued): S.QUEUED,
    (S.STARTING, Revised): S.STARTING,
    (S.RUNNING, Stopping): S.STOPPING,
    (S.RUNNING, Succeeded): S.SUCCEEDED,
    (S.RUNNING, Failed): S.FAILED,
    (S.RUNNING, Requeued): S.QUEUED,
    (S.RUNNING, Revised): S.RUNNING,
    (S.RUNNING, Idled): S.RUNNING,
    (S.STOPPING, Stopping): S.STOPPING,
    (S.STOPPING, Succeeded): S.SUCCEEDED,
    (S.STOPPING, Cancelled): S.CANCELLED,
    (S.STOPPING, TimedOut): S.TIMED_OUT,
    (S.STOPPING, Failed): S.FAILED,
    (S.STOPPING, Requeued): S.QUEUED,
    (S.STOPPING, Revised): S.STOPPING,
}


def apply(job: Job, event: Event) -> Job:
    """The job after the event.

    Raises:
        IllegalTransition: the event does not fit the job's state, or speaks of another attempt.
    """
    state = TRANSITIONS.get((job.state, type(event)))
    current = job.attempt + 1 if isinstance(event, Reserved) else job.attempt
    if state is None or event.attempt != current:
        raise IllegalTransition(
            f"cannot take {type(event).__name__} of attempt {event.attempt}: "
            f"job {job.id} is {job.state} on attempt {job.attempt}"
        )
    match event:
        case Reserved(gpus=gpus):
            return replace(
                job, state=state, attempt=event.attempt, gpus=gpus, reason=None, exit_code=None,
                started_at=None, finished_at=None, not_before=None,
            )  # fmt: skip
        case Started(at=at):
            return replace(job, state=state, started_at=at)
        case Stopping(reason=reason, at=at):
            # The first reason to stop stays, unless it left the job another attempt and the next one does not. Whoever
            # cancels it is promised that it is cancelled: even when it has just ended by itself at its time limit.
            stays = job.reason is not None and _weight(job.reason) >= _weight(reason)
            kept = job.reason if stays else reason
            return replace(job, state=state, reason=kept, stopping_at=job.stopping_at or at)
        case Ended(reason=reason, exit_code=code, at=at):
            return replace(
                job, state=state, gpus=(), reason=reason, exit_code=code, finished_at=at, stopping_at=None,
                idle_since=None,
            )  # fmt: skip
        case Requeued(reason=reason, exit_code=code, not_before=not_before):
            made_way = reason.code is Code.PREEMPTED
            return replace(
                job, state=state, gpus=(), reason=None, exit_code=code, started_at=None, finished_at=None,
                not_before=not_before, failures=job.failures + (not made_way), preempted=job.preempted + made_way,
                stopping_at=None, idle_since=None,
            )  # fmt: skip
        case Held(reason=reason):
            return replace(job, state=state, reason=reason)
        case Released():
            return replace(job, state=state, reason=None)
        case Revised(spec=spec, not_before=not_before):
            return replace(job, state=state, spec=spec, not_before=not_before)
        case Idled(since=since):
            return replace(job, state=state, idle_since=since)
    raise TypeError(f"cannot apply {type(event).__name__}: no rule says what it changes")


def final(cause: Reason) -> bool:
    """Whether a job that is stopped for this reason is over then, however many retries it has left."""
    return cause.code not in RETRIED and cause.code is not Code.PREEMPTED


def _weight(cause: Reason) -> int:
    return 2 if cause.code is Code.CANCELLED_BY else int(final(cause))


def verdict(job: Job, outcome: Outcome, now: float) -> Event:
    """What the end of a live job's attempt means for the job: over, or another attempt.

    ``now`` (Unix seconds) dates an end that nobody saw.
    """
    at = outcome.finished_at if outcome.finished_at is not None else now
    code, peak = outcome.exit_code, outcome.peak_memory
    if job.state is S.STOPPING and job.reason is not None and not _by_itself(job.reason, outcome):
        cause = job.reason
        if cause.code is Code.TIME_LIMIT:
            return TimedOut(job.id, job.attempt, cause, code, at, peak)
        if cause.code is Code.PREEMPTED:
            return Requeued(job.id, job.attempt, cause, code, at, None, peak)
        if final(cause):
            return Cancelled(job.id, job.attempt, cause, code, at, peak)
        reason = cause
    else:
        reason = outcome.failure or exit_reason(code, outcome.signal)
    if reason.code is Code.OK:
        return Succeeded(job.id, job.attempt, reason, code, at, peak)
    if reason.code in RETRIED and job.failures < job.spec.retries:
        # An end that is yet to come is by a clock that has been set since.
        not_before = min(at, now) + _retry_delay(job.spec, job.failures)
        return Requeued(job.id, job.attempt, reason, code, at, not_before, peak)
    return Failed(job.id, job.attempt, reason, code, at, peak)


def postponed(job: Job, by: float, now: float, since: float) -> Revised | None:
    """What keeps a retry's delay as long as it was when the clock has been set ``by`` so many seconds; None: it is.

    ``since``: the earliest time, by the clock as it is at ``now``, at which it may have been set. Who failed later, by
    their own word, have a delay by that clock. A delay is never longer than the job asks for. A ``begin`` goes by the
    clock, as ever.
    """
    failed = job.state in (S.QUEUED, S.HELD) and job.failures > 0
    if not failed or job.not_before is None or job.not_before == job.spec.begin:
        return None
    delay = _retry_delay(job.spec, job.failures - 1)
    if since <= job.not_before - delay <= now:
        return None
    return Revised(job.id, job.attempt, job.spec, min(job.not_before + by, now + delay))


def _retry_delay(spec: JobSpec, failures: int) -> float:
    """Seconds from a failure to the next attempt, after so many failures before it."""
    delay: float = min(spec.retry_delay * 2**failures, MAX_RETRY_DELAY)
    return delay


def _by_itself(cause: Reason, outcome: Outcome) -> bool:
    """Whether the attempt had ended before it was told to stop, and not of what it was to be stopped for."""
    if cause.code is Code.CANCELLED_BY:  # who asked for that was promised it
        return False
    failed_with_its_card = cause.code is Code.GPU_LOST and outcome.exit_code != 0
    return outcome.failure is None and not outcome.stopped and not failed_with_its_card


def exit_reason(code: int | None, signal: int | None) -> Reason:
    """A process's end as a reason."""
    if code == 0:
        return Reason(Code.OK, "ended well")
    if signal:
        try:
            name = signals.Signals(signal).name
        except ValueError:
            name = f"signal {signal}"
        return Reason(Code.SIGNAL, f"killed by {name} ({signal})")
    return Reason(Code.EXIT_CODE, f"exited with code {code}")
