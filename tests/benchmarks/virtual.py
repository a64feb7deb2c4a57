"""The real planner on a virtual clock: a trace's jobs go through the daemon's own snapshot, lifecycle and plan."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.trace import Run, TraceJob
from runners.api import Code
from runners.spec import JobSpec
from runnersd import lifecycle
from runnersd.forecast import Expectation, forecast
from runnersd.model import Gpu, Inventory, Job, JobId, Pipeline, Reason, Submitter
from runnersd.planner import Drop, Fail, Plan, Start, Stop, World, plan
from runnersd.snapshot import Snapshot

#: Memory of each card; a share of a card is that share of it (bytes).
CARD = 80 << 30
#: When the trace begins (Unix seconds): times of the day mean nothing in it.
BEGIN = 1_700_000_000.0
SUBMITTER = Submitter(1000, 1000, (1000,), "trace")
_OK = Reason(Code.OK, "ended well")


@dataclass
class Replayed:
    """What became of the trace."""

    runs: dict[int, Run] = field(default_factory=dict)
    plans: int = 0
    foretold: list[tuple[JobId, Expectation]] = field(default_factory=list)  #: jobs that waited, when they came

    @property
    def in_range(self) -> tuple[float | None, int]:
        """Which part of the jobs foretold started in the range that they had been told, and how many were."""
        told = [(id, one) for id, one in self.foretold if one.latest is not None]
        right = sum(one.earliest <= BEGIN + self.runs[id].start <= (one.latest or 0.0) for id, one in told)
        return (right / len(told) if told else None), len(told)


class Replay:
    """One machine with so many cards, one user, and each of the trace's jobs in a pipeline of its own.

    CPUs and memory are as the jobs ask, and plenty: the textbook policies do not count them either. With ``limits``
    each job says how long it will run. Every so many'th job that has to wait is told, when it comes, when it will start.
    """

    def __init__(self, jobs: Sequence[TraceJob], cards: int, *, limits: bool, foretell: int = 0) -> None:
        self._jobs, self._limits, self._foretell = jobs, limits, foretell
        self._had_to_wait = 0
        self._durations = {job.id: job.duration for job in jobs}
        inventory = Inventory(
            tuple(
                Gpu(f"GPU-{n}", n, "NVIDIA A100-SXM4-80GB", memory_total=CARD, memory_used=0, pci_bus=f"{n:02x}:00.0")
                for n in range(cards)
            )
        )
        self.snapshot = Snapshot()
        self.world = World(self.snapshot, inventory, max_running=1 << 30, cpus=1e9, memory=1 << 60)
        self._ends: list[tuple[float, int]] = []
        self.done = Replayed()

    def run(self) -> Replayed:
        """Replay it all. The same trace gives the same outcome."""
        coming = 0
        look_again: float | None = None
        while coming < len(self._jobs) or self._ends:
            times = [BEGIN + self._jobs[coming].submitted] if coming < len(self._jobs) else []
            times += [self._ends[0][0]] if self._ends else []
            times += [look_again] if look_again is not None else []
            now = min(times)
            while self._ends and self._ends[0][0] <= now:
                self._end(heapq.heappop(self._ends)[1], now)
            before = coming
            while coming < len(self._jobs) and BEGIN + self._jobs[coming].submitted <= now:
                self._submit(self._jobs[coming], now)
                coming += 1
            look_again = self._turn(now).look_again
            self._tell([job.id for job in self._jobs[before:coming]], now)
            if look_again is not None and look_again <= now:
                look_again = now + 1.0
        if self.snapshot.jobs:
            raise AssertionError(f"jobs were left waiting for ever: {sorted(self.snapshot.jobs)[:10]}")
        return self.done

    def _submit(self, job: TraceJob, now: float) -> None:
        pipeline = Pipeline(job.id, "trace", SUBMITTER, "/work", 0o022, 10, now, 1)
        spec = JobSpec(
            name=f"job-{job.id}",
            command="python job.py",
            num_gpus=job.num_gpus,
            gpu_shared=job.shared,
            gpu_memory=int(job.share * CARD) if job.shared else None,
            cpus=job.cpus,
            memory=job.memory,
            time_limit=job.duration if self._limits else None,
        )
        self.snapshot.add(pipeline, [Job(job.id, pipeline, 0, spec, submitted_at=now)])

    def _turn(self, now: float) -> Plan:
        self.snapshot.advance(now)
        made = plan(self.world, now)
        self.done.plans += 1
        for decision in made.decisions:
            match decision:
                case Start(job, gpus):
                    self._take(lifecycle.Reserved(job.id, 1, gpus), now)
                    self._take(lifecycle.Started(job.id, 1, now), now)
                    end = now + self._durations[job.id]
                    heapq.heappush(self._ends, (end, job.id))
                    cards = tuple(int(uuid.removeprefix("GPU-")) for uuid in gpus)
                    self.done.runs[job.id] = Run(now - BEGIN, end - BEGIN, cards)
                case Stop(job, reason) | Drop(job, reason) | Fail(job, reason):
                    raise AssertionError(f"a plan did away with job {job.id}: {reason.text}")
        return made

    def _tell(self, came: Sequence[JobId], now: float) -> None:
        for id in came:
            if not self._foretell or self.snapshot.jobs[id].live:
                continue
            self._had_to_wait += 1
            if self._had_to_wait % self._foretell == 0:
                expected = forecast(self.world, now).expected.get(id)
                if expected is not None:
                    self.done.foretold.append((id, expected))

    def _end(self, id: int, now: float) -> None:
        self._take(lifecycle.Succeeded(id, 1, _OK, 0, now), now)

    def _take(self, event: lifecycle.Event, now: float) -> None:
        before = self.snapshot.jobs[event.job]
        self.snapshot.replace(lifecycle.apply(before, event))
        self.snapshot.learn(before, event, now)
