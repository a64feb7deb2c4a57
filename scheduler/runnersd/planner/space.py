"""Where and when a job fits: on which cards, within the machine's limits, and beside what is kept for others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

from runners.spec import JobSpec
from runnersd.lines import Shape, line_of
from runnersd.model import GpuId, Job, JobId, Reason
from runnersd.planner.cards import Asker, Cards, Standing
from runnersd.planner.decisions import Reservation
from runnersd.planner.lengths import clear_of_bookings, expected_ends
from runnersd.planner.room import Room
from runnersd.planner.stops import time_limit_of
from runnersd.planner.world import World

#: Who asks where nothing is booked.
_ANYBODY = Asker()


class Fit(NamedTuple):
    """For how many seconds a job of some shape could run from now on; and why no longer, or not at all."""

    seconds: float
    never: Reason | None = None  #: why it could not run even if all of our jobs ended

    def lasts(self, seconds: float) -> bool:
        """Whether it could start now, and run for so long: also when that is no time at all."""
        return self.seconds > 0 and self.seconds >= seconds


class Space:
    """The machine as starts and reservations are handed out, in one plan."""

    def __init__(self, world: World, now: float, ends: dict[JobId, float] | None = None) -> None:
        """``ends`` says when live jobs end (Unix seconds), where that is not to be what is expected."""
        self._world, self._now = world, now
        self.ends = ends if ends is not None else expected_ends(world, now)
        self.cards = Cards(world, now, self.ends)
        self.reservations: dict[JobId, Reservation] = {}
        self.given: dict[GpuId, list[Job]] = {}  #: to jobs that start with this plan
        self.room = Room(world, now, self.ends)
        self.owed: Reservation | None = None  #: what is kept only from those who heed it
        self._fits: dict[tuple[Shape, Standing | None, bool], Fit] = {}

    def fit(self, job: Job, shape: Shape, heeds: bool = False) -> Fit:
        """How long a job of that shape could run from now on. Bookings of others hold back some, and others not.

        Whoever ``heeds`` what is owed to others must be done by then.
        """
        return self._fit_of(job, shape, self.asker(job), heeds and not self._owed_to(job))

    def fit_unbooked(self, job: Job, shape: Shape) -> Fit:
        """How long a job of that shape could run if nothing were booked."""
        return self._fit_of(job, shape, None if self.cards.bookable else _ANYBODY)

    def asker(self, job: Job) -> Asker:
        """What of the job says which bookings stand in its way."""
        if not self.cards.bookable or not job.spec.num_gpus:
            return _ANYBODY
        snapshot, lines = self._world.snapshot, self._world.snapshot.lines
        known = lines.holds(job.id) and snapshot.jobs.get(job.id) is job  # else it is only imagined to be so
        estimate = lines.estimate(lines.line(job.id) if known else line_of(job))
        return Asker(job.pipeline.submitter.uid, clear_of_bookings(estimate, self._world))

    def start(self, job: Job, shape: Shape, least: float, end: float, heeds: bool = False) -> tuple[GpuId, ...]:
        """Give the job what it needs from now until ``end``; it fits for ``least`` seconds. Returns its cards."""
        gpus: tuple[GpuId, ...] = ()
        if shape.num_gpus:
            able = self.cards.able(job, shape)
            assert not isinstance(able, Reason), "it fits"
            # Who need not heed what is owed does so where other cards are free.
            spares = not self._owed_to(job) and (heeds or self.fit(job, shape, heeds=True).lasts(least))
            gpus = self.cards.choose(job.spec, able, least, self.asker(job), spares)
            assert len(gpus) == shape.num_gpus, f"job {job.id} fits, and gets {gpus}"
        self._take(job.spec, gpus, self._now, max(end, math.nextafter(self._now, math.inf)))
        for uuid in gpus:
            self.given.setdefault(uuid, []).append(job)
            card = self.cards.cards[uuid]
            card.surely = max(card.surely, end, self._now + (job.spec.time_limit or 0.0))
        return gpus

    def reserve(self, job: Job, shape: Shape, not_before: float, seconds: float) -> Reservation | None:
        """Keep what the job needs for so long, from the first time not before that on. None if it can never run."""
        spec, at = job.spec, not_before
        able = self.cards.able(job, shape) if shape.num_gpus else []
        if isinstance(able, Reason):
            return None
        gpus: tuple[GpuId, ...] = ()
        asker = self.asker(job)
        while True:
            first = self.room.next_room(spec, at, seconds)
            if shape.num_gpus and first < math.inf:
                first, gpus = self.cards.next_room(spec, able, first, seconds, asker)
            if first == math.inf:
                return None
            if first <= at:
                break
            at = first
        made = Reservation(job, gpus, at, at + seconds)
        self.reservations[job.id] = made
        self._take(spec, gpus, made.at, made.until)
        return made

    @contextmanager
    def without(self, gone: Sequence[Job]) -> Iterator[None]:
        """Meanwhile it is as if these live jobs had ended. What is given to others stays given."""
        self._let_go(gone)
        try:
            yield
        finally:
            self._hold(gone)

    @contextmanager
    def if_ended(self, jobs: Sequence[Job], at: Mapping[JobId, float]) -> Iterator[None]:
        """Meanwhile these live jobs end then (Unix seconds), and not when they are expected to."""
        before = [(job, self.ends[job.id]) for job in jobs]
        for job in jobs:
            self.end_at(job, at[job.id])
        try:
            yield
        finally:
            for job, end in before:
                self.end_at(job, end, max(end, time_limit_of(job, self._world) or end))

    def end_at(self, job: Job, at: float, surely: float | None = None) -> None:
        """The live job ends then (Unix seconds), and not when it was expected to; ``surely`` if that is later."""
        least, usable = math.nextafter(self._now, math.inf), self._usable(job)
        before, after = max(self.ends[job.id], least), max(at, least)
        self.room.give_back(job.spec, self._now, before)
        self.room.take(job.spec, self._now, after)
        self.cards.give_back(job.spec, usable, self._now, before)
        self.cards.take(job.spec, usable, self._now, after)
        self.cards.leaves(job.id, usable, at if surely is None else surely)
        self.ends[job.id] = at
        self._fits.clear()

    def lift(self, made: Reservation) -> None:
        """Keep nothing for the job any more."""
        del self.reservations[made.job.id]
        self.room.give_back(made.job.spec, made.at, made.until)
        self.cards.give_back(made.job.spec, made.gpus, made.at, made.until)
        self._fits.clear()

    def restore(self, made: Reservation) -> None:
        """Undo a :meth:`lift`."""
        self.reservations[made.job.id] = made
        self._take(made.job.spec, made.gpus, made.at, made.until)

    def owe(self, made: Reservation) -> None:
        """Keep what was kept only from those who heed what is owed."""
        self.lift(made)
        self.owed = replace(made, owed=True)
        self.cards.owe(made.gpus, made.at)

    def _owed_to(self, job: Job) -> bool:
        return self.owed is not None and self.owed.job.id == job.id

    def _fit_of(self, job: Job, shape: Shape, asker: Asker | None, heeds: bool = False) -> Fit:
        key = (shape, None if asker is None else self.cards.standing(asker), heeds)
        found = self._fits.get(key)
        if found is None:
            found = self._fits[key] = self._fit(job, shape, asker, heeds)
        return found

    def _fit(self, job: Job, shape: Shape, asker: Asker | None, heeds: bool) -> Fit:
        seconds = self.room.room(job.spec, self._now)
        if not shape.num_gpus:
            return Fit(seconds)
        able = self.cards.able(job, shape)
        if isinstance(able, Reason):
            return Fit(0.0, able)
        rooms = self.cards.rooms(job, shape, able, asker, heeds)
        return Fit(min(seconds, rooms[shape.num_gpus - 1]))

    def _let_go(self, gone: Sequence[Job]) -> None:
        for job in gone:
            end = max(self.ends[job.id], math.nextafter(self._now, math.inf))
            self.room.give_back(job.spec, self._now, end)
            self.cards.give_back(job.spec, self._usable(job), self._now, end)
        ids = {job.id for job in gone}
        holders = self._world.snapshot.holders
        seen_before = bool(self._world.ended)
        self.cards.think_left(
            {uuid for uuid in self.cards.cards if (holders[uuid].keys() <= ids if uuid in holders else seen_before)}
        )
        self._fits.clear()

    def _hold(self, gone: Sequence[Job]) -> None:
        for job in gone:
            end = max(self.ends[job.id], math.nextafter(self._now, math.inf))
            self.room.take(job.spec, self._now, end)
            self.cards.take(job.spec, self._usable(job), self._now, end)
        self.cards.think_left(frozenset())
        self._fits.clear()

    def _usable(self, job: Job) -> list[GpuId]:
        return [uuid for uuid in job.gpus if uuid in self.cards.cards]

    def _take(self, spec: JobSpec, gpus: tuple[GpuId, ...], start: float, end: float) -> None:
        self.room.take(spec, start, end)
        self.cards.take(spec, gpus, start, end)
        self._fits.clear()
