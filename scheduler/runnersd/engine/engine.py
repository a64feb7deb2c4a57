"""The engine's door: what the server may ask of it. It reads freely, and changes jobs only by events.

Doors of their own: `jobs` for what is asked of one job, `bookings`, and `answers` for what people ask before they act.
An answer to a client waits for the commit of what it says: every method here that changes something returns only when
that is on disk, and raises `Unavailable` when it cannot be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from runners.api import AttemptView, GpuView, JobState, JobView
from runners.errors import IllegalTransition, NotFound, Unavailable
from runners.spec import Submission
from runnersd.config import Config, ScriptConfig
from runnersd.engine.admissions import Admissions
from runnersd.engine.answers import Answers
from runnersd.engine.attempts import Attempts
from runnersd.engine.bookings import Bookings
from runnersd.engine.intruders import Intruders
from runnersd.engine.jobs import Jobs
from runnersd.engine.launches import Launches, configured
from runnersd.engine.leftovers import Leftovers
from runnersd.engine.loop import EVERY, Loop, Machine
from runnersd.engine.measuring import Measuring
from runnersd.engine.sight import Sight
from runnersd.environment import DIRECTORIES
from runnersd.explain import explain
from runnersd.forecast import Forecast, Foreseen
from runnersd.in_thread import NoThread, in_thread
from runnersd.inventory import find_gpu
from runnersd.machine import Cards, ContainerLauncher, Gpus, Launcher, Meter, Row
from runnersd.model import Drain, GpuId, Job, JobId, Pipeline, Reason, RunName, Submitter
from runnersd.revision import again
from runnersd.store import Store
from runnersd.telemetry.recording import NoRecorder, Recorder
from runnersd.views import gpu_view, gpu_views, job_view, judged

Accepted = tuple[Pipeline, list[tuple[JobId, str]]]

#: Seconds that the database may be at one piece of work: longer, and its disk hangs or its thread has died.
STALLED = 30.0


class Engine:
    """Owns the loop and everything under it. One per daemon.

    ``clock`` tells the time (Unix seconds); ``ticks`` counts seconds from no particular moment, and nobody sets it.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        gpus: Gpus,
        cards: Cards,
        launcher: Launcher,
        *,
        machine: Machine,
        clock: Callable[[], float],
        ticks: Callable[[], float],
        free_disk: Callable[[], int],
        change_user: bool,
        containers: ContainerLauncher | None = None,
        own: tuple[int, int] = (0, 0),
        meter: Meter | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.store = store
        self.clock, self._ticks = clock, ticks
        self.started_at = clock()
        self.stopping = asyncio.Event()  #: set when the daemon should end
        self._gpus, self._cards, self._launcher, self._containers = gpus, cards, launcher, containers
        launches = Launches(store, config, containers, change_user=change_user, own=own, cpus=machine.cpus)
        self.recorder = recorder or NoRecorder()  #: what has the samples of attempts one by one
        self._measuring = Measuring(store, meter, self.recorder, clock)
        self._attempts = Attempts(
            store, launcher, cards, clock, self._wake,
            launches=launches, measuring=self._measuring, containers=containers,
        )  # fmt: skip
        self._intruders = Intruders(store)
        self._loop = Loop(
            store, Sight(gpus, cards, free_disk), self._attempts, config, machine, clock, ticks,
            leftovers=Leftovers(store, change_user=change_user), intruders=self._intruders,
            measuring=self._measuring,
        )  # fmt: skip
        self.answers = Answers(self._loop, store, clock)
        self.bookings = Bookings(store, self._loop, clock)
        self._admissions = Admissions(store, self._loop)
        self.jobs = Jobs(store, self._loop, self._admissions, clock)
        self._tasks: list[asyncio.Task[None]] = []
        if containers is not None:
            containers.changed, containers.row = self._wake, self._row

    @property
    def config(self) -> Config:
        """What is in force now."""
        return self._loop.config

    @property
    def notice(self) -> str | None:
        """What people should know about the cards, in a sentence; None when there is nothing to say."""
        return self._loop.sight.inventory.problem

    async def start(self) -> None:
        """Look at the cards, take over what an earlier daemon left, and begin to turn."""
        await self._loop.look()
        self._loop.recover()
        self._tasks = [
            asyncio.create_task(self._loop.run(), name="loop"),
            asyncio.create_task(self._loop.watch_cards(), name="cards"),
            asyncio.create_task(self._measuring.run(self._attempts.root), name="telemetry"),
        ]
        if self._containers is not None:
            self._tasks.append(asyncio.create_task(self._containers.failed(), name="container engine"))

    async def failed(self) -> None:
        """Returns never; raises what ended one of the engine's own tasks, which is a bug."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def close(self) -> None:
        """Stop turning and watching. Jobs keep running: the next daemon takes them back."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._measuring.close()
        await self.answers.close()
        await self._attempts.close()
        await self._launcher.close()
        if self._containers is not None:
            await self._containers.close()
        await self._gpus.close()
        self._cards.close()

    def configure(self, config: Config) -> None:
        """Take another configuration, live."""
        self._loop.configure(config)

    def heartbeat(self) -> bool:
        """Whether the loop still turns, and the database's thread works; the watchdog is fed only then."""
        since = self._ticks() - self._loop.last_turn
        turns = since < 4 * EVERY or not self.store.healthy
        return turns and not self.store.stalled(STALLED)

    # -- looking -----------------------------------------------------------------------------------------------------

    def explain(self, job: Job) -> Reason:
        """Why the job is where it is."""
        return explain(job, self._loop.world(), self._loop.plan, self.clock())

    def views(self, jobs: Sequence[Job], forecast: Forecast | None = None) -> list[JobView]:
        """Status objects of many jobs, made of one look at the world."""
        world, now = self._loop.world(), self.clock()
        expected = {} if forecast is None else forecast.expected
        found = []
        for job in jobs:
            reason, start = explain(job, world, self._loop.plan, now), expected.get(job.id)
            if start is not None and job.state is JobState.QUEUED:
                reason = start.told(reason, now)
            found.append(job_view(job, reason, start))
        return found

    async def attempts(self, job: Job) -> list[AttemptView]:
        """The job's attempts, first to last, each with what it did up to now and who was seen on its cards."""
        attempts = await self.store.archive.attempts(job.id)
        self._intruders.tell(job.id, attempts)
        for one in attempts:
            summary = self._measuring.summary(job.id, one["attempt"]) or one.get("telemetry")
            one["telemetry"] = judged(summary, job.spec) if summary is not None else None
        return attempts

    def gpus(self) -> list[GpuView]:
        """The cards' status objects, in PCI order."""
        return gpu_views(self._loop.world(), self._loop.plan)

    def card_indices(self) -> dict[GpuId, int]:
        """The cards' numbers, by UUID."""
        return {gpu.uuid: gpu.index for gpu in self._loop.sight.inventory.gpus}

    def directories(self) -> dict[str, str]:
        """`DATA_DIRECTORY` and its sisters, where the configuration sets them."""
        return {DIRECTORIES[key]: value for key, value in configured(self.config).items() if value}

    def script_args(self) -> dict[str, Any]:
        """What jobs with a `script` are that say nothing else, where the configuration says other than usual."""
        usual, ours = asdict(ScriptConfig()), asdict(self.config.default_script_args)
        return {key: value for key, value in ours.items() if value != usual[key]}

    def logs(self, job: Job, attempt: int) -> tuple[Path, Path]:
        """Where the attempt's stdout and stderr are; a missing file is an empty one."""
        return self._attempts.launcher(job).logs(self._attempts.run_name(job, attempt))

    async def prune(self, before: float) -> int:
        """Forget pipelines that ended before then (Unix seconds), their output and their telemetry. Returns how many
        attempts."""
        attempts = await self.store.prune(before)
        paths = [
            path for id, number in attempts for path in self._launcher.logs(RunName(self.store.database, id, number))
        ]
        try:
            await in_thread(_unlink, paths)
        except NoThread:  # nobody would ever ask for these again
            _unlink(paths)
        await self.recorder.forget(attempts)
        return len(attempts)

    # -- changing ----------------------------------------------------------------------------------------------------

    async def submit(
        self,
        submissions: Sequence[Submission],
        submitter: Submitter,
        *,
        key: str | None = None,
        operator: bool = False,
    ) -> list[Accepted]:
        """Queue pipelines, all or none; they are on disk when this returns.

        The same submitter and ``key`` again give what they gave the first time.

        Raises:
            InvalidPipeline, TooLarge, QuotaExceeded, NotAllowed: see `admission.admit`.
            Unavailable: it could not be made durable; nothing is queued.
        """
        admitted = self._admissions.admitted(submissions, submitter, operator=operator)
        may = partial(self._may_take_in, submitter, admitted)
        accepted = await self.store.submit(admitted, submitter, key, self.clock(), may)
        self._wake()
        return accepted

    async def foresee(
        self, submissions: Sequence[Submission], submitter: Submitter, *, operator: bool = False
    ) -> list[list[Foreseen]]:
        """What would become of each job if these were submitted now. Nothing is.

        Raises:
            InvalidPipeline, TooLarge, QuotaExceeded, NotAllowed, NotFound: as submitting them would.
        """
        admitted = self._admissions.admitted(submissions, submitter, operator=operator)
        self._admissions.check_quotas(submitter, admitted)
        return await self.answers.of_submission(admitted, submitter)

    async def retry(self, pipeline: Pipeline, jobs: Sequence[Job], only: Collection[JobId] | None = None) -> Accepted:
        """Queue the unsuccessful ones of a pipeline's ``jobs`` (or just ``only``) as a new pipeline of its owner.

        Raises:
            IllegalTransition: none of them has ended badly, or one needs a job that is not over.
        """
        names = await self.store.archive.submitted_names(pipeline.id)
        environment = await self.store.environment(pipeline.id)
        submission = again(pipeline, jobs, environment, only, names)
        return (await self.submit([submission], pipeline.submitter, operator=True))[0]

    async def drain(self, gpu: str, reason: str, by: str) -> GpuView:
        """Let nothing new start on a card (by index, UUID or its unique beginning). Running jobs go on.

        Raises:
            NoSuchCard: it names none, or several.
        """
        return await self._set_drained(gpu, Drain(reason, by, self.clock()))

    async def undrain(self, gpu: str) -> GpuView:
        """Let jobs start on the card again."""
        return await self._set_drained(gpu, None)

    async def pause(self, reason: str, by: str) -> None:
        """Start nothing new, until `resume`; kept over restarts."""
        self.store.pause(f"{reason} (by {by})" if reason else f"paused by {by}")
        await self._loop.saved()

    async def resume(self) -> None:
        """Start jobs again."""
        self.store.pause(None)
        await self._loop.saved()

    async def shut_down(self, *, now: bool = False, by: str = "the operator") -> None:
        """End the daemon. With ``now`` its jobs are cancelled first, and this returns when they are gone.

        Raises:
            IllegalTransition: jobs still wait or run, and ``now`` was not said.
        """
        snapshot = self.store.snapshot
        if (snapshot.live or snapshot.waiting) and not now:
            raise IllegalTransition(
                f"cannot stop the daemon: it has jobs ({len(snapshot.live)} running, {len(snapshot.waiting)} waiting); "
                "wait for them, or say --now to cancel them"
            )
        for id in [*snapshot.live, *(id for _, id in list(snapshot.waiting))]:
            if id in snapshot.jobs and not snapshot.jobs[id].settled:
                await self.jobs.cancel(id, by)
        await self._attempts.all_over()
        self.stopping.set()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._loop.wake()

    def _may_take_in(self, submitter: Submitter, admitted: Sequence[Submission]) -> None:
        """Whether there is room for these, on the disk and in the quotas: asked only of what was not taken in before.

        Raises:
            Unavailable, QuotaExceeded: there is none.
        """
        full = self._loop.sight.no_room()
        if full is not None:
            raise Unavailable(f"cannot take in jobs now: {full}")
        self._admissions.check_quotas(submitter, admitted)

    async def _set_drained(self, text: str, drain: Drain | None) -> GpuView:
        gpu = find_gpu(self._loop.sight.inventory, text)
        self.store.drain(gpu.uuid, drain)
        await self._loop.saved()
        return gpu_view(gpu, self._loop.world())

    async def _row(self, run: RunName) -> Row:
        """What the rows say of an attempt that a container claims to be."""
        try:
            job = self.store.snapshot.jobs.get(run.job) or await self.store.job(run.job)
        except NotFound:
            return "unknown"
        if job.live and job.attempt == run.attempt:
            return "live"
        return "over" if run.attempt <= job.attempt else "unknown"


def _unlink(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
