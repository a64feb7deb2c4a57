"""How far one pipeline has come: which of its jobs its needs and barriers let through.

Counts, not searches: the end of a job costs the number of need groups it belongs to and of jobs it lets through.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from runners.api import Code
from runners.spec import On, groups
from runnersd.model import Job, JobId, Pipeline, Reason

#: Past every position: no barrier is in the way.
_END = 1 << 60


@dataclass(slots=True)
class _Group:
    """Jobs that are waited for together: the targets of one need, or of one barrier."""

    name: str
    on: On
    targets: Sequence[int]
    remaining: int = 0
    failed: int | None = None  #: position of the first target that ended badly
    waiters: list[int] = field(default_factory=list)


class Progress:
    """The needs, barriers and limit of one pipeline, kept up to date job by job."""

    def __init__(
        self, pipeline: Pipeline, jobs: Sequence[Job], settled: Mapping[JobId, Job], names: Sequence[str] | None = None
    ) -> None:
        """``settled`` are those jobs of ``pipeline.after`` that are over; ``names`` what needs call the jobs."""
        self.pipeline = pipeline
        self.jobs = list(jobs)
        self.live = sum(job.live for job in jobs)
        self.unsettled = sum(not job.settled for job in jobs)
        self.shown = self.below_limit  #: whether the ready lists show this pipeline's jobs; kept by the snapshot
        self.awaited = dict.fromkeys(id for id in pipeline.after if id not in settled or not settled[id].tolerated)
        self._doomed: dict[JobId, None] = {}
        self._unmet: dict[int, int] = {}
        self._waits: dict[int, list[_Group]] = {}  # waiter's position -> what it waits for
        self._of: dict[int, list[_Group]] = {}  # target's position -> groups it is in
        self._build_needs(groups(names or [job.spec.name for job in jobs], pipeline.items))
        self._barriers = [
            self._group("", barrier.on, range(barrier.first, barrier.last + 1))
            for barrier in sorted(pipeline.barriers, key=lambda barrier: barrier.last)
        ]
        self._next_barrier = 0
        self._pass_barriers()
        for group in self._barriers:
            if group.failed is not None:
                self._doom(range(group.targets[-1] + 1, len(self.jobs)))
        #: The first job of ``pipeline.after`` that is known to have ended badly.
        self._failed_before = next((job for job in settled.values() if not job.tolerated), None)
        if self._failed_before is not None:
            self._doom(range(len(self.jobs)))

    # -- what readers ask --------------------------------------------------------------------------------------------

    @property
    def below_limit(self) -> bool:
        """Whether one more of its jobs may be live."""
        return self.live < self.pipeline.num_jobs

    @property
    def over(self) -> bool:
        """Whether every job has settled."""
        return self.unsettled == 0

    @property
    def gate(self) -> int:
        """The last position that the barriers let through."""
        if self._next_barrier == len(self._barriers):
            return _END
        return self._barriers[self._next_barrier].targets[-1]

    def open(self, position: int) -> bool:
        """Whether its needs are met and no barrier is in its way."""
        return not self.awaited and not self._unmet.get(position) and position <= self.gate

    def open_positions(self) -> Iterator[int]:
        """Every position that is open."""
        return (position for position in range(len(self.jobs)) if self.open(position))

    def why(self, position: int) -> Reason | None:
        """What its needs or barriers make it wait for; None when it is open."""
        if self.awaited:
            return Reason(Code.NEEDS_JOBS, f"waits for {_jobs(sorted(self.awaited))} to succeed")
        if position > self.gate:
            return Reason(
                Code.BARRIER, f"waits at the blocking {_names(self._unfinished(self._barriers[self._next_barrier]))}"
            )
        for group in self._waits.get(position, ()):
            if group.remaining:
                verb = "end" if group.on == "finished" else "succeed"
                return Reason(Code.NEEDS_JOBS, f"waits for {_names(self._unfinished(group))} to {verb}")
        return None

    def waits_for(self, position: int, most: int) -> tuple[JobId, ...] | None:
        """The jobs whose ends open the position; None when they are more than so many."""
        below = [barrier for barrier in self._barriers[self._next_barrier :] if barrier.targets[-1] < position]
        found = dict.fromkeys(self.awaited)
        for group in (*below, *self._waits.get(position, ())):
            if len(found) + len(group.targets) > most:
                return None
            found.update((job.id, None) for job in self._unfinished(group))
        return tuple(found)

    def failed_need(self, job: Job) -> Reason:
        """Why a doomed job will never start."""
        culprit: Job | None = None
        for group in [*self._waits.get(job.position, ()), *self._barriers]:
            if group.failed is not None and (group.waiters or group.targets[-1] < job.position):
                culprit = self.jobs[group.failed]
                break
        culprit = culprit or self._failed_before
        if culprit is None:
            return Reason(Code.NEED_FAILED, "a job that it waited for did not succeed")
        return Reason(Code.NEED_FAILED, f"{culprit.spec.name} (job {culprit.id}) ended as {culprit.state.value}")

    # -- changes -----------------------------------------------------------------------------------------------------

    def replace(self, job: Job) -> list[int]:
        """The job has changed. Returns the positions that this opens."""
        before = self.jobs[job.position]
        self.jobs[job.position] = job
        self.live += job.live - before.live
        if not job.settled or before.settled:
            return []
        self.unsettled -= 1
        opened: list[int] = []
        for group in self._of.pop(job.position, ()):
            self._count(group, job, opened)
        gate = self.gate
        if self._pass_barriers():
            opened += range(gate + 1, min(self.gate + 1, len(self.jobs)))
        return opened

    def hear(self, settled: Job) -> list[int]:
        """A job of another pipeline that this one was submitted after has settled."""
        if not settled.tolerated:
            # It stays among the awaited: nothing of this pipeline may open any more.
            self._failed_before = self._failed_before or settled
            self._doom(range(len(self.jobs)))
            return []
        self.awaited.pop(settled.id, None)
        return [] if self.awaited else list(range(len(self.jobs)))

    def take_doomed(self) -> list[JobId]:
        """Waiting jobs that can never start any more, each told once."""
        doomed, self._doomed = list(self._doomed), {}
        return doomed

    # -- inside ------------------------------------------------------------------------------------------------------

    def _build_needs(self, named: Mapping[str, Sequence[int]]) -> None:
        shared: dict[tuple[str, On, int], _Group] = {}
        for position, job in enumerate(self.jobs):
            if job.settled:
                continue
            for need in job.spec.needs:
                above = position if need.job == "all" else -1
                group = shared.get((need.job, need.on, above))
                if group is None:
                    targets = range(position) if need.job == "all" else named.get(need.job, ())
                    group = shared[need.job, need.on, above] = self._group(need.job, need.on, targets)
                self._waits.setdefault(position, []).append(group)
                group.waiters.append(position)
                if group.remaining:
                    self._unmet[position] = self._unmet.get(position, 0) + 1
                if group.failed is not None:
                    self._doom([position])

    def _group(self, name: str, on: On, targets: Sequence[int]) -> _Group:
        group = _Group(name, on, targets)
        for position in targets:
            job = self.jobs[position]
            if not job.settled:
                self._of.setdefault(position, []).append(group)
                group.remaining += 1
            elif on == "success" and not job.tolerated:
                group.remaining += 1
                group.failed = position if group.failed is None else group.failed
        return group

    def _count(self, group: _Group, job: Job, opened: list[int]) -> None:
        if group.on == "success" and not job.tolerated:
            if group.failed is None:
                group.failed = job.position
                self._doom(group.waiters or range(group.targets[-1] + 1, len(self.jobs)))
            return
        group.remaining -= 1
        if group.remaining == 0:
            for position in group.waiters:
                self._unmet[position] -= 1
                if not self._unmet[position]:
                    opened.append(position)

    def _pass_barriers(self) -> bool:
        start = self._next_barrier
        while self._next_barrier < len(self._barriers) and not self._barriers[self._next_barrier].remaining:
            self._next_barrier += 1
        return self._next_barrier != start

    def _doom(self, positions: Sequence[int]) -> None:
        self._doomed.update(
            (self.jobs[p].id, None) for p in positions if not self.jobs[p].settled and not self.jobs[p].live
        )

    def _unfinished(self, group: _Group) -> list[Job]:
        return [self.jobs[p] for p in group.targets if not self.jobs[p].settled]


def _names(jobs: Sequence[Job]) -> str:
    shown = ", ".join(f"{job.spec.name} ({job.id})" for job in jobs[:3])
    return f"{shown} and {len(jobs) - 3} more" if len(jobs) > 3 else shown or "jobs above"


def _jobs(ids: Sequence[JobId]) -> str:
    return ("job " if len(ids) == 1 else "jobs ") + ", ".join(map(str, ids[:5])) + (" ..." if len(ids) > 5 else "")
