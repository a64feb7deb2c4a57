"""What may be asked of one job: to end, to wait, to go on, to be otherwise. Only an event changes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from runners.api import WAITING, Code, JobState
from runners.errors import IllegalTransition, Unavailable
from runnersd import lifecycle
from runnersd.engine.admissions import Admissions
from runnersd.engine.loop import Loop
from runnersd.model import Job, JobId, Reason
from runnersd.revision import revise
from runnersd.store import Store


class Jobs:
    """The engine's jobs, one by one. An answer waits for the commit of what it says.

    Everything here raises `NotFound` where there is no such job, `IllegalTransition` where it is over, and
    `Unavailable` where what is asked cannot be made durable.
    """

    def __init__(self, store: Store, loop: Loop, admissions: Admissions, clock: Callable[[], float]) -> None:
        self._store, self._loop, self._admissions, self._clock = store, loop, admissions, clock

    async def cancel(self, id: JobId, by: str, *, at_once: bool = False) -> Job:
        """End a live job, or take a waiting one out of the queue. ``at_once`` leaves no grace."""
        job = await self._unsettled(id, "cancel")
        reason, now = Reason(Code.CANCELLED_BY, f"cancelled by {by}"), self._clock()
        if job.state in WAITING:
            job = self._store.record(lifecycle.Cancelled(id, job.attempt, reason, None, now), now)
        elif job.state is not JobState.STOPPING or at_once or (job.reason and job.reason.code is not Code.CANCELLED_BY):
            job = self._store.record(lifecycle.Stopping(id, job.attempt, reason, now), now)
            self._loop.attempts.stop(job, at_once=at_once)
        await self._loop.saved()
        return job

    async def cancelled(self, id: JobId) -> Job:
        """The job as :meth:`cancel` would leave it to the queue: held for good, or stopping. Nothing is changed."""
        job = await self._unsettled(id, "cancel")
        reason = Reason(Code.CANCELLED_BY, "cancelled")
        if job.state in WAITING:
            return replace(job, state=JobState.HELD, reason=reason)
        return replace(job, state=JobState.STOPPING, reason=reason)

    async def hold(self, id: JobId, by: str) -> Job:
        """Keep a queued job from starting. Holding a held job changes nothing."""
        job = await self._unsettled(id, "hold")
        if job.state is JobState.HELD:
            return job
        job = self._store.record(_held(job, by), self._clock())
        await self._loop.saved()
        return job

    async def release(self, id: JobId) -> Job:
        """Let a held job start again. Releasing a queued job changes nothing."""
        job = await self._unsettled(id, "release")
        _must_wait(job, "release")
        if job.state is JobState.HELD:
            job = self._store.record(lifecycle.Released(id, job.attempt), self._clock())
            await self._loop.saved()
        return job

    async def update(self, id: JobId, changes: Mapping[str, Any], *, operator: bool) -> Job:
        """Change what was asked for: any key of a waiting job; a live one's `LIVE_KEYS`.

        Raises:
            InvalidPipeline: a value is wrong, or could never run here.
            IllegalTransition: the job is too far on for that.
            NotAllowed: a priority above 0, by somebody who is not an operator.
            AlreadyTaken: a time limit that reaches into somebody's booking, by the same.
        """
        job = await self._unsettled(id, "update")
        job = self._store.record(self._revised(job, changes, operator), self._clock())
        await self._loop.saved()
        return job

    async def changed(
        self, id: JobId, changes: Mapping[str, Any], held: bool | None, by: str, *, operator: bool
    ) -> Job:
        """What :meth:`update`, :meth:`hold` and :meth:`release` would make of the job. Nothing is changed.

        Raises:
            InvalidPipeline, IllegalTransition, NotAllowed, AlreadyTaken: as they would.
        """
        job = await self._unsettled(id, "change")
        if changes:
            job = lifecycle.apply(job, self._revised(job, changes, operator))
        if held and job.state is not JobState.HELD:
            job = lifecycle.apply(job, _held(job, by))
        if held is False:
            _must_wait(job, "release")
            if job.state is JobState.HELD:
                job = lifecycle.apply(job, lifecycle.Released(id, job.attempt))
        return job

    async def signal(self, id: JobId, number: int) -> Job:
        """Pass a signal on to a live job's processes.

        Raises:
            IllegalTransition: it has none yet.
        """
        job = await self._unsettled(id, "signal")
        if not job.live:
            raise IllegalTransition(f"cannot signal job {id}: it is {job.state.value}, and has no processes yet")
        await self._loop.attempts.signal(job, number)
        return job

    def _revised(self, job: Job, changes: Mapping[str, Any], operator: bool) -> lifecycle.Revised:
        others = self._store.snapshot.progress[job.pipeline.id].jobs
        now = self._clock()
        event = revise(job, changes, {other.spec.name for other in others if other.id != job.id}, now)
        self._admissions.check_revised(job, event.spec, now, operator=operator)
        return event

    async def _unsettled(self, id: JobId, verb: str) -> Job:
        job = self._store.snapshot.jobs.get(id) or await self._store.job(id)
        if job.settled:
            raise IllegalTransition(f"cannot {verb} job {id}: it is over ({job.state.value})")
        if id not in self._store.snapshot.jobs:
            raise Unavailable(f"cannot {verb} job {id}: what became of it could not be written; try again in a moment")
        return job


def _must_wait(job: Job, verb: str) -> None:
    if job.state not in WAITING:
        raise IllegalTransition(f"cannot {verb} job {job.id}: it is {job.state.value}; only a waiting job can be")


def _held(job: Job, by: str) -> lifecycle.Held:
    _must_wait(job, "hold")
    reason = Reason(Code.HELD, f"held by {by}; `runners-client release {job.id}` lets it go on")
    return lifecycle.Held(job.id, job.attempt, reason)
