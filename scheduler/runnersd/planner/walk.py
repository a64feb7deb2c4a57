"""One pass over what is ready, best first, handing out what is free and keeping what is promised."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from runners.api import Code
from runnersd.lines import Line, Shape
from runnersd.model import Job, JobId, Reason
from runnersd.planner.decisions import Reservation, Start, Stop
from runnersd.planner.foresight import foresee
from runnersd.planner.grants import Grants
from runnersd.planner.keeping import Keeping
from runnersd.planner.lengths import Passing, length
from runnersd.planner.order import Order, Outcome
from runnersd.planner.preemption import Preemption, making_way, waiting_for
from runnersd.planner.reasons import why_not_now
from runnersd.planner.world import World


class Walk:
    """What starts, what fails, what is kept, and why each shape that is left waits. For one plan; run once."""

    def __init__(self, world: World, now: float, ending: Collection[JobId] = ()) -> None:
        """``ending`` are live jobs that have to end now."""
        self.failed: list[tuple[Job, Reason]] = []
        self.blocked: dict[Shape, Reason] = {}
        self.blocked_for: dict[Line, Reason] = {}
        self.next_up: list[Start] = []
        self._world, self._now = world, now
        self._snapshot, self._lines = world.snapshot, world.snapshot.lines
        self.grants = Grants(world, now)  #: what starts, and what is left
        self._space = self.grants.space
        self.keeping = Keeping(world, now, self.grants)  #: what was kept before
        self.stops: list[Stop] = []
        self.claims: dict[JobId, Reason] = {}
        self.preemption = Preemption(world, now, self._space, ending)

    @property
    def reservations(self) -> tuple[Reservation, ...]:
        """What is kept, for whom, and what is owed."""
        owed = self._space.owed
        return (*self._space.reservations.values(), *(() if owed is None else (owed,)))

    def run(self) -> None:
        """Look at every job that could start, and at few others. A priority has no regard for those below it."""
        self._honour_claims()
        for priority in sorted(self._lines.bands, reverse=True):
            self.keeping.keep(priority)
            self._walk(priority)

    def _honour_claims(self) -> None:
        """First of all, what others made way for goes to the jobs that they did so for."""
        for id in self.preemption.claimants(self._world):
            job = self._snapshot.jobs[id]
            if not self._lines.holds(id):
                continue
            line = self._lines.line(id)
            shape = line.shape
            if self.grants.bars(job, line):
                continue
            way = self.keeping.way(line)
            fit = self._space.fit(job, shape, way.heeds)
            if fit.lasts(way.seconds):
                self.grants.start(job, line, way)
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
            self.grants.give(job, line, way)
        self.claims[job.id] = waiting_for(leaving)

    def _walk(self, priority: int) -> None:
        order = Order(self._lines, priority, self.grants.used)
        reserved = False
        kept = {id: made.job for id, made in self._space.reservations.items() if made.job.spec.priority == priority}
        while (first := order.first()) is not None:
            id, line = first
            if id in self.grants.taken:
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
        if self.grants.at_limit(job):
            return "passed over"
        shape = line.shape
        over = self.grants.allowance.exceeded(line.uid, shape.num_gpus)
        if over is not None:
            return "cards left" if over.num_gpus else "user left"
        image = self.grants.lacks_image(job, shape)
        if image is not None and image.code is Code.LAUNCH_FAILED:
            self.failed.append((job, image))
            self.grants.taken.add(job.id)
            return "taken"
        if image is not None:
            self.blocked[shape] = image
            return "shape left"
        kept = self._space.reservations.get(job.id)
        if kept is not None:
            self._space.lift(kept)
        way = self.keeping.way(line)
        if kept is not None:  # sooner than it was kept for is no harm to those behind it
            way = way._replace(seconds=min(way.seconds, kept.until - kept.at))
        fit = self._space.fit(job, shape, way.heeds)
        if fit.lasts(way.seconds):
            self.grants.start(job, line, way)
            return "taken"
        if fit.never is None and self._make_room(job, line, way):
            return "taken"
        if kept is not None:
            self._space.restore(kept)
        why = why_not_now(job, shape, self._space, self._world, self._now)
        self.blocked.setdefault(shape, why)
        if self._space.cards.bookable:
            self.blocked_for.setdefault(line, why)
        return "line left" if self._space.fit_unbooked(job, shape).seconds > 0 else "shape left"

    def _reserve_first(self, job: Job, line: Line) -> bool:
        """Keep what the first job that could not start needs. False for one that can never run: it keeps nothing."""
        shape = line.shape
        if self.grants.lacks_image(job, shape) is not None:
            return False
        if job.id not in self._space.reservations and shape.num_gpus > 1 and not line.resumed:
            return False  # that was looked at with the promises
        way = self.keeping.way(line)
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
