"""A made-up machine for properties of plans: cards that break, jobs that end when they will, and books of its own.

The planner's starts are carried out as the engine would. Who holds what is written down from the starts and ends alone,
never read from the snapshot, so that what the planner believes can be held against it.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import replace

from core.builders import ANN, GIB, Queue, gpu
from runners.api import Code, JobState
from runners.spec import JobSpec
from runnersd import lifecycle
from runnersd.model import Gpu, GpuId, GpuProcess, Inventory, Job, Outcome, Reason, Submitter
from runnersd.planner import Drop, Fail, Plan, Start, Stop, World, plan
from runnersd.urgency import Measures

NOW = 1_000_000.0
MARGIN = GIB
CPUS, MEMORY, RUNNING = 16.0, 64 * GIB, 12
#: A stranger's process, as the driver shows it.
STRANGER = GpuProcess(4242, "compute", GIB, "python", 1009)
#: More turns than one moment can need.
_TURNS = 50


class Machine:
    """So many cards, a queue, a clock (Unix seconds), and books of who holds what."""

    def __init__(self, cards: int, max_delay: float = 12 * 3600.0) -> None:
        self.now = NOW
        self.queue = Queue()
        self.queue.snapshot.measure(Measures(cards=cards, card_memory=80 * GIB - MARGIN, max_delay=max_delay))
        self.cards: dict[GpuId, Gpu] = {card.uuid: card for card in (gpu(n) for n in range(cards))}
        self.drained: dict[GpuId, str] = {}
        self.held: dict[int, tuple[Job, tuple[GpuId, ...]]] = {}  #: what live jobs hold, by these books
        self.lasts: dict[int, float] = {}  #: how long jobs will run (seconds)
        self.started: dict[int, float] = {}
        self.last: Plan = Plan()
        self._ends: list[tuple[float, int, int]] = []

    @property
    def world(self) -> World:
        """What the planner is told."""
        return self.queue.world(
            Inventory(tuple(self.cards.values())), drained=dict(self.drained), margin=MARGIN,
            cpus=CPUS, memory=MEMORY, max_running=RUNNING,
        )  # fmt: skip

    # -- what happens ------------------------------------------------------------------------------------------------

    def submit(
        self, *specs: JobSpec, lasts: Sequence[float], user: Submitter = ANN, num_jobs: int = 10, plans: bool = True
    ) -> list[int]:
        """Queue a pipeline whose jobs will run for so long, and plan."""
        ids = self.queue.add(*specs, user=user, num_jobs=num_jobs, at=self.now)
        self.lasts |= dict(zip(ids, lasts, strict=True))
        if plans:
            self.turn()
        return ids

    def pass_time(self, seconds: float) -> None:
        """Let jobs end, and look again when a plan said so."""
        until = self.now + seconds
        while (following := self.next_event) is not None and following <= until:
            self.step()
        self.now = max(self.now, until)
        self.turn()

    @property
    def next_event(self) -> float | None:
        """When something happens by itself (Unix seconds): a job ends, or a plan wants to look again."""
        times = [self._ends[0][0]] if self._ends else []
        if self.last.look_again is not None:
            times.append(max(self.last.look_again, self.now + 1.0))
        return min(times, default=None)

    def step(self) -> None:
        """Go on to the next event."""
        following = self.next_event
        assert following is not None, "something is still to happen"
        self.now = max(self.now, following)
        while self._ends and self._ends[0][0] <= self.now:
            _, id, attempt = heapq.heappop(self._ends)
            job = self.queue.snapshot.jobs.get(id)
            if job is not None and job.live and job.attempt == attempt:
                self._end(job)
        self.turn()

    def turn(self) -> None:
        """Plan, and do as planned, until nothing is to be done."""
        for _ in range(_TURNS):
            self.queue.snapshot.advance(self.now)
            self.last = plan(self.world, self.now)
            assert self.last == plan(self.world, self.now), "the same state gives the same plan"
            if not self.last.decisions:
                return
            for decision in self.last.decisions:
                match decision:
                    case Start(job, gpus):
                        self._start(job, gpus)
                    case Stop(job, reason):
                        self._stop(job, reason)
                    case Drop(job, reason) | Fail(job, reason):
                        self._take(lifecycle.Skipped(job.id, job.attempt, reason, None, self.now))
        raise AssertionError("the planner does not come to rest")

    def cancel(self, job: Job) -> None:
        """Somebody cancels the job."""
        reason = Reason(Code.CANCELLED_BY, "cancelled by ann")
        if job.live:
            self._stop(job, reason)
        else:
            self._take(lifecycle.Cancelled(job.id, job.attempt, reason, None, self.now))

    def hold(self, job: Job) -> None:
        """Hold a queued job, release a held one."""
        if job.state is JobState.HELD:
            self._take(lifecycle.Released(job.id, job.attempt))
        else:
            self._take(lifecycle.Held(job.id, job.attempt, Reason(Code.HELD, "held by ann")))

    def heal(self) -> None:
        """All cards are well and free of strangers, nothing is drained, and nobody holds a job back."""
        self.cards = {uuid: replace(card, lost=False, processes=()) for uuid, card in self.cards.items()}
        self.drained.clear()
        for job in list(self.queue.snapshot.jobs.values()):
            if job.state is JobState.HELD:
                self.hold(job)
        self.turn()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _start(self, job: Job, gpus: tuple[GpuId, ...]) -> None:
        self._check_start(job, gpus)
        self._take(lifecycle.Reserved(job.id, job.attempt + 1, gpus))
        self._take(lifecycle.Started(job.id, job.attempt + 1, self.now))
        self.held[job.id] = (job, gpus)
        self.started[job.id] = self.now
        heapq.heappush(self._ends, (self.now + self.lasts[job.id], job.id, job.attempt + 1))

    def _check_start(self, job: Job, gpus: tuple[GpuId, ...]) -> None:
        spec = job.spec
        assert len(gpus) == len(set(gpus)) == spec.num_gpus, "all of its cards, each once"
        for uuid in gpus:
            card = self.cards[uuid]
            assert not card.lost and uuid not in self.drained and not card.processes, "the card may be given"
            beside = self.on(uuid)
            if not spec.gpu_shared:
                assert not beside, "an exclusive job has its card alone"
            assert all(other.spec.gpu_shared for other in beside), "nobody joins an exclusive job"
            shares = sum(one.spec.gpu_memory or 0 for one in (*beside, job))
            assert shares <= (card.memory_total or 0) - MARGIN, "shares never exceed a card less its margin"
        siblings = [one for one, _ in self.held.values() if one.pipeline.id == job.pipeline.id]
        assert len(siblings) < job.pipeline.num_jobs, "num_jobs is kept"
        assert len(self.held) < RUNNING, "so many jobs run at most"

    def _stop(self, job: Job, reason: Reason) -> None:
        self._take(lifecycle.Stopping(job.id, job.attempt, reason, self.now))
        heapq.heappush(self._ends, (self.now + 1.0, job.id, job.attempt))

    def _end(self, job: Job) -> None:
        del self.held[job.id]
        stopped = job.state is JobState.STOPPING
        outcome = Outcome(None if stopped else 0, signal=15 if stopped else None, finished_at=self.now, stopped=stopped)
        self._take(lifecycle.verdict(job, outcome, self.now))

    def _take(self, event: lifecycle.Event) -> None:
        before = self.queue.snapshot.jobs[event.job]
        self.queue.take(event)
        self.queue.snapshot.learn(before, event, self.now)

    # -- what the books say ------------------------------------------------------------------------------------------

    def on(self, uuid: GpuId) -> list[Job]:
        """The jobs that hold a part of the card."""
        return [job for job, gpus in self.held.values() if uuid in gpus]
