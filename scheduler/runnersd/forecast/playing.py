"""The queue played forward: when each job starts if jobs run so long and nothing else comes.

One pass, in the planner's order: each job is given the first time from which on what it needs is free for as long as it
runs. For jobs that need several, cards are kept first, from the time on that the planner would keep them; when it is
their turn they have others if those are free earlier.

Where jobs may be preempted, those are that would be, and have their turn again before all others of their priority.
What is played after them preempts none of those that start in the play: they are at least as important, but for the
few that come into line behind all.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from runnersd.forecast.making_way import MakingWay, Preempted
from runnersd.forecast.outlooks import Outlook
from runnersd.forecast.queue import Following, Queue
from runnersd.lines import Line, line_of
from runnersd.model import GpuId, Job, JobId
from runnersd.planner.decisions import Reservation
from runnersd.planner.grants import use_expected
from runnersd.planner.order import Order
from runnersd.planner.precedence import Precedence
from runnersd.planner.promises import is_short
from runnersd.planner.space import Space
from runnersd.planner.timeline import Timeline
from runnersd.planner.walk import Walk
from runnersd.planner.world import World
from runnersd.urgency import work_of


class Play:
    """One play of a queue. ``starts`` has the times (Unix seconds), ``cards`` what they are on, in planner's order."""

    def __init__(
        self,
        queue: Queue,
        world: World,
        now: float,
        outlook: Outlook,
        walk: Walk,
        ends: Mapping[JobId, float] | None = None,
    ) -> None:
        """``walk`` is the planner's own, done now. ``ends`` says when live jobs end (Unix seconds) of which that is
        decided."""
        self.starts: dict[JobId, float] = {}
        self.cards: dict[JobId, tuple[GpuId, ...]] = {}
        self.preempts: dict[JobId, Preempted] = {}  #: who makes way for whom
        self._queue, self._world, self._now, self._outlook = queue, world, now, outlook
        self._measures = world.measures
        self._way = walk.keeping.way
        self._turns = [one for one in walk.keeping.turns if one.job in queue.jobs]
        self._kept = walk.grants.space.reservations
        self._live_ends = {**outlook.ends(world, now), **(ends or {})}
        self._ends = dict(self._live_ends)
        self._space = Space(world, now, self._live_ends)
        self._used = use_expected(world, self._space.ends, now)
        self._made: dict[JobId, Reservation] = {}
        self._limits: dict[Hashable, Timeline] = {}
        for id, job in world.snapshot.live.items():
            for limit, amount in self._limits_of(job):
                limit.take(now, max(self._live_ends[id], math.nextafter(now, math.inf)), amount)
        self._making_way: MakingWay | None = None
        self._again: dict[int, list[Job]] = {}  # jobs that have made way and are to be placed again, by priority
        if world.min_run is not None:
            new = {stop.reason.about for stop in walk.stops}
            served = walk.preemption.made_way.keys() - new
            self._making_way = MakingWay(world, now, self._space, (ends or {}).keys(), served)
        self._not_before = {id: self._kept_from(id, line, promised) for promised, id, line in self._promises()}

    def steps(self) -> Iterator[None]:
        """Play it, a job at a time."""
        lines = self._queue.ready
        for priority in sorted(self._priorities(), reverse=True):
            self._place_those_again(priority)
            precedence = Precedence(lines, self._queue.jobs, priority, self._world.snapshot, self._space, self._used)
            late = deque(one for one in self._turns if one.line.priority == priority)
            for promised, id, line in lines.promises.get(priority, ()):
                if precedence.yields(line, overdue=self._now > promised + self._measures.max_delay):
                    continue
                while late and late[0].since < lines.submitted(id):
                    waited = late.popleft()
                    self._place(self._queue.jobs[waited.job], waited.line, self._now)
                    yield
                self._place(self._queue.jobs[id], line, self._not_before[id])
                yield
            order = Order(lines, priority, self._used)
            placed: list[tuple[JobId, Line]] = []
            moved = False
            while (first := order.first()) is not None:
                id, line = first
                moved = self._place_again(id, line) or moved
                placed.append(first)
                self._charge(line)
                yield
                order.go_on("taken")
            if moved:  # what was kept for them has become free for others
                for id, line in sorted(placed, key=lambda one: self.starts[one[0]]):
                    self._place_again(id, line)
                    yield
        for following in self._queue.following:
            self._follow(following)
            yield

    def _priorities(self) -> set[int]:
        """Of those who wait, and of those who may have to again."""
        able = () if self._making_way is None else self._making_way.priorities
        return {*self._queue.ready.bands, *able}

    def _promises(self) -> Iterator[tuple[float, JobId, Line]]:
        for places in self._queue.ready.promises.values():
            yield from places

    def _kept_from(self, id: JobId, line: Line, promised: float) -> float:
        estimate = self._queue.ready.estimate(line)
        if is_short(estimate, self._world):
            return self._now
        return max(promised, self._now)

    def _follow(self, following: Following) -> None:
        ends = [self._ends.get(id, math.inf) for id in following.after]
        at = max([self._now, following.not_before, *ends])
        self._place(following.job, line_of(following.job), at, has_turn=True)
        for priority in tuple(self._again):
            self._place_those_again(priority)

    def _place(self, job: Job, line: Line, at: float, has_turn: bool = False) -> None:
        """Give the job the first time from then on at which it fits; none if it never does.

        If it ``has_turn`` others make way for it if they would.
        """
        estimate = self._queue.ready.estimate(line)
        seconds = self._outlook.length(estimate, self._world)
        limits = self._limits_of(job)
        first = partial(self._first, job, line, seconds, limits)
        made = first(at)
        if has_turn and self._making_way is not None:
            preempted = self._making_way.preempts(job, first, at, made)
            if preempted is not None:
                if made is not None:
                    self._space.lift(made)
                self._stop(preempted)
                self.preempts[job.id] = preempted
                made = first(at)
        if made is None:
            self.starts[job.id] = math.inf
            return
        for limit, amount in limits:
            limit.take(made.at, made.until, amount)
        self._made[job.id] = made
        self.starts[job.id], self.cards[job.id] = made.at, made.gpus
        self._ends[job.id] = made.until

    def _first(
        self, job: Job, line: Line, seconds: float, limits: Sequence[tuple[Timeline, float]], at: float
    ) -> Reservation | None:
        """What the job can have first for so long, from then on, within its limits too."""
        at = _within(limits, at, seconds)
        while True:
            made = self._reserve(job, line, at, seconds) if at < math.inf else None
            if made is None:
                return None
            at = _within(limits, made.at, seconds)
            if at <= made.at:
                return made
            self._space.lift(made)

    def _stop(self, preempted: Preempted) -> None:
        """Those make way, and wait again."""
        for job in preempted.jobs:
            before = self._live_ends[job.id]
            end = min(before, preempted.at + (0.0 if self._outlook.prompt else job.spec.grace))
            least = math.nextafter(self._now, math.inf)
            for limit, amount in self._limits_of(job):
                limit.give_back(self._now, max(before, least), amount)
                limit.take(self._now, max(end, least), amount)
            self._space.end_at(job, end)
            self._again.setdefault(job.spec.priority, []).append(replace(job, preempted=job.preempted + 1))

    def _place_those_again(self, priority: int) -> None:
        """Those of that priority who have made way are first to start again. That is not foretold: they run yet."""
        for job in self._again.pop(priority, ()):
            self._place(job, line_of(job), self._live_ends[job.id])
            del self.starts[job.id]
            self.cards.pop(job.id, None)

    def _reserve(self, job: Job, line: Line, at: float, seconds: float) -> Reservation | None:
        """What is first free for so long, from then on, and may be had beside what is kept for others now."""
        made = self._space.reserve(job, line.shape, at, seconds)
        passes = self._outlook.passes or job.id in self._kept
        until = -math.inf if passes else max((kept.until for kept in self._kept.values()), default=-math.inf)
        if made is None or made.at + seconds >= until:
            return made
        least = min(self._way(line).seconds, until - made.at)
        if least <= seconds:
            return made
        self._space.lift(made)
        longer = self._space.reserve(job, line.shape, made.at, least)
        if longer is None:  # those before it have no end that anybody knows, and leave only the shorter time
            return None
        self._space.lift(longer)
        return self._space.reserve(job, line.shape, longer.at, seconds)

    def _place_again(self, id: JobId, line: Line) -> bool:
        """Give the job the first time at which it fits now; whether it had a later one."""
        job = self._queue.jobs[id]
        before = self.starts.pop(id, None)
        made = self._made.pop(id, None)
        if made is not None:
            self._space.lift(made)
            for limit, amount in self._limits_of(job):
                limit.give_back(made.at, made.until, amount)
        self._place(job, line, self._now, has_turn=True)
        return before is not None and self.starts[id] < before

    def _charge(self, line: Line) -> None:
        """What the job is going to use counts at once, for its user's place in the order."""
        if line.shape.num_gpus:
            work = work_of(line.shape, self._queue.ready.estimate(line), self._measures)
            self._used[line.uid] = self._used.get(line.uid, 0.0) + work

    def _limits_of(self, job: Job) -> list[tuple[Timeline, float]]:
        """What limits the job besides the machine, and how much it takes of that: its pipeline, and quotas."""
        found = [(self._limit(job.pipeline.id, job.pipeline.num_jobs), 1.0)]
        if self._world.quotas.some:
            who = job.pipeline.submitter
            for account in self._world.quotas.accounts(self._world.snapshot.submitters.get(who.uid, who)):
                if account.quota.running is not None:
                    found.append((self._limit((account, "running"), account.quota.running), 1.0))
                if account.quota.gpus is not None and job.spec.num_gpus:
                    found.append((self._limit((account, "gpus"), account.quota.gpus), float(job.spec.num_gpus)))
        return found

    def _limit(self, of: Hashable, most: float) -> Timeline:
        found = self._limits.get(of)
        if found is None:
            found = self._limits[of] = Timeline(most)
        return found


def _within(limits: Sequence[tuple[Timeline, float]], at: float, seconds: float) -> float:
    """The first time, not before ``at``, at which all of them may leave room for so long; infinity if there is none."""
    return max(limit.next_room(amount, at, seconds) for limit, amount in limits)
