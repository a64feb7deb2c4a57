"""Who makes way for whom in one play of the queue, and when: by the planner's own choice, made at a later time.

A job is stopped at the first time at which the one that waits could start if those that may be preempted by then were
gone. That a job for several cards may not have the others kept until then is not played: it may come to wait longer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from runnersd.model import Job, JobId
from runnersd.planner.decisions import Reservation
from runnersd.planner.preemption import fewest, may_be_preempted
from runnersd.planner.space import Space
from runnersd.planner.world import World

#: The first time, not before that one, at which a job fits (Unix seconds), kept for it; None if it never does.
First = Callable[[float], Reservation | None]


class Preempted(NamedTuple):
    """Running jobs that are told then (Unix seconds) to make way."""

    jobs: tuple[Job, ...]
    at: float


class MakingWay:
    """For one play. ``space`` is its own, ``decided`` are live jobs whose end is decided, ``served`` waiting jobs that
    others make way for already."""

    def __init__(
        self, world: World, now: float, space: Space, decided: Collection[JobId], served: Collection[JobId]
    ) -> None:
        able = [(job, from_) for job, from_ in may_be_preempted(world) if job.id not in decided]
        self._space = space
        self._from = {job.id: max(from_, now) for job, from_ in able}
        self._candidates = [job for job, _ in able]
        self._served = set(served)
        self.priorities = {job.spec.priority for job in self._candidates}  #: of all who may have to make way
        self._lowest = min((job.spec.priority for job in self._candidates), default=math.inf)

    def preempts(self, job: Job, first: First, at: float, made: Reservation | None) -> Preempted | None:
        """Whom the job has stopped so that it starts earlier than was ``made`` for it; None if nobody.

        It looks from ``at`` on. Each job is asked for once: those who make way for it are candidates no more.
        """
        if job.spec.priority <= self._lowest or job.id in self._served:
            return None
        lower = [one for one in self._candidates if one.spec.priority < job.spec.priority]
        if made is not None:
            if made.at <= min(self._from[one.id] for one in lower):
                return None
            self._space.lift(made)
        found = self._choose(lower, first, at, math.inf if made is None else made.at)
        if made is not None:
            self._space.restore(made)
        if found is not None:
            self._served.add(job.id)
            self._candidates = [one for one in self._candidates if one not in found.jobs]
            self._lowest = min((one.spec.priority for one in self._candidates), default=math.inf)
        return found

    def _choose(self, lower: Sequence[Job], first: First, at: float, otherwise: float) -> Preempted | None:
        ends = self._space.ends
        stop = self._start([one for one in lower if self._from[one.id] < ends[one.id]], self._from, first, at)
        if stop >= otherwise:
            return None
        able = [one for one in lower if self._from[one.id] <= stop < ends[one.id]]
        then = {one.id: stop for one in able}
        chosen = fewest(able, lambda gone: self._start(gone, then, first, stop) <= stop)
        return Preempted(tuple(chosen), stop) if chosen else None

    def _start(self, gone: Sequence[Job], ends: dict[JobId, float], first: First, at: float) -> float:
        """When the job would start if those had ended then; infinity if never."""
        with self._space.if_ended(gone, ends):
            made = first(at)
            if made is None:
                return math.inf
            self._space.lift(made)
        return made.at
