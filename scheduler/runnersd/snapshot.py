"""The jobs that matter now, indexed for the planner, and what is known of their users. Memory only; the store alone
changes it, by whole jobs.

A decision must cost what changes, not what is queued. So a job enters the ready lists (`runnersd.ready`) only when
nothing but resources stands between it and its start.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from runners.api import WAITING, JobState
from runnersd import lifecycle
from runnersd.lines import shape_of
from runnersd.model import GpuId, Job, JobId, Pipeline, PipelineId, Submitter
from runnersd.past.ends import lesson_of
from runnersd.past.estimates import Estimate
from runnersd.past.experience import Experience
from runnersd.past.kinds import Kind, kind_of
from runnersd.past.usage import Charge, Usage
from runnersd.progress import Progress
from runnersd.ready import Ready
from runnersd.urgency import Measures, cards_of

#: Queue order, as people see it: higher priority first, then submission.
Key = tuple[int, JobId]


class Learned(NamedTuple):
    """What was learned from the end of an attempt, to be kept: of which kinds, and what its user's use amounts to."""

    uid: int
    kinds: tuple[Kind, ...]
    forgotten: tuple[Kind, ...]  #: in their place
    charge: Charge | None


def key_of(job: Job) -> Key:
    """Where the job stands in the queue."""
    return (-job.spec.priority, job.id)


class Snapshot:
    """Every job of every pipeline that still has work to do. Readers must not change what they are given."""

    def __init__(self) -> None:
        self._measures = Measures()
        self.clear()

    def clear(self) -> None:
        """Forget everything, before it is all added anew."""
        self.jobs: dict[JobId, Job] = {}
        self.progress: dict[PipelineId, Progress] = {}
        self.live: dict[JobId, Job] = {}
        self.holders: dict[GpuId, dict[JobId, Job]] = {}
        self.waiting: list[Key] = []  #: every queued or held job, in order
        self.experience = Experience()
        self.usage = Usage()
        self.wide_starts: dict[int, float] = {}  #: when a user's latest job for several cards started (Unix seconds)
        self.wide_start = -math.inf  #: when the latest of all of those did
        self.came_since = math.inf  #: when the first came of all others that started since then (Unix seconds)
        self.lines = Ready(self.jobs, self.experience, self._measures)
        self.outlook: dict[JobId, Estimate] = {}  #: what is thought of live jobs' durations
        self.submitters: dict[int, Submitter] = {}  #: as they last submitted, by uid
        self.doomed: set[JobId] = set()  #: waiting jobs whose need has failed
        self._timers: list[tuple[float, JobId]] = []
        self._dependants: dict[JobId, set[PipelineId]] = {}

    # -- changes, by the store ---------------------------------------------------------------------------------------

    def add(
        self, pipeline: Pipeline, jobs: Sequence[Job], settled: Iterable[Job] = (), names: Sequence[str] | None = None
    ) -> None:
        """Take in a pipeline with all of its jobs, in the order of its file.

        ``settled`` are earlier jobs of other pipelines that it waits for (`after`) and that are over. ``names`` are
        those the jobs were submitted under, which needs use, where a job may have got another since.
        """
        over = {job.id: job for job in settled}
        self.submitters[pipeline.submitter.uid] = pipeline.submitter
        progress = Progress(pipeline, jobs, over, names)
        self.progress[pipeline.id] = progress
        for dependency in progress.awaited.keys() - over.keys():
            self._dependants.setdefault(dependency, set()).add(pipeline.id)
        for job in jobs:
            self.jobs[job.id] = job
            if job.live:
                self._hold(job)
        waiting = [key_of(job) for job in jobs if job.state in WAITING]
        if len(waiting) * 64 < len(self.waiting):
            for key in waiting:
                insort(self.waiting, key)
        else:
            self.waiting.extend(waiting)
            self.waiting.sort()
        for position in progress.open_positions():
            self._settle_in(progress, position)
        self.doomed.update(progress.take_doomed())

    def replace(self, job: Job) -> None:
        """The job has changed."""
        before = self.jobs[job.id]
        progress = self.progress[job.pipeline.id]
        waited = before.state in WAITING
        waits = job.state in WAITING
        if waited:
            self.lines.leave(before, shown=progress.shown)
            if not waits or key_of(job) != key_of(before):
                del self.waiting[bisect_left(self.waiting, key_of(before))]
        if waits and (not waited or key_of(job) != key_of(before)):
            insort(self.waiting, key_of(job))
        if before.live and (not job.live or before.gpus != job.gpus):
            self._let_go(before)
        self.jobs[job.id] = job
        if job.live:
            self._hold(job)
        if not waits:
            self.doomed.discard(job.id)
        opened = progress.replace(job)
        if job.settled:
            for pipeline in self._dependants.pop(job.id, ()):
                self._hear(pipeline, job)
        if before.live != job.live:
            self._show_or_hide(progress)
        if waits:
            self._settle_in(progress, job.position)
        for position in opened:
            self._settle_in(progress, position)
        self.doomed.update(progress.take_doomed())
        if progress.over:
            self._drop(progress)

    def advance(self, now: float) -> None:
        """Let in the jobs whose begin time or retry delay is over at ``now`` (Unix seconds)."""
        while self._timers and self._timers[0][0] <= now:
            _, id = heapq.heappop(self._timers)
            job = self.jobs.get(id)
            if job is not None and job.state is JobState.QUEUED and (job.not_before or 0) <= now:
                progress = self.progress[job.pipeline.id]
                if progress.open(job.position) and not self.ready(job):
                    self.lines.enter(job, shown=progress.shown)

    @contextmanager
    def imagining(
        self, changed: Sequence[Job] = (), added: Iterable[tuple[Pipeline, Sequence[Job], Iterable[Job]]] = ()
    ) -> Iterator[None]:
        """As if waiting jobs were ``changed``, still waiting, and pipelines ``added``, as :meth:`add` takes them.

        It is all put back at the end. Nothing may be awaited and nothing recorded meanwhile.
        """
        as_they_are = [self.jobs[job.id] for job in changed]
        waiting, timers = list(self.waiting), list(self._timers)
        made: list[tuple[Pipeline, Sequence[Job]]] = []
        try:
            for job in changed:
                self.replace(job)
            for pipeline, jobs, settled in added:
                made.append((pipeline, jobs))
                self.add(pipeline, jobs, settled)
            yield
        finally:
            for pipeline, jobs in reversed(made):
                self._take_back(pipeline, jobs)
            for job in reversed(as_they_are):
                self.replace(job)
            self.waiting, self._timers = waiting, timers

    @property
    def measures(self) -> Measures:
        """What urgency and use are measured by."""
        return self._measures

    def measure(self, measures: Measures) -> None:
        """Go by other measures from now on."""
        if measures != self._measures:
            self._measures = measures
            self.lines.measure(measures)

    def learn(self, before: Job, event: lifecycle.Event, at: float) -> Learned | None:
        """Learn from an event that a job, which was ``before``, has taken at that time (Unix seconds)."""
        lesson = lesson_of(before, event, at)
        if lesson is None:
            return None
        uid, measures = before.pipeline.submitter.uid, self._measures
        told: list[Kind] = []
        forgotten: list[Kind] = []
        if lesson.sample is not None:
            kind = kind_of(before.spec)
            told, forgotten = self.experience.learn(uid, kind, before.spec.num_gpus, lesson.sample)
            self.lines.learned(uid, kind)
            for job in self.live.values():
                if job.pipeline.submitter.uid == uid:
                    self._look_ahead(job)
        charge = None
        if before.gpus:
            cards = cards_of(shape_of(before), measures)
            charge = self.usage.charge(uid, cards, lesson.start, lesson.end, measures.half_life)
        return Learned(uid, tuple(told), tuple(forgotten), charge)

    # -- what readers ask --------------------------------------------------------------------------------------------

    @property
    def next_timer(self) -> float | None:
        """When :meth:`advance` has something to do next (Unix seconds)."""
        return self._timers[0][0] if self._timers else None

    def in_order(self) -> Iterator[Job]:
        """Every waiting job in queue order."""
        return (self.jobs[id] for _, id in self.waiting)

    def ready(self, job: Job) -> bool:
        """Whether nothing but resources and its pipeline's limit stands between the job and its start."""
        return self.lines.holds(job.id)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _settle_in(self, progress: Progress, position: int) -> None:
        """Put an open, waiting job where it belongs: ready, or a timer. Once only."""
        job = progress.jobs[position]
        if job.state is not JobState.QUEUED or not progress.open(position) or self.ready(job):
            return
        if job.not_before is not None:
            heapq.heappush(self._timers, (job.not_before, job.id))
        else:
            self.lines.enter(job, shown=progress.shown)

    def _show_or_hide(self, progress: Progress) -> None:
        """Show the pipeline's heads when it has come below its limit, hide them when it has reached it."""
        if progress.shown == progress.below_limit:
            return
        if progress.shown:
            self.lines.hide(progress.pipeline.id)
        else:
            self.lines.show(progress.pipeline.id)
        progress.shown = progress.below_limit

    def _hold(self, job: Job) -> None:
        self.live[job.id] = job
        self._look_ahead(job)
        if job.started_at is not None:
            self._started(job, job.started_at)
        for gpu in job.gpus:
            self.holders.setdefault(gpu, {})[job.id] = job

    def _started(self, job: Job, at: float) -> None:
        if job.spec.num_gpus > 1:
            uid = job.pipeline.submitter.uid
            self.wide_starts[uid] = max(at, self.wide_starts.get(uid, at))
            if at > self.wide_start:
                self.wide_start, self.came_since = at, math.inf
        elif at >= self.wide_start:
            self.came_since = min(self.came_since, job.came_at)

    def _look_ahead(self, job: Job) -> None:
        spec = job.spec
        self.outlook[job.id] = self.experience.estimate(
            job.pipeline.submitter.uid, kind_of(spec), spec.num_gpus, spec.time_limit
        )

    def _let_go(self, job: Job) -> None:
        self.live.pop(job.id, None)
        self.outlook.pop(job.id, None)
        for gpu in job.gpus:
            holders = self.holders[gpu]
            holders.pop(job.id, None)
            if not holders:
                del self.holders[gpu]

    def _hear(self, pipeline: PipelineId, settled: Job) -> None:
        """A pipeline that waits for another's job hears of its end."""
        progress = self.progress.get(pipeline)
        if progress is None:
            return
        for position in progress.hear(settled):
            self._settle_in(progress, position)
        self.doomed.update(progress.take_doomed())

    def _take_back(self, pipeline: Pipeline, jobs: Sequence[Job]) -> None:
        """Undo an :meth:`add` of jobs that all wait."""
        progress = self.progress.pop(pipeline.id)
        for job in jobs:
            self.lines.leave(job, shown=progress.shown)
            self.doomed.discard(job.id)
            del self.jobs[job.id]
        self.lines.forget(pipeline.id)
        for dependency in progress.awaited:
            dependants = self._dependants.get(dependency, set())
            dependants.discard(pipeline.id)
            if not dependants:
                self._dependants.pop(dependency, None)

    def _drop(self, progress: Progress) -> None:
        for job in progress.jobs:
            self.jobs.pop(job.id, None)
        self.lines.forget(progress.pipeline.id)
        del self.progress[progress.pipeline.id]
