"""Sees each live attempt through: launch it, wait for its end, record that. The record always comes before the act.

An attempt belongs to its run name, not to this process: everything here may be repeated by another daemon, and after
a restart it is. Nothing here decides; what the end of an attempt means is `lifecycle.verdict`'s to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

from runners.api import Code, JobState
from runners.errors import Unavailable
from runnersd import lifecycle
from runnersd.config import Config
from runnersd.engine.launches import Launches
from runnersd.engine.measuring import Measuring
from runnersd.environment import experiment_folder
from runnersd.machine import Cards, ContainerLauncher, Launcher, LaunchFailed
from runnersd.model import EngineState, ImageState, Inventory, Job, JobId, Outcome, Reason, RunName
from runnersd.planner import Start
from runnersd.store import Store

log = logging.getLogger(__name__)

#: Seconds after which what failed on an attempt is tried again.
_AGAIN = 5.0


class Attempts:
    """A task for every live attempt. ``wake`` asks the loop for another turn."""

    def __init__(
        self,
        store: Store,
        launcher: Launcher,
        cards: Cards,
        clock: Callable[[], float],
        wake: Callable[[], None],
        *,
        launches: Launches,
        measuring: Measuring,
        containers: ContainerLauncher | None = None,
    ) -> None:
        self._store, self._host, self._cards, self._clock = store, launcher, cards, clock
        self._wake = wake
        self._containers = containers
        self._launches, self._measuring = launches, measuring
        self._staged: list[tuple[JobId, int, tuple[str, ...]]] = []
        self._staging: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._at_once: dict[JobId, int] = {}  # the attempts that are to end without grace
        self.supervisors: dict[JobId, int] = {}
        #: Supervisors under which an attempt (job, number) ended, until the cards are seen anew. One may have had two
        #: by then: the second ended during a look at the cards, which only the first had ended before.
        self.ended: set[tuple[int, JobId, int]] = set()

    def run_name(self, job: Job, attempt: int | None = None) -> RunName:
        """What the outside world calls the job's attempt (its current one unless said)."""
        return RunName(self._store.database, job.id, attempt or job.attempt)

    def launcher(self, job: Job) -> Launcher:
        """Who runs the job's attempts."""
        if job.spec.run_in == "container" and self._containers is not None:
            return self._containers
        return self._host

    def root(self, job: Job) -> int | None:
        """The pid above all processes of the job's live attempt, where that is known."""
        known = self.supervisors.get(job.id)
        return known if known is not None else self.launcher(job).supervisor(self.run_name(job))

    @property
    def engine_state(self) -> EngineState:
        """The container engine as just seen."""
        return self._containers.state if self._containers is not None else EngineState("this daemon uses none")

    @property
    def images(self) -> Mapping[str, ImageState]:
        """What is known of the images that jobs ask for."""
        return self._containers.images if self._containers is not None else {}

    def resolve(self, image: str) -> None:
        """Find out which image a name means; the loop is woken when that is known."""
        if self._containers is not None:
            self._containers.resolve(image)

    def stage(self, next_up: Sequence[Start]) -> None:
        """Have the containers of jobs that are next made ready; nothing of theirs is started."""
        keys = [(start.job.id, start.job.attempt, start.gpus) for start in next_up]
        if self._containers is None or keys == self._staged:
            return
        self._staged = keys
        if self._staging is not None:
            self._staging.cancel()
        self._staging = asyncio.get_running_loop().create_task(self._stage(self._containers, next_up))

    async def _stage(self, containers: ContainerLauncher, next_up: Sequence[Start]) -> None:
        launches = []
        for job, gpus in ((start.job, start.gpus) for start in next_up):
            reserved = replace(job, attempt=job.attempt + 1, gpus=gpus)
            with contextlib.suppress(LaunchFailed, Unavailable):  # said when its turn comes
                launches.append(await self._launches.launch(reserved, self.run_name(reserved)))
        containers.stage(launches)

    def look_from(self, config: Config, inventory: Inventory) -> None:
        """What the next launches are made of."""
        self._launches.config, self._launches.inventory = config, inventory

    def see_through(self, job: Job) -> None:
        """See a live job's attempt through from where it is: just reserved, or left off by an earlier daemon."""
        if self._containers is not None and job.spec.run_in == "container" and job.state is JobState.STARTING:
            self._containers.claim(self.run_name(job), job.gpus)
        self._begin(self._see_through, job)

    def stop(self, job: Job, *, at_once: bool = False) -> None:
        """Have a live job's attempt end, once its record says so on disk."""
        if at_once:
            self._at_once[job.id] = job.attempt
        self._begin(self._stop, job)

    async def signal(self, job: Job, number: int) -> None:
        """Pass a signal on to a live job."""
        await self.launcher(job).signal(self.run_name(job), number)

    async def all_over(self) -> None:
        """Wait until no attempt is left to see through."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Stop watching. Jobs keep running."""
        tasks = [*self._tasks, *([self._staging] if self._staging is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.supervisors.clear()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _begin(self, work: Callable[[Job], Coroutine[Any, Any, None]], job: Job) -> None:
        task = asyncio.get_running_loop().create_task(self._until_done(work, job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _until_done(self, work: Callable[[Job], Coroutine[Any, Any, None]], job: Job) -> None:
        """Do the work on the job's attempt, however often it fails: no attempt may be lost sight of."""
        while True:
            try:
                return await work(job)
            except Unavailable as error:
                if not self._store.healthy:
                    return None  # once the store is back, every live attempt is taken over anew
                log.warning("%s; job %d is looked at again in %g s", error, job.id, _AGAIN)
            except Exception:  # a bug, or a machine that is: the log has it, the job must not suffer for it
                log.exception("seeing attempt %d of job %d through failed; trying again", job.attempt, job.id)
            await asyncio.sleep(_AGAIN)

    async def _see_through(self, job: Job) -> None:
        run = self.run_name(job)
        await self._store.committed()
        known = self._store.snapshot.jobs.get(job.id)
        if known is not None and known.attempt < job.attempt:
            return  # the store went back to before it
        current = self._current(job)
        obstacle = self._obstacle(current) if current is not None else None
        if current is not None and current.state is JobState.STARTING:
            if obstacle is None:
                await self._start(current, run)
            elif obstacle.code is Code.GPU_LOST:  # it may have begun, as far as its record says: it has to end
                now = self._clock()
                self._store.record(lifecycle.Stopping(job.id, job.attempt, obstacle, now), now)
            else:
                await self.launcher(job).stop(run)  # nobody knows whether it had begun: now it never will
        current = self._current(job)
        if current is not None:
            await self._see_out(current, run, obstacle)
        await self._store.committed()
        await self.launcher(job).forget(run)

    async def _start(self, job: Job, run: RunName) -> None:
        try:
            started = await self.launcher(job).launch(await self._launches.launch(job, run))
        except LaunchFailed as failure:
            await self._note(job, "ended", self._clock(), failed=str(failure))
            self._end(job, Outcome(None, failure=Reason(Code.LAUNCH_FAILED, str(failure))))
            return
        current = self._current(job)
        if current is not None and current.state is JobState.STARTING:
            self._store.record(lifecycle.Started(job.id, job.attempt, started), self._clock())
            await self._note(current, "started", started, cards=current.gpus)
            if job.spec.time_limit is not None:
                self._wake()  # from now on there is a time to look again at

    async def _see_out(self, job: Job, run: RunName, obstacle: Reason | None) -> None:
        pid = self.launcher(job).supervisor(run)
        if pid is not None:
            self.supervisors[job.id] = pid
        if job.state is JobState.STOPPING:
            await self._stop(job)
        outcome = await self.launcher(job).wait(run)
        if obstacle is not None and outcome.failure is not None and outcome.failure.code is not Code.LAUNCH_FAILED:
            outcome = replace(outcome, failure=obstacle)
        await self._note(job, "ended", outcome.finished_at or self._clock(), **_how(outcome))
        self._end(job, outcome)

    async def _note(self, job: Job, event: str, at: float, **facts: object) -> None:
        """Tell a container's experiment. Those on the host are told by their supervisors."""
        folder = experiment_folder(job.spec.experiment)
        if folder is None or self._containers is None or job.spec.run_in != "container":
            return
        whose = {"job": job.id, "attempt": job.attempt, "name": job.spec.name, "pipeline": f"p{job.pipeline.id}"}
        known = {name: fact for name, fact in facts.items() if fact is not None}
        line = {"event": event, "at": at, **whose, **known}
        await self._containers.note(folder, line, self._launches.submitter(job))

    def _end(self, job: Job, outcome: Outcome) -> None:
        current = self._current(job)
        if current is None:
            return
        self._at_once.pop(job.id, None)
        pid = self.supervisors.pop(job.id, None)
        if pid is not None:
            self.ended.add((pid, job.id, job.attempt))
        now = self._clock()
        self._measuring.keep(current)
        self._store.record(lifecycle.verdict(current, outcome, now), now)
        self._measuring.forget(current)
        self._wake()

    async def _stop(self, job: Job) -> None:
        await self._store.committed()
        current = self._current(job)
        if current is not None and current.state is JobState.STOPPING:
            await self.launcher(job).stop(self.run_name(job), at_once=self._at_once.get(job.id) == job.attempt)

    def _current(self, job: Job) -> Job | None:
        """The job as it is now, while this attempt of it lives."""
        current = self._store.snapshot.jobs.get(job.id)
        return current if current is not None and current.live and current.attempt == job.attempt else None

    def _obstacle(self, job: Job) -> Reason | None:
        """Why an attempt that an earlier daemon left off cannot go on, if so."""
        if (job.id, job.attempt) in self._store.interrupted:
            return Reason(Code.MACHINE_RESTARTED, "the machine restarted while it ran")
        if job.state is not JobState.STARTING:
            return None
        # Nothing keeps the cards of an attempt that does not run yet, when its daemon dies.
        for uuid, owner in self._cards.claim(job.gpus).items():
            if owner is not None:
                whose = owner.user or "another user"
                return Reason(Code.GPU_LOST, f"another daemon of {whose} took card {uuid} before it was started")
        return None


def _how(outcome: Outcome) -> dict[str, object]:
    """How an attempt ended, as its experiment is told; what is not known is None."""
    return {
        "exit_code": outcome.exit_code if outcome.signal is None else None,
        "signal": outcome.signal,
        "peak_memory": outcome.peak_memory,
        "failed": outcome.failure.text if outcome.failure is not None else None,
    }
