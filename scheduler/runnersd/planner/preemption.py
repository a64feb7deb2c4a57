"""Who makes way for whom: jobs that may be preempted, for a job of a higher priority that cannot start otherwise.

As few as will do are stopped, of them those of the lowest priority, and of those the ones that started last. What comes
free is kept for the job that it was freed for, from the stop until its start.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from runners.api import Code, JobState
from runnersd.lines import Shape
from runnersd.model import Job, JobId, Reason
from runnersd.planner.lengths import Passing
from runnersd.planner.space import Space
from runnersd.planner.words import clock_text, user_of
from runnersd.planner.world import World

#: Seconds past a stopped job's grace after which nobody counts on its end.
_PATIENCE = 15.0


class Preemption:
    """For one plan. ``ending`` are jobs that have to end now for another reason."""

    def __init__(self, world: World, now: float, space: Space, ending: Collection[JobId]) -> None:
        self._now, self._space = now, space
        live = world.snapshot.live.values()
        self.made_way: dict[JobId, list[Job]] = {}  #: jobs that are being stopped, by whom they make way for
        for job in live:
            if job.state is JobState.STOPPING and job.reason is not None and job.reason.about is not None:
                self.made_way.setdefault(job.reason.about, []).append(job)
        self._ending = [job for job in live if job.id in ending or job.state is JobState.STOPPING]
        self._leaving = [job for job in self._ending if job.id in ending or _leaves(job, now)]
        self._candidates: list[Job] = []
        self.later: float | None = None  #: when the next job may be preempted (Unix seconds)
        if world.min_run is not None:
            able = [(job, from_) for job, from_ in may_be_preempted(world) if job.id not in ending]
            self.later = min((from_ for _, from_ in able if from_ > now), default=None)
            self._candidates = [job for job, from_ in able if from_ <= now]

    def claimants(self, world: World) -> list[JobId]:
        """Waiting jobs for which others have made way or do so, in the order in which that began."""
        since = {id: min(job.stopping_at or self._now for job in jobs) for id, jobs in self.made_way.items()}
        ids = dict.fromkeys([*world.claimants, *sorted(since, key=lambda id: (since[id], id))])
        return [id for id in ids if id in world.snapshot.jobs]

    def leaving(self, id: JobId) -> list[Job]:
        """Jobs that have to end: those that make way for that job, then others."""
        mine = self.made_way.get(id, [])
        return [*mine, *(job for job in self._ending if job not in mine)]

    def victims(self, job: Job, shape: Shape, way: Passing) -> list[Job]:
        """Who is to be stopped so that the job can start; nobody if that would not help."""
        candidates = [one for one in self._candidates if one.spec.priority < job.spec.priority]
        if not candidates or job.id in self.made_way:
            return []
        chosen = fewest(candidates, lambda gone: self.fits(job, shape, way, [*self._leaving, *gone]))
        if not chosen:
            return []
        self._candidates = [one for one in self._candidates if one not in chosen]
        self._leaving += chosen
        self._ending += chosen
        self.made_way[job.id] = chosen
        return chosen

    def fits(self, job: Job, shape: Shape, way: Passing, gone: Sequence[Job]) -> bool:
        """Whether the job could start now if those were gone."""
        with self._space.without(gone):
            fit = self._space.fit(job, shape, way.heeds)
        return fit.never is None and fit.lasts(way.seconds)


def may_be_preempted(world: World) -> list[tuple[Job, float]]:
    """The running jobs that may be preempted, each with the time from which on it may (Unix seconds): those first that
    are to go first."""
    if world.min_run is None:
        return []
    able = [
        (job, began + world.min_run)
        for job in world.snapshot.live.values()
        if job.spec.preemptible and job.state is JobState.RUNNING and (began := world.began(job)) is not None
    ]
    return sorted(able, key=lambda one: _first_to_go(one[0]))


def fewest(candidates: Sequence[Job], fits: Callable[[Sequence[Job]], bool]) -> list[Job]:
    """Who of the candidates, which are as :func:`may_be_preempted` has them, is to be stopped so that something
    ``fits``; nobody if it does so anyway, or if that would not help."""
    if fits([]) or not fits(candidates):
        return []
    most_useful = sorted(candidates, key=lambda one: -len(one.gpus))
    ways = [_enough(order, fits) for order in (candidates, most_useful)]
    return _better(min(ways, key=len), candidates, fits)


def _enough(order: Sequence[Job], fits: Callable[[Sequence[Job]], bool]) -> list[Job]:
    """The first of them that make room together, without those that are not needed for it."""
    chosen: list[Job] = []
    for one in order:
        chosen.append(one)
        if fits(chosen):
            break
    for one in sorted(chosen, key=_first_to_go, reverse=True):
        rest = [other for other in chosen if other is not one]
        if fits(rest):
            chosen = rest
    return chosen


def _better(chosen: list[Job], candidates: Sequence[Job], fits: Callable[[Sequence[Job]], bool]) -> list[Job]:
    """As many as were chosen, each as far down among the candidates as makes room too."""
    for one in sorted(chosen, key=_first_to_go, reverse=True):
        for other in candidates:
            if other is one:
                break
            if other in chosen:
                continue
            instead = [other if kept is one else kept for kept in chosen]
            if fits(instead):
                chosen = instead
                break
    return chosen


def making_way(job: Job) -> Reason:
    """Why others are stopped for the job."""
    text = f"makes way for job {job.id} ({user_of(job)}) of priority {job.spec.priority}, and is queued again"
    return Reason(Code.PREEMPTED, text, job.id)


def waiting_for(leaving: Sequence[Job]) -> Reason:
    """Why a job does not start yet that others make way for."""
    if not leaving:
        return Reason(Code.STARTING_SOON, "others made way for it; starts when their cards are seen to be free")
    jobs, have = ("job", "has") if len(leaving) == 1 else ("jobs", "have")
    return Reason(Code.STARTING_SOON, f"room is made for it: starts when {jobs} {_named(leaving)} {have} ended")


def may_preempt(jobs: Sequence[Job], at: float, now: float) -> str:
    """Whom a job that waits may have stopped, and from when on (Unix seconds), in words."""
    return f"may preempt {_named(jobs)} from {clock_text(at, now)}"


def _named(jobs: Sequence[Job]) -> str:
    return ", ".join(f"{one.id} ({user_of(one)})" for one in jobs[:3]) + (", ..." if len(jobs) > 3 else "")


def _first_to_go(job: Job) -> tuple[int, float, int]:
    return job.spec.priority, -(job.started_at or 0.0), -job.id


def _leaves(job: Job, now: float) -> bool:
    return job.state is JobState.STOPPING and now <= (job.stopping_at or now) + job.spec.grace + _PATIENCE
