"""The machine's own limits: how many jobs run at once, its CPUs and its memory, now and later."""

from __future__ import annotations

import math
from collections.abc import Mapping

from runners.api import Code
from runners.pipeline.quantities import format_size
from runners.spec import JobSpec
from runnersd.model import JobId, Reason
from runnersd.planner.timeline import Timeline
from runnersd.planner.world import World


class Room:
    """What is left of the machine at which time. ``ends`` says when live jobs are expected to end (Unix seconds)."""

    def __init__(self, world: World, now: float, ends: Mapping[JobId, float]) -> None:
        self._world, self._now = world, now
        self._slots = Timeline(world.max_running)
        self._cpus = Timeline(world.cpus)
        self._memory = Timeline(world.memory)
        for id, job in world.snapshot.live.items():
            self.take(job.spec, now, max(ends[id], math.nextafter(now, math.inf)))

    def room(self, spec: JobSpec, at: float) -> float:
        """For how many seconds from then on there is room for the job: 0 when there is none."""
        return min(line.room(amount, at) for line, amount in self._wanted(spec))

    def next_room(self, spec: JobSpec, at: float, seconds: float) -> float:
        """The first time, not before ``at``, from which on there may be room for it for so long."""
        return max(line.next_room(amount, at, seconds) for line, amount in self._wanted(spec))

    def take(self, spec: JobSpec, start: float, end: float) -> None:
        """The job has its part then."""
        for line, amount in self._counted(spec):
            line.take(start, end, amount)

    def give_back(self, spec: JobSpec, start: float, end: float) -> None:
        """Undo a :meth:`take`."""
        for line, amount in self._counted(spec):
            line.give_back(start, end, amount)

    def lacks(self, spec: JobSpec) -> Reason | None:
        """What there is not enough of for the job now; None when only what is kept for others stands in its way."""
        now = self._now
        running = len(self._world.snapshot.live)
        if self._slots.taken(now) >= self._slots.capacity:
            jobs = "1 job runs" if running == 1 else f"{int(self._slots.taken(now))} jobs run"
            return Reason(Code.RUNNING_LIMIT, f"{jobs}, the most at once on this machine (jobs.max_running)")
        if spec.cpus is not None and not self._cpus.room(spec.cpus, now):
            cpus = "1 CPU" if spec.cpus == 1 else f"{spec.cpus:g} CPUs"
            free = max(self._cpus.capacity - self._cpus.taken(now), 0)
            return Reason(Code.NO_CPUS, f"needs {cpus}: {free:g} of {self._cpus.capacity:g} free")
        if spec.memory is not None and not self._memory.room(spec.memory, now):
            left = format_size(max(int(self._memory.capacity - self._memory.taken(now)), 0))
            return Reason(Code.NO_MEMORY, f"needs {format_size(spec.memory)} of memory: {left} free")
        return None

    def _wanted(self, spec: JobSpec) -> list[tuple[Timeline, float]]:
        # A job that names no CPUs is counted, but never held back for them: its cards would idle.
        wanted = [(self._slots, 1.0)]
        if spec.cpus is not None:
            wanted.append((self._cpus, spec.cpus))
        if spec.memory is not None:
            wanted.append((self._memory, float(spec.memory)))
        return wanted

    def _counted(self, spec: JobSpec) -> list[tuple[Timeline, float]]:
        return [(self._slots, 1.0), (self._cpus, spec.cpus_wanted), (self._memory, float(spec.memory or 0))]
