"""One pass over what is ready, best first, handing out what is free and keeping what is promised."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from runners.api import Code
from runnersd.lines import Line, Shape, shape_of
from runnersd.model import GpuId, Job, JobId, PipelineId, Reason
from runnersd.past.usage import used
from runnersd.planner.allowance import Allowance
from runnersd.planner.decisions import Reservation, Start, Stop
from runnersd.planner.foresight import foresee
from runnersd.planner.images import Images
from runnersd.planner.lengths import Passing, length, passing
from runnersd.planner.order import Order, Outcome
from runnersd.planner.precedence import Precedence
from runnersd.planner.preemption import Preemption, making_way, waiting_for
from runnersd.planner.promises import AT_LAST, KEPT, is_ripe, is_short
from runnersd.planner.reasons import why_not_now
from runnersd.planner.space import Space
from runnersd.planner.world import World
from runnersd.ready import Place
from runnersd.urgency import cards_of, work_of


class Walk:
    """What starts, what fails, what is kept, and why each shape that is left waits. For one plan; run once."""

    def __init__(self, world: World, now: float, ending: Collection[JobId] = ()) -> None:
        """``ending`` are live jobs that have to end now."""
        self.starts: list[Start] = []
        self.failed: list[tuple[Job, Reason]] = []
        self.blocked: dict[Shape, Reason] = {}
        self.blocked_for: dict[tuple[int, Shape], Reason] = {}
        self.next_up: list[Start] = []
        self.images = Images(world, now)
        self._world, self._now = world, now
        self._snapshot, self._lines = world.snapshot, world.snapshot.lines
        self._space = Space(world, now)
        self._strict = False  # whether cards are kept for a job that needs several
        self._late = -math.inf  # how much later than promised what is owed is (seconds)
        self.later: list[float] = []  #: when cards may be kept for who is owed some (Unix seconds)
        self._started: dict[PipelineId, int] = {}
        self._taken: set[JobId] = set()
        self.allowance = Allowance(world)
        self.stops: list[Stop] = []
        self.claims: dict[JobId, Reason] = {}
        self.preemption = Preemption(world, now, self._space, ending)
        self._used = use_expected(world, self._space.ends, now)

    @property
    def reservations(self) -> tuple[Reservation, ...]:
        """What is kept, for whom, and what is owed."""
        owed = self._space.owed
        return (*self._space.reservations.values(), *(() if owed is None else (owed,)))

    @property
    def space(self) -> Space:
        """What is left of the machine."""
        return self._space

    def run(self) -> None:
        """Look at every job that could start, and at few others. A priority has no regard for those below it."""
        self._honour_claims()
        for priority in sorted(self._lines.bands, reverse=True):
            self._keep_promises(priority)
            self._walk(priority)

    def _honour_claims(self) -> None:
        """First of all, what others made way for goes to the jobs that they did so for."""
        for id in self.preemption.claimants(self._world):
            job = self._snapshot.jobs[id]
            if not self._lines.holds(id) or self._at_limit(job):
                continue
            line = self._lines.line(id)
            shape = line.shape
            if self.allowance.exceeded(line.uid, shape.num_gpus) or self._image(job, shape) is not None:
                continue
            way = self._passing(line)
            fit = self._space.fit(job, shape, way.heeds)
            if fit.lasts(way.seconds):
                self._start(job, line, way)
                continue
            leaving = self.preemption.leaving(id)
            if self.preemption.fits(job, shape, way, leaving):
                self._claim(job, line, way, leaving)

    def keep_claims(self) -> None:
        """Nothing starts now; what others made way for stays kept."""
        self.claims = {id: waiting_for(self.preemption.leaving(id)) for id in self.preemption.claimants(self._world)}

    def _make_room(self, job: Job, line: Line, way: Passing) -> bool:
        """Have others make way for the job, if they must for more important ones. Whether they do."""
        victims = self.preemption.victims(job, line.shape, way)
        if not victims:
            return False
        self.stops += [Stop(victim, making_way(job)) for victim in victims]
        self._claim(job, line, way, self.preemption.leaving(job.id))
        return True

    def _claim(self, job: Job, line: Line, way: Passing, leaving: Sequence[Job]) -> None:
        """Keep what the job will have, once those are gone, from everybody else from now on."""
        with self._space.without(leaving):
            self._give(job, line, way)
        self.claims[job.id] = waiting_for(leaving)

    def _keep_promises(self, priority: int) -> None:
        looked = 0
        waited = self._waited(self._lines.promises.get(priority, ()))
        precedence = Precedence(self._lines, self._snapshot.jobs, priority, self._snapshot, self._space, self._used)
        for promised, id, line in self._lines.promises.get(priority, ()):
            if looked == KEPT:
                break
            if precedence.yields(line, overdue=self._now > promised + self._world.measures.max_delay):
                continue
            job = self._snapshot.jobs[id]
            if id in self._taken or self._at_limit(job) or self._image(job, line.shape) is not None:
                continue
            if self.allowance.exceeded(line.uid, line.shape.num_gpus) is not None:
                continue
            estimate = self._lines.estimate(line)
            short, way = is_short(estimate, self._world), self._passing(line)
            if short and self._space.fit(job, line.shape, way.heeds).lasts(way.seconds):
                self._start(job, line, way)
                continue
            seconds = length(estimate, self._world)
            made = self._space.reserve(job, line.shape, self._now if short else max(promised, self._now), seconds)
            if made is None:
                continue
            looked += 1
            ripe = is_ripe(made, promised, short, waited, self._space.given, self._world, self._now)
            if not line.resumed and (not ripe or self._is_before(made)):
                self._owe(made, line, promised)
                continue
            if made.at <= self._now:
                self._space.lift(made)
                fit = self._space.fit(job, line.shape, way.heeds)
                if fit.lasts(seconds):
                    self._start(job, line, way._replace(seconds=seconds))
                    continue
                self._space.restore(made)  # what ended just now still shows in the memory of its cards
            self._strict = True

    def _owe(self, made: Reservation, line: Line, promised: float) -> None:
        """Keep nothing for the job yet. The first of such is owed its cards from its promise on."""
        self._space.lift(made)
        self.later += [
            time for time in (promised, promised + AT_LAST * self._world.measures.max_delay) if time > self._now
        ]
        if self._space.owed is not None:
            return
        later = self._space.reserve(made.job, line.shape, max(promised, self._now), made.until - made.at)
        assert later is not None, "it could be kept sooner"
        self._space.owe(later)
        self._late = self._now - promised

    def _is_before(self, made: Reservation) -> bool:
        """Whether what was found would be kept before somebody who is owed the same cards, and is late already."""
        owed = self._space.owed
        return owed is not None and self._late > 0 and not set(owed.gpus).isdisjoint(made.gpus)

    def _waited(self, places: Sequence[Place]) -> float:
        """How long the first of those that are short have waited, together (seconds)."""
        lines = self._lines
        first_lines = (line for *_, line in places[:KEPT] if not line.resumed)
        short = [line for line in first_lines if is_short(lines.estimate(line), self._world)]
        first = [id for line in short for id, _ in lines.heads[line][:KEPT]]
        return sum(self._now - lines.submitted(id) for id in first)

    def _passing(self, line: Line) -> Passing:
        """What the line's first job must be given to start."""
        return passing(self._lines.estimate(line), self._world, self._strict, self._late)

    def _walk(self, priority: int) -> None:
        order = Order(self._lines, priority, self._used)
        reserved = False
        kept = {id: made.job for id, made in self._space.reservations.items() if made.job.spec.priority == priority}
        while (first := order.first()) is not None:
            id, line = first
            if id in self._taken:
                order.go_on("taken")
                continue
            job = self._snapshot.jobs[id]
            kept.pop(id, None)
            outcome = self._look_at(job, line)
            if outcome in ("line left", "shape left") and not reserved:
                reserved = self._reserve_first(job, line)
            order.go_on(outcome)
        for id, job in kept.items():  # behind more lines than are looked at, and yet it may be the one that can start
            self._look_at(job, self._lines.line(id))

    def _look_at(self, job: Job, line: Line) -> Outcome:
        """Start the job if it fits, or settle it if it never will."""
        if self._at_limit(job):
            return "passed over"
        shape = line.shape
        over = self.allowance.exceeded(line.uid, shape.num_gpus)
        if over is not None:
            return "cards left" if over.num_gpus else "user left"
        image = self._image(job, shape)
        if image is not None and image.code is Code.LAUNCH_FAILED:
            self.failed.append((job, image))
            self._taken.add(job.id)
            return "taken"
        if image is not None:
            self.blocked[shape] = image
            return "shape left"
        kept = self._space.reservations.get(job.id)
        if kept is not None:
            self._space.lift(kept)
        way = self._passing(line)
        if kept is not None:  # sooner than it was kept for is no harm to those behind it
            way = way._replace(seconds=min(way.seconds, kept.until - kept.at))
        fit = self._space.fit(job, shape, way.heeds)
        if fit.lasts(way.seconds):
            self._start(job, line, way)
            return "taken"
        if fit.never is None and self._make_room(job, line, way):
            return "taken"
        if kept is not None:
            self._space.restore(kept)
        why = why_not_now(job, shape, self._space, self._world, self._now)
        self.blocked.setdefault(shape, why)
        if self._space.cards.bookable:
            self.blocked_for.setdefault((line.uid, shape), why)
        return "line left" if self._space.fit_unbooked(job, shape).seconds > 0 else "shape left"

    def _reserve_first(self, job: Job, line: Line) -> bool:
        """Keep what the first job that could not start needs. False for one that can never run: it keeps nothing."""
        shape = line.shape
        if self._image(job, shape) is not None:
            return False
        if job.id not in self._space.reservations and shape.num_gpus > 1 and not line.resumed:
            return False  # that was looked at with the promises
        way = self._passing(line)
        if way.heeds and self._space.fit(job, shape).lasts(way.seconds):
            return False  # nothing but what is owed stands in its way
        if job.id not in self._space.reservations:
            seconds = length(self._lines.estimate(line), self._world)
            made = self._space.reserve(job, shape, self._now, seconds)
            if made is None:
                return False
            if made.at <= self._now:  # only what is kept for others stands in its way
                self._space.lift(made)
                return False
        able = self._space.cards.able(job, shape) if shape.num_gpus else []
        if shape.image is not None and not job.spec.ports and not isinstance(able, Reason) and able:
            cards = [card.gpu for card in able]
            self.next_up += foresee(job, cards, self._world, self._space.ends)
        return True

    def _start(self, job: Job, line: Line, way: Passing) -> None:
        self.starts.append(Start(job, self._give(job, line, way)))

    def _give(self, job: Job, line: Line, way: Passing) -> tuple[GpuId, ...]:
        shape = line.shape
        estimate = self._lines.estimate(line)
        gpus = self._space.start(job, shape, way.seconds, self._now + length(estimate, self._world), way.heeds)
        pipeline, uid = job.pipeline.id, line.uid
        self._started[pipeline] = self._started.get(pipeline, 0) + 1
        self._taken.add(job.id)
        self.allowance.take(uid, shape.num_gpus)
        if shape.num_gpus:
            self._used[uid] = self._used.get(uid, 0.0) + work_of(shape, estimate, self._world.measures)
        return gpus

    def _image(self, job: Job, shape: Shape) -> Reason | None:
        return None if shape.image is None else self.images.lacks(job, shape.image)

    def _at_limit(self, job: Job) -> bool:
        """Whether as many of the job's pipeline run as may."""
        pipeline = job.pipeline
        return self._snapshot.progress[pipeline.id].live + self._started.get(pipeline.id, 0) >= pipeline.num_jobs


def use_expected(world: World, ends: dict[JobId, float], now: float) -> dict[int, float]:
    """What everybody has used and is expected to use, in card-seconds, by uid."""
    snapshot, measures = world.snapshot, world.measures
    found = {uid: snapshot.usage.of(uid, now, measures.half_life) for uid in snapshot.usage.charges}
    for job in snapshot.live.values():
        if job.gpus:
            uid = job.pipeline.submitter.uid
            cards = cards_of(shape_of(job), measures)
            had = used(cards, max(now - (job.started_at or now), 0.0), measures.half_life)
            found[uid] = found.get(uid, 0.0) + had + cards * (ends[job.id] - now)
    return found
