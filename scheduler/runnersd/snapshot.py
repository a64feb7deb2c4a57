"""The jobs that matter now, indexed for the planner. Memory only; the store alone changes it, by whole jobs.

A decision must cost what changes, not what is queued. So a job enters the ready lists only when nothing but resources
stands between it and its start, and those lists are kept per *shape* (what it asks for): jobs of one shape are
interchangeable to the planner, so when the first does not fit the rest need not be looked at. Within a shape each
pipeline shows one head, and a pipeline at its `num_jobs` shows none.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from runners.api import WAITING, JobState
from runnersd.model import GpuId, Job, JobId, Pipeline, PipelineId
from runnersd.progress import Progress

#: Queue order: higher priority first, then submission.
Key = tuple[int, JobId]


class Shape(NamedTuple):
    """What a job asks of the machine. Jobs of one shape fit, or do not, alike."""

    num_gpus: int
    gpu_memory: int | None
    gpu_shared: bool
    gpu_model: str | None
    gpus: tuple[str, ...]
    cpus: float | None
    memory: int | None
    image: str | None  #: of a container; None on the host


def shape_of(job: Job) -> Shape:
    """The job's shape."""
    spec = job.spec
    image = spec.image if spec.run_in == "container" else None
    return Shape(
        spec.num_gpus, spec.gpu_memory, spec.gpu_shared, spec.gpu_model, spec.gpus, spec.cpus, spec.memory, image
    )


def key_of(job: Job) -> Key:
    """Where the job stands in the queue."""
    return (-job.spec.priority, job.id)


class Snapshot:
    """Every job of every pipeline that still has work to do. Readers must not change what they are given."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything, before it is all added anew."""
        self.jobs: dict[JobId, Job] = {}
        self.progress: dict[PipelineId, Progress] = {}
        self.live: dict[JobId, Job] = {}
        self.holders: dict[GpuId, dict[JobId, Job]] = {}
        self.waiting: list[Key] = []  #: every queued or held job, in order
        self.heads: dict[Shape, list[tuple[Key, PipelineId]]] = {}
        self.doomed: set[JobId] = set()  #: waiting jobs whose need has failed
        self._ready: dict[PipelineId, dict[Shape, list[Key]]] = {}
        self._shapes: dict[Shape, Shape] = {}
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
            self._leave(before, progress)
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
                    self._enter(job, progress)

    # -- what readers ask --------------------------------------------------------------------------------------------

    @property
    def next_timer(self) -> float | None:
        """When :meth:`advance` has something to do next (Unix seconds)."""
        return self._timers[0][0] if self._timers else None

    def followers(self, pipeline: PipelineId, shape: Shape) -> Sequence[Key]:
        """The pipeline's ready jobs of that shape, in order; its head is the first."""
        return self._ready[pipeline][shape]

    def in_order(self) -> Iterator[Job]:
        """Every waiting job in queue order."""
        return (self.jobs[id] for _, id in self.waiting)

    def ready(self, job: Job) -> bool:
        """Whether nothing but resources and its pipeline's limit stands between the job and its start."""
        keys = self._ready.get(job.pipeline.id, {}).get(shape_of(job))
        if not keys:
            return False
        at = bisect_left(keys, key_of(job))
        return at < len(keys) and keys[at] == key_of(job)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _settle_in(self, progress: Progress, position: int) -> None:
        """Put an open, waiting job where it belongs: ready, or a timer. Once only."""
        job = progress.jobs[position]
        if job.state is not JobState.QUEUED or not progress.open(position) or self.ready(job):
            return
        if job.not_before is not None:
            heapq.heappush(self._timers, (job.not_before, job.id))
        else:
            self._enter(job, progress)

    def _enter(self, job: Job, progress: Progress) -> None:
        shape = shape_of(job)
        shape = self._shapes.setdefault(shape, shape)
        shapes = self._ready.setdefault(job.pipeline.id, {})
        keys = shapes.setdefault(shape, [])
        shown = progress.shown
        if shown and keys:
            self._hide(shape, keys[0], job.pipeline.id)
        key = key_of(job)
        if not keys or keys[-1] < key:
            keys.append(key)
        else:
            insort(keys, key)
        if shown:
            self._show(shape, keys[0], job.pipeline.id)

    def _leave(self, job: Job, progress: Progress) -> None:
        shapes = self._ready.get(job.pipeline.id)
        if shapes is None:
            return
        shape = shape_of(job)
        keys = shapes.get(shape)
        if not keys:
            return
        at = bisect_left(keys, key_of(job))
        if at == len(keys) or keys[at] != key_of(job):
            return
        shown = progress.shown
        if shown:
            self._hide(shape, keys[0], job.pipeline.id)
        del keys[at]
        if not keys:
            del shapes[shape]
        elif shown:
            self._show(shape, keys[0], job.pipeline.id)

    def _show_or_hide(self, progress: Progress) -> None:
        """Show the pipeline's heads when it has come below its limit, hide them when it has reached it."""
        if progress.shown == progress.below_limit:
            return
        for shape, keys in self._ready.get(progress.pipeline.id, {}).items():
            if progress.shown:
                self._hide(shape, keys[0], progress.pipeline.id)
            else:
                self._show(shape, keys[0], progress.pipeline.id)
        progress.shown = progress.below_limit

    def _show(self, shape: Shape, key: Key, pipeline: PipelineId) -> None:
        insort(self.heads.setdefault(shape, []), (key, pipeline))

    def _hide(self, shape: Shape, key: Key, pipeline: PipelineId) -> None:
        heads = self.heads[shape]
        del heads[bisect_left(heads, (key, pipeline))]
        if not heads:
            del self.heads[shape]

    def _hold(self, job: Job) -> None:
        self.live[job.id] = job
        for gpu in job.gpus:
            self.holders.setdefault(gpu, {})[job.id] = job

    def _let_go(self, job: Job) -> None:
        self.live.pop(job.id, None)
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

    def _drop(self, progress: Progress) -> None:
        for job in progress.jobs:
            self.jobs.pop(job.id, None)
        self._ready.pop(progress.pipeline.id, None)
        del self.progress[progress.pipeline.id]
