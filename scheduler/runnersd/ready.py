"""The jobs between which and their start nothing stands but resources, in the order in which they are looked at.

They wait in lines (`runnersd.lines`): a pipeline shows its first job of each line, and one that is at its `num_jobs`
shows none. Lines stand by priority, user and shape, each by when its first job is due; those for several cards also by
what they are promised. All of it is kept in order change by change, so that a decision costs what changes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from runnersd.lines import Line, Shape, line_of
from runnersd.model import Job, JobId, PipelineId
from runnersd.past.estimates import Estimate
from runnersd.past.experience import Experience
from runnersd.past.kinds import Kind
from runnersd.urgency import Measures, due, promised, work_of

#: A job that has made way for another counts as submitted so much earlier (seconds): before all of its user's others.
AHEAD = 1e10

K = TypeVar("K", bound=Hashable)

#: A line keeps its place while the work of its jobs is not thought to be more or less by so large a part.
_FAR = 0.1
#: A line in its place: when its first job is due, or what that is promised; that job; the line.
Place = tuple[float, JobId, Line]


class Ready:
    """The lines. Readers must not change what they are given."""

    def __init__(self, jobs: Mapping[JobId, Job], experience: Experience, measures: Measures) -> None:
        self.heads: dict[Line, list[tuple[JobId, PipelineId]]] = {}  #: in the order of submission
        self.bands: dict[int, dict[int, dict[Shape, list[Place]]]] = {}  #: by priority, uid and shape
        self.promises: dict[int, list[Place]] = {}  #: of lines for several cards, by priority
        self.turns: dict[int, list[Place]] = {}  #: of all other lines: what those would be promised, by priority
        self.measures = measures
        self._jobs, self._experience = jobs, experience
        self._of: dict[PipelineId, dict[Line, list[JobId]]] = {}
        self._lines: dict[JobId, Line] = {}
        self._places: dict[Line, tuple[Place, float, float]] = {}  # its place, its promise, its work
        self._estimates: dict[Line, Estimate] = {}
        self._kinds: dict[tuple[int, Kind], dict[Line, None]] = {}
        self._guessed: dict[int, dict[Line, None]] = {}  # lines of kinds that are new, by user

    # -- what readers ask --------------------------------------------------------------------------------------------

    def holds(self, id: JobId) -> bool:
        """Whether the job is ready."""
        return id in self._lines

    def line(self, id: JobId) -> Line:
        """The line in which a ready job waits."""
        return self._lines[id]

    def followers(self, pipeline: PipelineId, line: Line) -> Sequence[JobId]:
        """The pipeline's jobs in that line, in order; its head is the first."""
        return self._of[pipeline][line]

    def estimate(self, line: Line) -> Estimate:
        """What is thought of the durations of that line's jobs."""
        found = self._estimates.get(line)
        return found if found is not None else self._estimate(line)

    def due(self, line: Line, id: JobId) -> float:
        """When that job of the line is due (Unix seconds)."""
        return due(self.submitted(id), line.shape, self.estimate(line), self.measures)

    def submitted(self, id: JobId) -> float:
        """When the job came, as its place in line goes (Unix seconds): long before everybody if it has made way."""
        job = self._jobs[id]
        return job.came_at - AHEAD if job.preempted else job.came_at

    # -- changes -----------------------------------------------------------------------------------------------------

    def measure(self, measures: Measures) -> None:
        """Go by other measures from now on."""
        lines = list(self._places)
        for line in lines:
            self._displace(line)
        self.measures = measures
        self._estimates.clear()
        for line in lines:
            self._place(line)

    def enter(self, job: Job, *, shown: bool) -> None:
        """A job is ready; ``shown`` says whether its pipeline shows its jobs."""
        line = line_of(job)
        self._lines[job.id] = line
        ids = self._of.setdefault(job.pipeline.id, {}).setdefault(line, [])
        first = ids[0] if ids else None
        if not ids or ids[-1] < job.id:
            ids.append(job.id)
        else:
            insort(ids, job.id)
        if shown and ids[0] != first:
            if first is not None:
                self._hide(line, first, job.pipeline.id)
            self._show(line, ids[0], job.pipeline.id)

    def leave(self, job: Job, *, shown: bool) -> None:
        """A job is not ready any more. Nothing happens if it was not."""
        line = self._lines.pop(job.id, None)
        if line is None:
            return
        lines = self._of[job.pipeline.id]
        ids = lines[line]
        at = bisect_left(ids, job.id)
        del ids[at]
        if shown and at == 0:
            self._hide(line, job.id, job.pipeline.id)
            if ids:
                self._show(line, ids[0], job.pipeline.id)
        if not ids:
            del lines[line]

    def show(self, pipeline: PipelineId) -> None:
        """The pipeline shows its jobs."""
        for line, ids in self._of.get(pipeline, {}).items():
            self._show(line, ids[0], pipeline)

    def hide(self, pipeline: PipelineId) -> None:
        """The pipeline, which shows its jobs, shows none any more."""
        for line, ids in self._of.get(pipeline, {}).items():
            self._hide(line, ids[0], pipeline)

    def forget(self, pipeline: PipelineId) -> None:
        """The pipeline is over; it shows nothing."""
        self._of.pop(pipeline, None)

    def learned(self, uid: int, kind: Kind) -> None:
        """A user's job of that kind is over. Lines move when estimates have moved far enough, not each time."""
        lines: list[Line] = []
        if self._experience.telling(uid, kind):
            lines += self._kinds.get((uid, kind), ())
        if self._experience.telling_of_user(uid):
            lines += [line for line in self._guessed.get(uid, ()) if line.kind != kind]
        for line in lines:
            estimate = self._estimate(line)
            if self._moved(line, estimate):
                self._displace(line)
                self._estimates[line] = estimate
                self._place(line)
            else:
                self._estimates[line] = estimate

    # -- inside ------------------------------------------------------------------------------------------------------

    def _show(self, line: Line, id: JobId, pipeline: PipelineId) -> None:
        heads = self.heads.setdefault(line, [])
        insort(heads, (id, pipeline))
        if heads[0][0] == id:
            self._displace(line)
            self._place(line)

    def _hide(self, line: Line, id: JobId, pipeline: PipelineId) -> None:
        heads = self.heads[line]
        at = bisect_left(heads, (id, pipeline))
        del heads[at]
        if not heads:
            del self.heads[line]
            self._displace(line)
            self._estimates.pop(line, None)
        elif at == 0:
            self._displace(line)
            self._place(line)

    def _place(self, line: Line) -> None:
        """Put a line that has heads where it belongs."""
        id = self.heads[line][0][0]
        estimate = self._estimates[line] = self.estimate(line)
        shape, submitted = line.shape, self.submitted(id)
        work = work_of(shape, estimate, self.measures)
        place = (due(submitted, shape, estimate, self.measures), id, line)
        came = submitted if shape.num_gpus > 1 else self._jobs[id].came_at
        promise = promised(came, shape, estimate, self.measures)
        self._places[line] = (place, promise, work)
        insort(self.bands.setdefault(line.priority, {}).setdefault(line.uid, {}).setdefault(shape, []), place, key=_key)
        insort(self._promises(line).setdefault(line.priority, []), (promise, id, line), key=_key)
        self._kinds.setdefault((line.uid, line.kind), {})[line] = None
        if estimate.ground != "kind":
            self._guessed.setdefault(line.uid, {})[line] = None

    def _moved(self, line: Line, estimate: Estimate) -> bool:
        """Whether a line belongs elsewhere by now."""
        before = self._places[line][2]
        work = work_of(line.shape, estimate, self.measures)
        return abs(work - before) > _FAR * before or estimate.ground != self._estimates[line].ground

    def _displace(self, line: Line) -> None:
        """Take a line out of its place, if it has one."""
        if line not in self._places:
            return
        place, promise, _ = self._places.pop(line)
        users = self.bands[line.priority]
        shapes = users[line.uid]
        _remove(shapes[line.shape], place)
        if not shapes[line.shape]:
            del shapes[line.shape]
            if not shapes:
                del users[line.uid]
                if not users:
                    del self.bands[line.priority]
        promises = self._promises(line)
        _remove(promises[line.priority], (promise, place[1], line))
        if not promises[line.priority]:
            del promises[line.priority]
        _discard(self._kinds, (line.uid, line.kind), line)
        _discard(self._guessed, line.uid, line)

    def _promises(self, line: Line) -> dict[int, list[Place]]:
        return self.promises if line.shape.num_gpus > 1 else self.turns

    def _estimate(self, line: Line) -> Estimate:
        return self._experience.estimate(line.uid, line.kind, line.shape.num_gpus, line.limit)


def _key(place: Place) -> tuple[float, JobId]:
    return place[:2]


def _remove(places: list[Place], place: Place) -> None:
    del places[bisect_left(places, place[:2], key=_key)]


def _discard(sets: dict[K, dict[Line, None]], key: K, line: Line) -> None:
    found = sets.get(key)
    if found is not None:
        found.pop(line, None)
        if not found:
            del sets[key]
