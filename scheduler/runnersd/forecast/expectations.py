"""When the jobs in line are expected to start, each with a range in which it does so in four cases of five."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from runners.api import Code
from runnersd.forecast.making_way import Preempted
from runnersd.forecast.outlooks import LATER, LIKELY, SOONER
from runnersd.forecast.playing import Play
from runnersd.forecast.queue import queue_of
from runnersd.model import GpuId, JobId, Reason
from runnersd.planner.preemption import may_preempt
from runnersd.planner.walk import Walk
from runnersd.planner.world import World

#: Others will come and go first: that makes a wait longer by so large a part of itself, and by so many seconds.
_PASSED, _SLACK = 0.6, 60.0
#: What runs may end sooner than all that is known says: that makes it shorter, to so large a part of itself.
_SOONER = 0.9


@dataclass(frozen=True, slots=True)
class Expectation:
    """When a job is expected to start (Unix seconds). ``likely`` and ``latest`` are None where nobody can say.

    It starts from ``earliest`` to ``latest`` in about 80 cases of 100. ``gpus`` are the cards it would have then, and
    ``preempts`` says who has to make way for that.
    """

    likely: float | None
    earliest: float
    latest: float | None
    gpus: tuple[GpuId, ...] = ()
    preempts: Preempted | None = None

    def told(self, reason: Reason, now: float) -> Reason:
        """Why it waits, with whom it may preempt later on."""
        if self.preempts is None or self.preempts.at <= now or reason.code is Code.STARTING_SOON:
            return reason
        return replace(reason, text=f"{reason.text}; {may_preempt(self.preempts.jobs, self.preempts.at, now)}")


@dataclass(frozen=True, slots=True)
class Forecast:
    """What was foretold at some time (Unix seconds). Jobs of which nothing can be said are not in it."""

    made_at: float = 0.0
    expected: Mapping[JobId, Expectation] = field(default_factory=dict)
    in_time: Sequence[JobId] = ()  #: as they are expected to start


class Forecaster:
    """Makes one forecast, in small steps. What it is made of is taken in at once, and may change meanwhile."""

    def __init__(self, world: World, now: float, ends: Mapping[JobId, float] | None = None) -> None:
        """``ends`` says when live jobs end (Unix seconds) of which that is decided."""
        self._now = now
        self._plays: tuple[Play, ...] = ()
        self._not_before: dict[JobId, float] = {}  #: jobs that cannot start before a time of their own
        if world.paused is None and world.low_disk is None:
            queue = queue_of(world, now)
            self._not_before = {one.job.id: one.not_before for one in queue.following}
            walk = Walk(world, now)
            walk.run()
            self._plays = tuple(Play(queue, world, now, outlook, walk, ends) for outlook in (LIKELY, SOONER, LATER))

    def steps(self) -> Iterator[None]:
        """Do it, a job of one of the plays at a time."""
        for play in self._plays:
            yield from play.steps()

    def result(self) -> Forecast:
        """What came of it, when all steps are done."""
        if not self._plays:
            return Forecast(self._now)
        likely, sooner, later = self._plays
        known = [id for id, start in likely.starts.items() if start < math.inf]
        expected = {id: self._expected(id, likely, sooner.starts[id], later.starts[id]) for id in known}
        return Forecast(self._now, expected, sorted(known, key=likely.starts.__getitem__))

    def _expected(self, id: JobId, play: Play, sooner: float, later: float) -> Expectation:
        likely, gpus, preempts = play.starts[id], play.cards[id], play.preempts.get(id)
        earliest = self._now + _SOONER * (min(sooner, likely) - self._now)
        earliest = max(earliest, self._not_before.get(id, earliest))
        if later == math.inf:  # somebody is in the way of whom nobody knows when they will be done
            return Expectation(None, earliest, None, gpus, preempts)
        latest = max(later, likely)
        return Expectation(likely, earliest, latest + _PASSED * (latest - self._now) + _SLACK, gpus, preempts)


def forecast(world: World, now: float) -> Forecast:
    """The whole forecast at once."""
    forecaster = Forecaster(world, now)
    for _ in forecaster.steps():
        pass
    return forecaster.result()
