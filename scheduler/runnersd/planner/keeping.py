"""What is kept, or owed, before anybody is looked at: cards for the jobs that need several, as they were promised."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from runnersd.lines import Line
from runnersd.planner.decisions import Reservation
from runnersd.planner.grants import Grants
from runnersd.planner.lengths import SHORTEST, Passing, length, passing
from runnersd.planner.overdue import LOOKED_AT, Overdue, is_their_turn, overdue
from runnersd.planner.precedence import Precedence
from runnersd.planner.promises import AT_LAST, KEPT, is_ripe, is_short, lent_until
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
        self._lent = -math.inf  # until when those with a limit may have what is owed (Unix seconds)
        self.later: list[float] = []  #: when cards may be kept for who is owed some (Unix seconds)
        self.turns: list[Overdue] = []  #: whose turn it was, and who did not fit
        self._passed: dict[int, tuple[bool, float, float]] = {}  # these three as they were, by priority gone through

    def way(self, line: Line) -> Passing:
        """What the line's first job must be given to start."""
        strict, late, lent = self._passed.get(line.priority, (self._strict, self._late, self._lent))
        estimate = self._lines.estimate(line)
        way = passing(estimate, self._world, strict, late)
        return way._replace(heeds=False) if estimate.limit is not None and self._now + estimate.limit <= lent else way

    def keep(self, priority: int) -> None:
        """Go through the promises of a priority, first of all the earliest. Who can start at once does."""
        if priority in self._lines.promises:
            self._keep(priority)
        self._passed[priority] = self._strict, self._late, self._lent

    def _keep(self, priority: int) -> None:
        looked = 0
        waited = self._waited(self._lines.promises[priority])
        jobs, used = self._snapshot.jobs, self._grants.used
        precedence = Precedence(self._lines, jobs, priority, self._snapshot, self._space, used)
        late = self._with_a_turn(priority)
        for promised, id, line in self._in_order(priority, late):
            if looked == KEPT:
                break
            if precedence.yields(line, overdue=self._now > promised + self._world.measures.max_delay):
                continue
            job = self._snapshot.jobs[id]
            if self._grants.bars(job, line):
                continue
            if late and late[0].since < self._lines.submitted(id):
                while late and late[0].since < self._lines.submitted(id):
                    self._keep_for(late)
                if self._grants.bars(job, line):
                    continue
            estimate = self._lines.estimate(line)
            short, way = is_short(estimate, self._world), self.way(line)
            if short and self._space.fit(job, line.shape, way.heeds).lasts(way.seconds):
                self._grants.start(job, line, way)
                continue
            seconds = max(length(estimate, self._world), SHORTEST if self.turns else 0.0)
            made = self._space.reserve(job, line.shape, self._now if short else max(promised, self._now), seconds)
            if made is None:
                continue
            looked += 1
            ripe = is_ripe(made, promised, short, waited, self._space.given, self._world, self._now)
            if not line.resumed and (not ripe or self._is_before(made)):
                self._owe(made, line, promised, short)
                continue
            if not self._starts(made, line, way):
                self._strict = True

    def _starts(self, made: Reservation, line: Line, way: Passing) -> bool:
        """Start the job for which that was kept, if it can be had now; whether it could."""
        if made.at > self._now:
            return False
        self._space.lift(made)
        seconds = made.until - made.at
        if self._space.fit(made.job, line.shape, way.heeds).lasts(seconds):
            self._grants.start(made.job, line, way._replace(seconds=seconds))
            return True
        self._space.restore(made)  # what ended just now still shows in the memory of its cards
        return False

    def _with_a_turn(self, priority: int) -> deque[Overdue]:
        """Who goes before the jobs for several cards that came when it was overdue already."""
        able = (
            one
            for one in overdue(priority, self._world, self._now)
            if not self._grants.bars(self._snapshot.jobs[one.job], one.line)
        )
        first = next(able, None)
        if first is None or not is_their_turn(first, self._world):
            return deque()
        return deque((first, *able))

    def _in_order(self, priority: int, late: Sequence[Overdue]) -> Sequence[Place]:
        """The promises by when they are due; first of all those of jobs that came before anybody was overdue."""
        places = self._lines.promises[priority]
        if not late:
            return places
        return sorted(places[:LOOKED_AT], key=lambda place: self._lines.submitted(place[1]) > late[0].since)

    def _keep_for(self, late: deque[Overdue]) -> None:
        """Start the first of them, or keep what it needs from the first time on. It is one of them no more."""
        first = late.popleft()
        job, line = self._snapshot.jobs[first.job], first.line
        if self._grants.bars(job, line):
            return
        made = self._space.reserve(job, line.shape, self._now, length(self._lines.estimate(line), self._world))
        if made is not None and self._starts(made, line, self.way(line)):
            return
        if made is not None:
            self.turns.append(first)
            self._strict = True
        rest = [one for one in late if one.line.shape != line.shape]  # the others would be later still
        late.clear()
        late.extend(rest if len(self.turns) < KEPT else ())

    def _owe(self, made: Reservation, line: Line, promised: float, short: bool) -> None:
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
        self._lent = lent_until(promised, short, self._world, self._now)

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
