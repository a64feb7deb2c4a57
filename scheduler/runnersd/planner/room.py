"""The machine's own limits: how many jobs run at once, its CPUs and its memory."""

from __future__ import annotations

from runners.api import Code
from runners.pipeline.quantities import format_size
from runnersd.model import Job, Reason
from runnersd.planner.words import user_of
from runnersd.planner.world import World


class Room:
    """What is left of the machine while starts are handed out. CPUs and memory are claimed whole, by the first that
    does not fit: who comes later and names them waits behind it."""

    def __init__(self, world: World) -> None:
        live = world.snapshot.live
        self._world = world
        self._running = len(live)
        self._cpus = world.cpus - sum(job.spec.cpus_wanted for job in live.values())
        self._memory = world.memory - sum(job.spec.memory or 0 for job in live.values())
        self._waiting_for: dict[Code, Job] = {}

    def lacks(self, job: Job) -> Reason | None:
        """What keeps the job from starting, which it claims; None when there is room."""
        if self._running >= self._world.max_running:
            running = "1 job runs" if self._running == 1 else f"{self._running} jobs run"
            return Reason(Code.RUNNING_LIMIT, f"{running}, the most at once on this machine (jobs.max_running)")
        # A job that names no CPUs is counted, but never held back for them: its cards would idle.
        wants = ((Code.NO_CPUS, job.spec.cpus, self._cpus), (Code.NO_MEMORY, job.spec.memory, self._memory))
        for code, wanted, left in wants:
            if wanted is None:
                continue
            ahead = self._waiting_for.get(code)
            if ahead is not None:
                return Reason(
                    Code.BEHIND_RESERVATION, f"job {ahead.id} ({user_of(ahead)}) is ahead and waits for the same"
                )
            if wanted > left:
                self._waiting_for[code] = job
                if code is Code.NO_CPUS:
                    cpus = "1 CPU" if wanted == 1 else f"{wanted:g} CPUs"
                    return Reason(code, f"needs {cpus}: {max(left, 0):g} of {self._world.cpus:g} free")
                free = format_size(max(int(left), 0))
                return Reason(code, f"needs {format_size(int(wanted))} of memory: {free} free")
        return None

    def take(self, job: Job) -> None:
        """The job starts."""
        self._running += 1
        self._cpus -= job.spec.cpus_wanted
        self._memory -= job.spec.memory or 0
