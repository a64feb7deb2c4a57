"""Takes samples of the attempts that run, and keeps up what they add up to.

A sample is taken with a look at the cards, which needs no look of its own: so no more often than `gpus.poll`, whatever
`telemetry.every` says. Every so often, and at an attempt's end, its summary goes to its row, from which the next daemon
goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from runners.api import JobState, SummaryView
from runnersd.config import Config
from runnersd.machine import AttemptKey, Meter, Metered
from runnersd.model import Gpu, Inventory, Job
from runnersd.store import Store
from runnersd.telemetry.recording import Recorder
from runnersd.telemetry.sample import CardSample, ProcessSample, Sample
from runnersd.telemetry.summary import GAP, Summary

log = logging.getLogger(__name__)

#: Seconds after which the summaries of what goes on are written again; earlier while an attempt is young.
KEEP_EVERY = 60.0
#: So many periods without a sample are a gap.
_GAP_PERIODS = 3
#: Seconds until sampling that failed is tried again.
_AGAIN = 60.0

_RUNS = frozenset({JobState.RUNNING, JobState.STOPPING})


@dataclass(frozen=True, slots=True)
class _Look:
    """The cards as they were at a time (Unix seconds); after ``gap`` seconds without a look nothing is known."""

    at: float
    inventory: Inventory
    gap: float


@dataclass(slots=True)
class _Known:
    """What is known of an attempt, since when by this daemon, and when it was last written (Unix seconds)."""

    summary: Summary
    since: float
    kept: float

    def due(self, now: float) -> bool:
        """Whether a crash would lose too much: more than a minute, or than half of what was seen."""
        return now > self.kept and now - self.kept >= min(KEEP_EVERY, (now - self.since) / 2)


class Measuring:
    """The summaries of live attempts. ``meter`` None: nothing is known of processes."""

    def __init__(self, store: Store, meter: Meter | None, recorder: Recorder, clock: Callable[[], float]) -> None:
        self._store, self._meter, self._recorder, self._clock = store, meter, recorder, clock
        self._known: dict[AttemptKey, _Known] = {}
        self._recorded: set[AttemptKey] = set()
        self._generation = -1
        self._due = clock()
        self._look: _Look | None = None
        self._woken = asyncio.Event()

    def summary(self, job: int, attempt: int) -> SummaryView | None:
        """What a live attempt did up to now; None when nothing was seen of it, or it is over."""
        self._take_over()
        known = self._known.get((job, attempt))
        return known.summary.to_json() if known is not None else None

    def looked(self, inventory: Inventory, config: Config) -> None:
        """The cards have just been looked at: let that be a sample, if it is time for one."""
        now, every, poll = self._clock(), config.telemetry.every, config.gpus.poll
        self._due = min(self._due, now + every)  # the clock may have gone back
        if now + poll / 2 >= self._due:
            self._due = max(self._due + every, now + every - poll / 2)
            self._look = _Look(now, inventory, max(_GAP_PERIODS * max(every, poll), GAP))
            self._woken.set()

    def keep(self, job: Job) -> None:
        """The job's attempt is about to end: its summary goes to disk with what is recorded next.

        Raises:
            Unavailable: nothing can be promised now.
        """
        known = self._known.get((job.id, job.attempt))
        if known is not None:
            self._store.summarize(job.id, job.attempt, known.summary.to_json())

    def forget(self, job: Job) -> None:
        """The end of the job's attempt has been recorded."""
        self._let_go((job.id, job.attempt))

    async def run(self, root: Callable[[Job], int | None]) -> None:
        """Take samples for ever. ``root``: the pid above all processes of a live job, where that is known.

        What fails here is told, and touches no job.
        """
        while True:
            try:
                await self._woken.wait()
                self._woken.clear()
                if self._look is not None:
                    await self._sample(self._look, root)
            except Exception:
                log.exception("measuring failed; trying again in %g s", _AGAIN)
                await asyncio.sleep(_AGAIN)

    def close(self) -> None:
        """Have what is known written with the store's last commit."""
        self._keep_all(self._clock())

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _sample(self, look: _Look, root: Callable[[Job], int | None]) -> None:
        self._take_over()
        running = {(job.id, job.attempt): job for job in self._store.snapshot.live.values() if job.state in _RUNS}
        for key in self._known.keys() - running.keys():
            self._let_go(key)
        where = {
            key: Metered(pid, job.spec.run_in == "container")
            for key, job in running.items()
            if (pid := root(job)) is not None
        }
        processes = await self._meter.measure(where) if self._meter is not None else {}
        cards = {gpu.uuid: _card(gpu, known=not look.inventory.stale) for gpu in look.inventory.gpus}
        for key, job in running.items():
            now = self._store.snapshot.live.get(job.id)
            if now is not None and now.attempt == job.attempt and now.state in _RUNS:  # it may be over by now
                gpus = sorted((cards[uuid] for uuid in job.gpus if uuid in cards), key=lambda card: card.index)
                self._add(now, Sample(look.at, tuple(gpus), processes.get(key, ProcessSample())), look.gap)
        if any(known.due(look.at) for known in self._known.values()):
            self._keep_all(look.at)  # one commit for all

    def _add(self, job: Job, sample: Sample, gap: float) -> None:
        key = (job.id, job.attempt)
        if key not in self._recorded:
            self._recorded.add(key)
            self._recorder.began(job.id, job.attempt, job.started_at or sample.at, job.gpus)
        self._known.setdefault(key, _Known(Summary(), sample.at, sample.at)).summary.add(sample, gap)
        self._recorder.add(job.id, job.attempt, sample)

    def _take_over(self) -> None:
        """Begin with what the rows say: at first, and when the store went back to them."""
        if self._generation != self._store.generation:
            self._generation, now = self._store.generation, self._clock()
            for key, view in self._store.summaries.items():
                self._known.setdefault(key, _Known(Summary.from_json(view), now, now))

    def _keep_all(self, now: float) -> None:
        if self._store.healthy:
            for (job, attempt), known in self._known.items():
                known.kept = now
                self._store.summarize(job, attempt, known.summary.to_json())

    def _let_go(self, key: AttemptKey) -> None:
        self._known.pop(key, None)
        if key in self._recorded:
            self._recorded.discard(key)
            self._recorder.ended(*key)


def _card(gpu: Gpu, *, known: bool) -> CardSample:
    """A card as seen, or only which one it is, where the driver does not answer."""
    if gpu.lost or not known:
        return CardSample(gpu.uuid, gpu.index, gpu.name, gpu.memory_total)
    return CardSample(
        gpu.uuid,
        gpu.index,
        gpu.name,
        gpu.memory_total,
        gpu.memory_used,
        gpu.utilization,
        gpu.power,
        gpu.temperature,
    )
