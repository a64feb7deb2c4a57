"""Sees each live attempt through: launch it, wait for its end, record that. The record always comes before the act.

An attempt belongs to its run name, not to this process: everything here may be repeated by another daemon, and after
a restart it is (`adopt`). Nothing here decides; what the end of an attempt means is `lifecycle.verdict`'s to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from runners.api import Code, JobState
from runners.errors import Unavailable
from runnersd import lifecycle
from runnersd.config import Config
from runnersd.engine.launches import Launches
from runnersd.machine import ContainerLauncher, Launcher, LaunchFailed
from runnersd.model import EngineState, ImageState, Inventory, Job, JobId, Outcome, Reason, RunName
from runnersd.planner import Start
from runnersd.store import Store

log = logging.getLogger(__name__)


class Attempts:
    """One task for every live attempt. ``wake`` asks the loop for another turn."""

    def __init__(
        self,
        store: Store,
        launcher: Launcher,
        clock: Callable[[], float],
        wake: Callable[[], None],
        *,
        launches: Launches,
        containers: ContainerLauncher | None = None,
    ) -> None:
        self._store, self._host, self._clock, self._wake = store, launcher, clock, wake
        self._containers = containers
        self._launches = launches
        self._tasks: dict[JobId, asyncio.Task[None]] = {}
        self._staged: list[tuple[JobId, int, tuple[str, ...]]] = []
        self._staging: asyncio.Task[None] | None = None
        self.supervisors: dict[JobId, int] = {}
        self.ended: set[int] = set()  #: supervisors that have ended; the engine forgets them once cards are seen anew

    def run_name(self, job: Job, attempt: int | None = None) -> RunName:
        """What the outside world calls the job's attempt (its current one unless said)."""
        return RunName(self._store.database, job.id, attempt or job.attempt)

    def launcher(self, job: Job) -> Launcher:
        """Who runs the job's attempts."""
        if job.spec.run_in == "container" and self._containers is not None:
            return self._containers
        return self._host

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

    def begin(self, job: Job) -> None:
        """See a freshly reserved attempt through."""
        if self._containers is not None and job.spec.run_in == "container":
            self._containers.claim(self.run_name(job), job.gpus)
        self._watch(job.id, self._launch_and_see_out(job))

    def adopt(self, job: Job, *, rebooted: bool) -> None:
        """Take over an attempt that an earlier daemon left off, at its last step."""
        if job.state is JobState.STARTING and not rebooted:
            self._watch(job.id, self._launch_and_see_out(job))
        else:
            self._watch(job.id, self._see_out(job, rebooted=rebooted))

    def stop(self, job: Job, *, at_once: bool = False) -> None:
        """Have a live job's attempt end, once its record says so on disk."""
        self._watch(-job.id, self._stop(job, at_once))

    async def signal(self, job: Job, number: int) -> None:
        """Pass a signal on to a live job."""
        await self.launcher(job).signal(self.run_name(job), number)

    async def all_over(self) -> None:
        """Wait until no attempt is left to see through."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    async def close(self) -> None:
        """Stop watching. Jobs keep running."""
        tasks = [*self._tasks.values(), *([self._staging] if self._staging is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        self.supervisors.clear()

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _launch_and_see_out(self, job: Job) -> None:
        run = self.run_name(job)
        await self._store.committed()
        current = self._store.snapshot.jobs[job.id]
        if current.state is JobState.STOPPING:
            await self.launcher(job).stop(run)
        else:
            try:
                started = await self.launcher(job).launch(await self._launches.launch(job, run))
            except LaunchFailed as failure:
                self._end(job, Outcome(None, failure=Reason(Code.LAUNCH_FAILED, str(failure))))
                await self._forget(job, run)
                return
            if self._store.snapshot.jobs[job.id].state is JobState.STARTING:
                self._store.record(lifecycle.Started(job.id, job.attempt, started), self._clock())
                if job.spec.time_limit is not None:
                    self._wake()  # from now on there is a time to look again at
        await self._see_out(job)

    async def _see_out(self, job: Job, *, rebooted: bool = False) -> None:
        run = self.run_name(job)
        launcher = self.launcher(job)
        pid = launcher.supervisor(run)
        if pid is not None:
            self.supervisors[job.id] = pid
        current = self._store.snapshot.jobs[job.id]
        if current.state is JobState.STOPPING or (rebooted and current.state is JobState.STARTING):
            await launcher.stop(run)
        outcome = await launcher.wait(run)
        if rebooted and outcome.failure is not None:
            outcome = replace(outcome, failure=Reason(Code.MACHINE_RESTARTED, "the machine restarted while it ran"))
        self._end(job, outcome)
        await self._forget(job, run)

    def _end(self, job: Job, outcome: Outcome) -> None:
        pid = self.supervisors.pop(job.id, None)
        if pid is not None:
            self.ended.add(pid)
        now = self._clock()
        current = self._store.snapshot.jobs[job.id]
        self._store.record(lifecycle.verdict(current, outcome, now), now)
        self._wake()

    async def _forget(self, job: Job, run: RunName) -> None:
        await self._store.committed()
        await self.launcher(job).forget(run)

    async def _stop(self, job: Job, at_once: bool) -> None:
        await self._store.committed()
        await self.launcher(job).stop(self.run_name(job), at_once=at_once)

    def _watch(self, key: JobId, work: object) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)  # type: ignore[arg-type]
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._done(key, done))

    def _done(self, key: JobId, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, Unavailable):
            log.warning("job %d: its attempt is looked at again once the store is back", abs(key))
        elif error is not None:
            log.error("job %d: seeing its attempt through failed", abs(key), exc_info=error)
            self._lost_sight(key, error)

    def _lost_sight(self, key: JobId, error: BaseException) -> None:
        """A bug must not leave a job unwatched: its attempt is taken over again after a moment."""
        job = self._store.snapshot.jobs.get(abs(key))
        if job is not None and job.live and key > 0:
            asyncio.get_running_loop().call_later(5.0, lambda: self._again(job.id))

    def _again(self, id: JobId) -> None:
        job = self._store.snapshot.jobs.get(id)
        if job is not None and job.live and id not in self._tasks:
            self.adopt(job, rebooted=False)
