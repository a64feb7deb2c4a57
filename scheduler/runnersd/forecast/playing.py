"""The queue played forward: when each job starts if jobs run so long and nothing else comes.

One pass, in the planner's order: each job is given the first time from which on what it needs is free for as long as it
runs. For jobs that need several, cards are kept first, from the time on that the planner would keep them; when it is
their turn they have others if those are free earlier.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence

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
        self._not_before = {id: self._kept_from(id, line, promised) for promised, id, line in self._promises()}

    def steps(self) -> Iterator[None]:
        """Play it, a job at a time."""
        lines = self._queue.ready
        for priority in sorted(lines.bands, reverse=True):
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
        self._place(following.job, line_of(following.job), at)

    def _place(self, job: Job, line: Line, at: float) -> None:
        """Give the job the first time from then on at which it fits; none if it never does."""
        estimate = self._queue.ready.estimate(line)
        seconds = self._outlook.length(estimate, self._world)
        limits = self._limits_of(job)
        at = _within(limits, at, seconds)
        while True:
            made = self._reserve(job, line, at, seconds) if at < math.inf else None
            if made is None:
                self.starts[job.id] = math.inf
                return
            at = _within(limits, made.at, seconds)
            if at <= made.at:
                break
            self._space.lift(made)
        for limit, amount in limits:
            limit.take(made.at, made.until, amount)
        self._made[job.id] = made
        self.starts[job.id], self.cards[job.id] = made.at, made.gpus
        self._ends[job.id] = made.until

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
        self._place(job, line, self._now)
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
