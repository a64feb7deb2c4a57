"""What people ask before they act: who is ahead, what would help, and what a submission or a change would do."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence

from runners.api import WAITING, AdviceView, AheadView, Code, EffectView, JobState
from runners.spec import Submission
from runnersd.engine.foretelling import Foretelling, finished
from runnersd.engine.loop import Loop
from runnersd.explain import explain
from runnersd.forecast import Expectation, Forecast, Forecaster, Foreseen, advice, can_be_advised, effects
from runnersd.model import Job, JobId, Reason, Submitter
from runnersd.planner import Start, plan
from runnersd.store import Store
from runnersd.store.intake import build
from runnersd.store.shared import Shared
from runnersd.views import ahead_view, effect_view

#: Jobs of a submission that are answered one by one.
ANSWERED = 500
#: Effects on others that are told.
TOLD = 1000
#: Numbers of jobs and pipelines that are only imagined: after all real ones.
_IMAGINED = 1 << 52
#: Such a number in a sentence: alone, or after the job's name.
_NUMBER = re.compile(r"(?P<of_a_name> \(4503599\d{9}\))|(?:job )?(?P<number>\b4503599\d{9}\b)(?: \([^)]*\))?")


class Answers:
    """Answers of the moment. Nothing is changed, stored or logged by any of them."""

    def __init__(self, loop: Loop, store: Store, clock: Callable[[], float]) -> None:
        self._loop, self._store, self._clock = loop, store, clock
        self._foretelling = Foretelling(loop.world, lambda: loop.plan, clock)

    async def forecast(self, patience: float | None = None) -> Forecast:
        """When the jobs in line are expected to start; after that many seconds, what was foretold last."""
        return await self._foretelling.now(patience)

    async def close(self) -> None:
        """Leave off what is being made."""
        await self._foretelling.close()

    def ahead(self, job: Job, forecast: Forecast) -> AheadView | None:
        """The waiting jobs that are expected to start before this one, of those that want cards too if it does."""
        jobs = self._store.snapshot.jobs
        if job.state is not JobState.QUEUED or job.id not in forecast.expected:
            return None
        before = forecast.in_time[: forecast.in_time.index(job.id)]
        found = [jobs[id] for id in before if id in jobs and jobs[id].state is JobState.QUEUED]
        return ahead_view([one for one in found if one.spec.num_gpus or not job.spec.num_gpus])

    async def would_start_now(self, job: Job) -> list[AdviceView] | None:
        """What would let the job start at once; None for one that waits for something else than resources."""
        if not can_be_advised(job, self._loop.world()):
            return None
        found: list[AdviceView] = []
        for one in advice(job, self._loop.world, self._clock):
            if one is not None:
                found.append({"key": one.key, "value": one.value, "text": one.text})
            await asyncio.sleep(0)
            if self._store.snapshot.jobs.get(job.id) is not job:
                break
        return found

    async def of_submission(self, submissions: Sequence[Submission], submitter: Submitter) -> list[list[Foreseen]]:
        """What would become of each job of submissions that may be taken in.

        Raises:
            NotFound: a job that they are to come after does not exist.
        """
        earlier = [await self._store.job(int(id)) for id in {id for one in submissions for id in one.after}]
        world, now, snapshot = self._loop.world(), self._clock(), self._store.snapshot
        known = [snapshot.jobs.get(job.id, job) for job in earlier]
        settled = [job for job in known if job.settled]
        made = build(submissions, submitter, now, pipeline=_IMAGINED, job=_IMAGINED, shared=Shared())
        with snapshot.imagining(added=[(pipeline, jobs, settled) for pipeline, jobs, _ in made]):
            planned = plan(world, now)
            starts = {one.job.id: one.gpus for one in planned.decisions if isinstance(one, Start)}
            reasons = {job.id: explain(job, world, planned, now) for _, jobs, _ in made for job in jobs[:ANSWERED]}
            forecaster = Forecaster(world, now)
        names = {job.id: job.spec.name for _, jobs, _ in made for job in jobs}
        expected = (await finished(forecaster)).expected

        def foreseen(job: Job) -> Foreseen:
            gpus, start = starts.get(job.id), expected.get(job.id)
            if gpus is None:
                why = _in_names(reasons[job.id], names)
                return Foreseen(job.spec.name, None, why if start is None else start.told(why, now), start)
            reason = Reason(Code.STARTING_SOON, "nothing is in its way")
            return Foreseen(job.spec.name, gpus, reason, Expectation(now, now, now, gpus))

        return [[foreseen(job) for job in jobs[:ANSWERED]] for _, jobs, _ in made]

    async def of_change(self, changed: Sequence[Job], ending: Sequence[Job] = ()) -> list[EffectView]:
        """What it does to them and to others if waiting jobs change so, and if those that are ``ending`` end.

        The jobs themselves come first, then the others that it moves, the most affected first.
        """
        world, now, snapshot = self._loop.world(), self._clock(), self._store.snapshot
        before = Forecaster(world, now)
        ends: Mapping[JobId, float] = {job.id: now + job.spec.grace for job in ending}
        with snapshot.imagining(changed):
            after = Forecaster(world, now, ends)
        jobs = {job.id: job for job in changed}
        without, with_it = await finished(before), await finished(after)
        mine = [job.id for job in changed if job.state in WAITING]
        found = effects(without, with_it, mine)[: len(mine) + TOLD]
        known = {one.job: jobs.get(one.job) or snapshot.jobs.get(one.job) for one in found}
        return [effect_view(job, one) for one in found if (job := known[one.job]) is not None]


def _in_names(reason: Reason, names: Mapping[JobId, str]) -> Reason:
    """The sentence with names in place of the numbers that are only imagined."""

    def named(match: re.Match[str]) -> str:
        if match["of_a_name"]:
            return ""
        name = names.get(int(match["number"]))
        return match[0] if name is None else f"{name} of this submission"

    return Reason(reason.code, _NUMBER.sub(named, reason.text))
