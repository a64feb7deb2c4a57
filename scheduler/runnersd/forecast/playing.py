"""The queue played forward: when each job starts if jobs run so long and nothing else comes.

One pass, in the planner's order: each job is given the first time from which on what it needs is free for as long as it
runs. Jobs for several cards come first, from the time on that the planner keeps cards for them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from runnersd.forecast.outlooks import Outlook
from runnersd.forecast.queue import Following, Queue
from runnersd.lines import Line, line_of
from runnersd.model import GpuId, Job, JobId, PipelineId
from runnersd.planner.order import Order
from runnersd.planner.promises import is_short, not_before
from runnersd.planner.space import Space
from runnersd.planner.timeline import Timeline
from runnersd.planner.walk import use_expected
from runnersd.planner.world import World
from runnersd.urgency import work_of


class Play:
    """One play of a queue. ``starts`` has the times (Unix seconds), ``cards`` what they are on, in planner's order."""

    def __init__(self, queue: Queue, world: World, now: float, outlook: Outlook) -> None:
        self.starts: dict[JobId, float] = {}
        self.cards: dict[JobId, tuple[GpuId, ...]] = {}
        self._queue, self._world, self._now, self._outlook = queue, world, now, outlook
        self._measures = world.measures
        self._live_ends = outlook.ends(world, now)
        self._ends = dict(self._live_ends)
        self._space = Space(world, now, self._live_ends)
        self._used = use_expected(world, self._space.ends, now)
        self._at_once: dict[PipelineId, Timeline] = {}
        for id, job in world.snapshot.live.items():
            self._line_of(job).take(now, max(self._live_ends[id], math.nextafter(now, math.inf)), 1.0)
        self._not_before = {id: self._kept_from(id, line, promised) for promised, id, line in self._promises()}

    def steps(self) -> Iterator[None]:
        """Play it, a job at a time."""
        lines = self._queue.ready
        for priority in sorted(lines.bands, reverse=True):
            for _, id, line in lines.promises.get(priority, ()):
                self._place(self._queue.jobs[id], line, self._not_before[id])
                yield
            order = Order(lines, priority, self._used)
            while (first := order.first()) is not None:
                id, line = first
                if id not in self.starts:
                    self._place(self._queue.jobs[id], line, self._now)
                    yield
                order.go_on("taken")
        for following in self._queue.following:
            self._follow(following)
            yield

    def _promises(self) -> Iterator[tuple[float, JobId, Line]]:
        for places in self._queue.ready.promises.values():
            yield from places

    def _kept_from(self, id: JobId, line: Line, promised: float) -> float:
        estimate = self._queue.ready.estimate(line)
        if is_short(estimate, self._world):
            return self._now
        return not_before(promised, line.shape, line.priority, estimate, self._world, self._now)

    def _follow(self, following: Following) -> None:
        ends = [self._ends.get(id, math.inf) for id in following.after]
        at = max([self._now, following.not_before, *ends])
        self._place(following.job, line_of(following.job), at)

    def _place(self, job: Job, line: Line, at: float) -> None:
        """Give the job the first time from then on at which it fits; none if it never does."""
        estimate = self._queue.ready.estimate(line)
        seconds = self._outlook.length(estimate, self._world)
        at_once = self._line_of(job)
        while True:
            at = at_once.next_room(1.0, at, seconds)
            made = self._space.reserve(job, line.shape, at, seconds) if at < math.inf else None
            if made is None:
                self.starts[job.id] = math.inf
                return
            if at_once.next_room(1.0, made.at, seconds) <= made.at:
                break
            self._space.lift(made)
            at = made.at
        at_once.take(made.at, made.until, 1.0)
        self.starts[job.id], self.cards[job.id] = made.at, made.gpus
        self._ends[job.id] = made.until
        if line.shape.num_gpus:
            uid = line.uid
            self._used[uid] = self._used.get(uid, 0.0) + work_of(line.shape, estimate, self._measures)

    def _line_of(self, job: Job) -> Timeline:
        """How many of the job's pipeline run at which time."""
        found = self._at_once.get(job.pipeline.id)
        if found is None:
            found = self._at_once[job.pipeline.id] = Timeline(job.pipeline.num_jobs)
        return found
