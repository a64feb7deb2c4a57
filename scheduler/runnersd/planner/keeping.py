"""What is kept, or owed, before anybody is looked at: cards for the jobs that need several, as they were promised."""

from __future__ import annotations

import math
from collections.abc import Sequence

from runnersd.lines import Line
from runnersd.planner.decisions import Reservation
from runnersd.planner.grants import Grants
from runnersd.planner.lengths import Passing, length, passing
from runnersd.planner.precedence import Precedence
from runnersd.planner.promises import AT_LAST, KEPT, Overdue, is_ripe, is_short, overdue
from runnersd.planner.world import World
from runnersd.ready import Place


class Keeping:
    """For one plan. What is kept is in its space; what others must be given to pass that, `way` says."""

    def __init__(self, world: World, now: float, grants: Grants) -> None:
        self._world, self._now, self._grants = world, now, grants
        self._snapshot, self._lines = world.snapshot, world.snapshot.lines
        self._space = grants.space
        self._strict = False  # whether cards are kept for a job that needs several
        self._late = -math.inf  # how much later than promised what is owed is (seconds)
        self.later: list[float] = []  #: when cards may be kept for who is owed some (Unix seconds)

    def way(self, line: Line) -> Passing:
        """What the line's first job must be given to start."""
        return passing(self._lines.estimate(line), self._world, self._strict, self._late)

    def keep(self, priority: int) -> None:
        """Go through the promises of a priority, first of all the earliest. Who can start at once does."""
        looked = 0
        waited = self._waited(self._lines.promises.get(priority, ()))
        jobs, used = self._snapshot.jobs, self._grants.used
        precedence = Precedence(self._lines, jobs, priority, self._snapshot, self._space, used)
        late = overdue(priority, self._lines, self._world.measures, self._now)
        latest, for_late = next(late, None), 0
        for promised, id, line in self._lines.promises.get(priority, ()):
            if looked == KEPT:
                break
            if precedence.yields(line, overdue=self._now > promised + self._world.measures.max_delay):
                continue
            job = self._snapshot.jobs[id]
            if self._grants.bars(job, line):
                continue
            while latest is not None and latest.since < self._lines.submitted(id) and for_late < KEPT:
                for_late += self._keep_for(latest)
                latest = next(late, None)
            estimate = self._lines.estimate(line)
            short, way = is_short(estimate, self._world), self.way(line)
            if short and self._space.fit(job, line.shape, way.heeds).lasts(way.seconds):
                self._grants.start(job, line, way)
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
                    self._grants.start(job, line, way._replace(seconds=seconds))
                    continue
                self._space.restore(made)  # what ended just now still shows in the memory of its cards
            self._strict = True

    def _keep_for(self, late: Overdue) -> bool:
        """Keep what an overdue job needs, from the first time on; whether that can be."""
        job, line = self._snapshot.jobs[late.job], late.line
        if self._grants.bars(job, line):
            return False
        seconds = length(self._lines.estimate(line), self._world)
        return self._space.reserve(job, line.shape, self._now, seconds) is not None

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
