"""(p) What a decision costs with so many jobs queued: 30 users, mixed shapes, eight cards, no I/O at all.

It is counted in seconds of CPU: a decision does nothing else, and others who use the machine do not count.
"""

from __future__ import annotations

import gc
import random
import statistics
import time

from benchmarks.table import Row
from runners.api import Code
from runners.spec import JobSpec
from runnersd import lifecycle
from runnersd.model import Gpu, Inventory, Job, Pipeline, Reason, Submitter
from runnersd.planner import Start, Stop, World, plan
from runnersd.snapshot import Snapshot
from runnersd.urgency import Measures

CARDS, USERS, CARD = 8, 30, 80 << 30
#: Jobs of a pipeline, and events that are timed.
PIPELINE, EVENTS = 50, 200
BEGIN = 1_700_000_000.0
SEED = 4
_OK = Reason(Code.OK, "ended well")


class Queued:
    """A machine on which so many jobs wait. Each event is the end of a job or a submission, and the decision after it."""

    def __init__(self, jobs: int) -> None:
        self.now = BEGIN
        self.snapshot = Snapshot()
        self.snapshot.measure(Measures(cards=CARDS, card_memory=CARD))
        cards = tuple(
            Gpu(f"GPU-{n}", n, "NVIDIA H100 80GB HBM3", memory_total=CARD, memory_used=0) for n in range(CARDS)
        )
        self.world = World(self.snapshot, Inventory(cards), max_running=64, cpus=128.0, memory=1 << 40)
        self._chance = random.Random(SEED)
        self._jobs = self._pipelines = 0
        while self._jobs < jobs:
            self.submit(min(PIPELINE, jobs - self._jobs))
        self.turn()

    def submit(self, count: int) -> None:
        """One user queues a pipeline of so many jobs: a few commands, each asking for the same."""
        self._pipelines += 1
        uid = 1000 + self._chance.randrange(USERS)
        pipeline = Pipeline(
            self._pipelines, "p", Submitter(uid, uid, (), f"u{uid}"), "/", 0o022, self._chance.choice((2, 10, 10, 100)),
            self.now, count,
        )  # fmt: skip
        few = [self._wish() for _ in range(1 + count // 12)]
        jobs = []
        for position in range(count):
            self._jobs += 1
            jobs.append(Job(self._jobs, pipeline, position, few[position % len(few)], submitted_at=self.now))
        self.snapshot.add(pipeline, jobs)

    def _wish(self) -> JobSpec:
        chance = self._chance
        shared = chance.random() < 0.3
        return JobSpec(
            name="j",
            command=f"python {chance.choice('abcdefghijkl')}.py --seed {chance.randrange(1000)}",
            num_gpus=1 if shared else chance.choice((0, 1, 1, 1, 1, 2, 4, 8)),
            gpu_shared=shared,
            gpu_memory=chance.choice((10, 20, 40)) << 30 if shared else None,
            cpus=chance.choice((None, None, 4.0, 8.0)),
            memory=chance.choice((None, None, 16 << 30)),
            time_limit=chance.choice((None, None, 1800.0, 7200.0, 43_200.0)),
            priority=chance.choice((0, 0, 0, 0, -10)),
        )

    def turn(self) -> None:
        """Decide, start what is to start, and end what is over its limit."""
        self.snapshot.advance(self.now)
        for one in plan(self.world, self.now).decisions:
            match one:
                case Start(job, gpus):
                    self._take(lifecycle.Reserved(job.id, 1, gpus))
                    self._take(lifecycle.Started(job.id, 1, self.now))
                case Stop(job, reason):
                    self._take(lifecycle.Stopping(job.id, 1, reason, self.now))
                    self._take(lifecycle.TimedOut(job.id, 1, reason, None, self.now))

    def end_one(self) -> None:
        """A job that runs comes to its end."""
        self.now += self._chance.expovariate(1 / 60)
        job = self.snapshot.live[self._chance.choice(sorted(self.snapshot.live))]
        self._take(lifecycle.Succeeded(job.id, 1, _OK, 0, self.now))

    def _take(self, event: lifecycle.Event) -> None:
        before = self.snapshot.jobs[event.job]
        self.snapshot.replace(lifecycle.apply(before, event))
        self.snapshot.learn(before, event, self.now)


def seconds_per_event(jobs: int, events: int = EVENTS) -> list[float]:
    """Seconds of CPU that each of so many events takes, sorted."""
    queued = Queued(jobs)
    gc.collect()  # what the set-up left behind is not the events' to clear away
    taken = []
    for number in range(events):
        start = time.process_time()
        if number % 5 == 4:
            queued.submit(1)
        else:
            queued.end_one()
        queued.turn()
        taken.append(time.process_time() - start)
    return sorted(taken)


def cost() -> list[Row]:
    """Medians, and what nineteen of twenty stay below, beside those of a short queue."""
    rows = []
    few = 0.0
    for jobs in (1_000, 10_000, 100_000):
        taken = seconds_per_event(jobs)
        middle, most = statistics.median(taken) * 1e3, taken[int(len(taken) * 0.95)] * 1e3
        few = few or middle
        rows.append(
            Row("p", f"a decision with {jobs} queued", f"{middle:.2f} ms, 95 % below {most:.2f}",
                f"{few:.2f} ms with 1000", f"{middle / few:.2f}", "<= 2, and < 10 ms")
        )  # fmt: skip
    return rows
