"""The loop itself: from a look at the world to the last record, a turn is one step that nothing interrupts.

Being woken is only a hint: a turn looks at everything that matters again, and one comes at least every few seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from runnersd import lifecycle
from runnersd.config import Config
from runnersd.engine.allowed import quotas_of
from runnersd.engine.attempts import Attempts
from runnersd.engine.clock_set import STRAYS, ClockSet
from runnersd.engine.idle import IdleCards
from runnersd.engine.intruders import Intruders
from runnersd.engine.leftovers import Leftovers
from runnersd.engine.measuring import Measuring
from runnersd.engine.sight import Sight
from runnersd.engine.xids import ReportedXids
from runnersd.model import ForeignPolicy, GpuId, Job, JobId
from runnersd.planner import Drop, Fail, Plan, Resolve, Start, Stop, World, plan
from runnersd.planner.telling import Telling
from runnersd.store import Store
from runnersd.urgency import measures_of
from runnersd.views import gpu_views

log = logging.getLogger(__name__)

#: Seconds between turns when nothing wakes the loop.
EVERY = 5.0


@dataclass(frozen=True, slots=True)
class Machine:
    """What does not change while the daemon runs: CPUs, and memory in bytes."""

    cpus: float
    memory: int


class Loop:
    """Plans when woken, records what it decided, and has the attempts act on it."""

    def __init__(
        self,
        store: Store,
        sight: Sight,
        attempts: Attempts,
        config: Config,
        machine: Machine,
        clock: Callable[[], float],
        ticks: Callable[[], float],
        *,
        leftovers: Leftovers,
        intruders: Intruders,
        measuring: Measuring,
    ) -> None:
        self._leftovers, self._intruders, self._measuring = leftovers, intruders, measuring
        self._idle, self._xids = IdleCards(store), ReportedXids(store)
        self.store, self.sight, self.attempts, self.machine, self.clock = store, sight, attempts, machine, clock
        self.config = config
        self.plan = Plan()
        self.low_disk: str | None = None
        self.engine_low_disk: str | None = None
        self._clocks = ClockSet()
        self._clock_set: Mapping[tuple[JobId, int], float] = {}
        self._ticks = ticks
        self.last_turn = ticks()  #: by the clock that nobody sets
        self._woken = asyncio.Event()
        self._card_states: dict[GpuId, str] = {}
        self._telling = Telling()
        self._generation = store.generation
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Take another configuration from the next turn on."""
        self.config = config
        self.attempts.look_from(config, self.sight.inventory)
        gpus = config.gpus
        self._policy = ForeignPolicy(
            gpus.foreign_min_memory, frozenset(gpus.foreign_ignore), share=gpus.foreign == "share"
        )
        self.quotas = quotas_of(config.scheduling.quotas)
        self._measure()
        self.wake()

    def wake(self) -> None:
        """Ask for a turn soon."""
        self._woken.set()

    async def saved(self) -> None:
        """Ask for a turn, and wait until what was recorded up to now is on disk.

        Raises:
            Unavailable: it is not, and memory no longer says so either.
        """
        self.wake()
        await self.store.committed()

    def world(self) -> World:
        """What a plan is made of, as it is now."""
        return World(
            snapshot=self.store.snapshot,
            inventory=self.sight.inventory,
            drained=self.store.drained,
            paused=self.store.paused,
            low_disk=self.low_disk,
            engine_low_disk=self.engine_low_disk,
            max_running=self.config.jobs.max_running,
            cpus=self.machine.cpus,
            memory=self.machine.memory,
            margin=self.config.gpus.margin,
            foreign=self._policy,
            supervisors=self.attempts.supervisors,
            ended=frozenset(pid for pid, _, _ in self.attempts.ended),
            engine=self.attempts.engine_state,
            images=self.attempts.images,
            quotas=self.quotas,
            min_run=self.config.scheduling.min_run if self.config.scheduling.preemption else None,
            claimants=tuple(self.plan.claims),
            clock_set=self._clock_set,
            interrupted=self.store.interrupted,
            leftovers=self._leftovers.found,
            bookings=self.store.bookings(self.clock()),
            stop_idle=self.config.telemetry.idle_action == "stop",
        )

    def recover(self) -> None:
        """Take over every attempt that an earlier daemon left off, each at its last step."""
        adopted = list(self.store.snapshot.live.values())
        for job in adopted:
            self.attempts.see_through(job)
        if adopted:
            log.info("adopted %d jobs that an earlier daemon started", len(adopted))
        self.wake()

    def turn(self) -> None:
        """One plan, recorded whole. Its effects begin once the records are on disk."""
        now = self.clock()
        self.last_turn = ticks = self._ticks()
        self._clock_set = self._clocks.see(self.store.snapshot.live.values(), now, ticks)
        if self._clocks.by:
            by, since = self._clocks.by, self._clocks.since - STRAYS
            delayed = [lifecycle.postponed(job, by, now, since) for job in self.store.snapshot.jobs.values()]
            for event in filter(None, delayed):
                self.store.record(event, now)
        self.low_disk = self.sight.low_disk(self.config)
        self.engine_low_disk = self.sight.engine_low_disk(self.config, self.attempts.engine_state.root)
        self.store.snapshot.advance(now)
        while True:
            self.plan = plan(self.world(), now)
            for decision in self.plan.decisions:
                match decision:
                    case Start(job, gpus):
                        reserved = lifecycle.Reserved(job.id, job.attempt + 1, gpus)
                        self.attempts.see_through(self.store.record(reserved, now))
                    case Stop(job, reason):
                        self._stop(job, lifecycle.Stopping(job.id, job.attempt, reason, now))
                    case Drop(job, reason):
                        self.store.record(lifecycle.Skipped(job.id, job.attempt, reason, None, now), now)
                    case Fail(job, reason):
                        self.store.record(lifecycle.Failed(job.id, job.attempt, reason, None, now), now)
                    case Resolve(image):
                        self.attempts.resolve(image)
            self._tell(now)
            # What was settled may doom or let through others; everything else waits for news.
            if not any(isinstance(decision, Drop | Fail) for decision in self.plan.decisions):
                break
        self.attempts.stage(self.plan.next_up)
        self._announce_cards()
        self._intruders.see(self.world(), now)
        self._xids.remember()

    async def run(self) -> None:
        """Turn for ever. Raises only for a bug, which must end the daemon."""
        while True:
            self._woken.clear()
            if self.store.generation != self._generation:
                await self._start_over()
            until = EVERY
            self.store.look()
            if self.store.healthy:
                self.turn()
                if self.plan.look_again is not None:
                    until = min(until, max(self.plan.look_again - self.clock(), 0.0) + 0.001)
            try:
                async with asyncio.timeout(until):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def watch_cards(self) -> None:
        """Look at the cards for ever, every `gpus.poll` seconds."""
        while True:
            await self.look()
            await asyncio.sleep(self.config.gpus.poll)

    async def look(self) -> None:
        """Look at the cards once, and wake the loop if anything has changed."""
        ended_before = set(self.attempts.ended)
        self._xids.begin()
        changed = await self.sight.look(self.config)
        self._measuring.looked(self.sight.inventory, self.config)
        self.attempts.look_from(self.config, self.sight.inventory)
        self.attempts.ended -= ended_before
        self._measure()
        changed = await self._leftovers.look(self.world()) or changed
        self._intruders.see(self.world(), self.clock())
        after, poll = self.config.telemetry.idle_after, self.config.gpus.poll
        changed = self._idle.see(self.sight.inventory, after, self.clock(), poll=poll) or changed
        changed = await self._xids.see(self.sight.inventory, self.config.gpus.xid, self.clock()) or changed
        if changed:
            self.wake()

    def _measure(self) -> None:
        """Have urgency and use measured by the cards as they are and by the configuration as it is."""
        snapshot, scheduling = self.store.snapshot, self.config.scheduling
        snapshot.measure(
            measures_of(
                self.sight.inventory,
                snapshot.measures,
                max_delay=scheduling.max_reservation_delay,
                half_life=scheduling.half_life,
            )
        )

    def _announce_cards(self) -> None:
        """Put every card whose state has changed since the last turn into the history."""
        if not self.sight.inventory.gpus and not self._card_states:
            return
        world = self.world()
        views = gpu_views(world, self.plan)
        for view in views:
            if self._card_states.get(view["uuid"]) != view["state"]:
                self.store.announce(f"gpu.{view['state']}", cast(dict[str, object], view))
        self._card_states = {view["uuid"]: view["state"] for view in views}

    def _tell(self, now: float) -> None:
        """Log what the plan does, if that is anything new."""
        told = self._telling.tell(self.plan, self.world(), now)
        if told is None:
            return
        about = {"started": told.started, "kept": told.kept, "passed": told.passed}
        extra = {name: ",".join(map(str, ids)) for name, ids in about.items() if ids}
        log.log(logging.DEBUG if told.minor else logging.INFO, "plan: %s", told.text, extra=extra)

    def _stop(self, job: Job, stopping: lifecycle.Stopping) -> None:
        self.attempts.stop(self.store.record(stopping, self.clock()))

    async def _start_over(self) -> None:
        """The store went back to what is on disk: whatever was under way is looked at afresh."""
        log.warning("the store is back; %d live jobs are looked at afresh", len(self.store.snapshot.live))
        self._generation = self.store.generation
        await self.attempts.close()
        self.recover()
