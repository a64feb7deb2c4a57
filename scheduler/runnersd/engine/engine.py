"""The engine's door: what the server may ask of it. It reads freely, and changes jobs only by events.

An answer to a client waits for the commit of what it says: every method here that changes something returns only when
that is on disk, and raises `Unavailable` when it cannot be.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from runners.api import WAITING, AttemptView, Code, GpuView, JobState, JobView
from runners.errors import IllegalTransition, InvalidPipeline, NotAllowed, NotFound, Unavailable
from runners.spec import PipelineSpec, Submission
from runnersd import lifecycle
from runnersd.admission import Limits, admit, check_quotas
from runnersd.config import Config, ScriptConfig
from runnersd.engine.answers import Answers
from runnersd.engine.attempts import Attempts
from runnersd.engine.bookings import Bookings
from runnersd.engine.intruders import Intruders
from runnersd.engine.launches import Launches, configured
from runnersd.engine.leftovers import Leftovers
from runnersd.engine.loop import EVERY, Loop, Machine
from runnersd.engine.measuring import Measuring
from runnersd.engine.sight import Sight
from runnersd.environment import DIRECTORIES
from runnersd.explain import explain
from runnersd.forecast import Forecast, Foreseen
from runnersd.inventory import find_gpu
from runnersd.machine import Cards, ContainerLauncher, Gpus, Launcher, Meter, Row
from runnersd.model import Drain, GpuId, Job, JobId, Pipeline, Reason, RunName, Submitter
from runnersd.quotas import Account, member
from runnersd.revision import again, of_the_job, revise
from runnersd.store import Store
from runnersd.telemetry.recording import NoRecorder, Recorder
from runnersd.views import gpu_view, job_view, judged

log = logging.getLogger(__name__)

Accepted = tuple[Pipeline, list[tuple[JobId, str]]]


class Engine:
    """Owns the loop and everything under it. One per daemon."""

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
        free_disk: Callable[[], int],
        change_user: bool,
        containers: ContainerLauncher | None = None,
        own: tuple[int, int] = (0, 0),
        meter: Meter | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.store = store
        self.clock = clock
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
        self._loop = Loop(
            store, Sight(gpus, cards, free_disk), self._attempts, config, machine, clock,
            leftovers=Leftovers(store, change_user=change_user), intruders=Intruders(store),
            measuring=self._measuring,
        )  # fmt: skip
        self.answers = Answers(self._loop, store, clock)
        self.bookings = Bookings(store, self._loop, clock)
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
        """Whether the loop still turns; the watchdog is fed only then."""
        return self.clock() - self._loop.last_turn < 4 * EVERY or not self.store.healthy

    # -- looking -----------------------------------------------------------------------------------------------------

    def explain(self, job: Job) -> Reason:
        """Why the job is where it is."""
        return explain(job, self._loop.world(), self._loop.plan, self.clock())

    def views(self, jobs: Sequence[Job], forecast: Forecast | None = None) -> list[JobView]:
        """Status objects of many jobs, made of one look at the world."""
        world, now = self._loop.world(), self.clock()
        expected = {} if forecast is None else forecast.expected
        return [job_view(job, explain(job, world, self._loop.plan, now), expected.get(job.id)) for job in jobs]

    async def attempts(self, job: Job) -> list[AttemptView]:
        """The job's attempts, first to last, each with what it did up to now."""
        attempts = await self.store.archive.attempts(job.id)
        for one in attempts:
            summary = self._measuring.summary(job.id, one["attempt"]) or one.get("telemetry")
            one["telemetry"] = judged(summary, job.spec) if summary is not None else None
        return attempts

    def gpus(self) -> list[GpuView]:
        """The cards' status objects, in PCI order."""
        world = self._loop.world()
        return [gpu_view(gpu, world) for gpu in world.inventory.gpus]

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
        await asyncio.to_thread(_unlink, paths)
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
        admitted = self._admitted(submissions, submitter, operator)
        may = partial(self._check_quotas, submitter, sum(len(one.pipeline.jobs) for one in admitted))
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
        admitted = self._admitted(submissions, submitter, operator)
        self._check_quotas(submitter, sum(len(one.pipeline.jobs) for one in admitted))
        return await self.answers.of_submission(admitted, submitter)

    async def cancel(self, id: JobId, by: str, *, at_once: bool = False) -> Job:
        """End a live job, or take a waiting one out of the queue. ``at_once`` leaves no grace.

        Raises:
            NotFound: no such job.
            IllegalTransition: it is over.
        """
        job = await self._unsettled(id, "cancel")
        reason, now = Reason(Code.CANCELLED_BY, f"cancelled by {by}"), self.clock()
        if job.state in WAITING:
            job = self.store.record(lifecycle.Cancelled(id, job.attempt, reason, None, now), now)
        elif job.state is not JobState.STOPPING or at_once or (job.reason and job.reason.code is not Code.CANCELLED_BY):
            job = self.store.record(lifecycle.Stopping(id, job.attempt, reason, now), now)
            self._attempts.stop(job, at_once=at_once)
        await self._saved()
        return job

    async def cancelled(self, id: JobId) -> Job:
        """The job as :meth:`cancel` would leave it to the queue: held for good, or stopping. Nothing is changed.

        Raises:
            NotFound, IllegalTransition: as that would.
        """
        job = await self._unsettled(id, "cancel")
        reason = Reason(Code.CANCELLED_BY, "cancelled")
        if job.state in WAITING:
            return replace(job, state=JobState.HELD, reason=reason)
        return replace(job, state=JobState.STOPPING, reason=reason)

    async def hold(self, id: JobId, by: str) -> Job:
        """Keep a queued job from starting. Holding a held job changes nothing."""
        job = await self._unsettled(id, "hold")
        if job.state is JobState.HELD:
            return job
        job = self.store.record(_held(job, by), self.clock())
        await self._saved()
        return job

    async def release(self, id: JobId) -> Job:
        """Let a held job start again. Releasing a queued job changes nothing."""
        job = await self._unsettled(id, "release")
        _must_wait(job, "release")
        if job.state is JobState.HELD:
            job = self.store.record(lifecycle.Released(id, job.attempt), self.clock())
            await self._saved()
        return job

    async def update(self, id: JobId, changes: Mapping[str, Any], *, operator: bool) -> Job:
        """Change what was asked for: any key of a waiting job; a live one's `LIVE_KEYS`.

        Raises:
            InvalidPipeline: a value is wrong, or could never run here.
            IllegalTransition: the job is too far on for that.
            NotAllowed: a priority above 0, by somebody who is not an operator.
        """
        job = await self._unsettled(id, "update")
        job = self.store.record(self._revised(job, changes, operator), self.clock())
        await self._saved()
        return job

    async def changed(
        self, id: JobId, changes: Mapping[str, Any], held: bool | None, by: str, *, operator: bool
    ) -> Job:
        """What :meth:`update`, :meth:`hold` and :meth:`release` would make of the job. Nothing is changed.

        Raises:
            InvalidPipeline, IllegalTransition, NotAllowed: as they would.
        """
        job = await self._unsettled(id, "change")
        if changes:
            job = lifecycle.apply(job, self._revised(job, changes, operator))
        if held and job.state is not JobState.HELD:
            job = lifecycle.apply(job, _held(job, by))
        if held is False:
            _must_wait(job, "release")
            if job.state is JobState.HELD:
                job = lifecycle.apply(job, lifecycle.Released(id, job.attempt))
        return job

    def _revised(self, job: Job, changes: Mapping[str, Any], operator: bool) -> lifecycle.Revised:
        id = job.id
        names = {other.spec.name for other in self.store.snapshot.progress[job.pipeline.id].jobs if other.id != id}
        event = revise(job, changes, names, self.clock())
        if event.spec.priority > max(job.spec.priority, 0) and not operator:
            raise NotAllowed(f"cannot give job {id} the priority {event.spec.priority}: above 0 needs an operator")
        checked = replace(event.spec, priority=min(event.spec.priority, 0), needs=())
        probe = Submission(PipelineSpec(job.pipeline.name, (checked,)), job.pipeline.cwd, {})
        limits = self._limits(job.pipeline.submitter)
        try:
            admit([probe], self._loop.sight.inventory, limits, queued=0, operator=operator)
        except InvalidPipeline as error:
            raise InvalidPipeline(f"cannot update job {id}: it could never run then", of_the_job(error)) from None
        return event

    async def signal(self, id: JobId, number: int) -> Job:
        """Pass a signal on to a live job's processes."""
        job = await self._unsettled(id, "signal")
        if not job.live:
            raise IllegalTransition(f"cannot signal job {id}: it is {job.state.value}, and has no processes yet")
        await self._attempts.signal(job, number)
        return job

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
        await self._saved()

    async def resume(self) -> None:
        """Start jobs again."""
        self.store.pause(None)
        await self._saved()

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
                await self.cancel(id, by)
        await self._attempts.all_over()
        self.stopping.set()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._loop.wake()

    async def _saved(self) -> None:
        self._wake()
        await self.store.committed()

    async def _unsettled(self, id: JobId, verb: str) -> Job:
        job = self.store.snapshot.jobs.get(id) or await self.store.job(id)
        if job.settled:
            raise IllegalTransition(f"cannot {verb} job {id}: it is over ({job.state.value})")
        if id not in self.store.snapshot.jobs:
            raise Unavailable(f"cannot {verb} job {id}: what became of it could not be written; try again in a moment")
        return job

    async def _set_drained(self, text: str, drain: Drain | None) -> GpuView:
        gpu = find_gpu(self._loop.sight.inventory, text)
        self.store.drain(gpu.uuid, drain)
        await self._saved()
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

    def _check_quotas(self, submitter: Submitter, total: int) -> None:
        users = {**self.store.submitters(), submitter.uid: submitter}

        def queued(account: Account) -> int:
            return sum(self.store.queued_by(uid) for uid, who in users.items() if member(who, account))

        group = self.config.operators if self.config.system else None
        whom = f"root or a member of {group}" if group is not None else "whoever runs this daemon"
        check_quotas(self._loop.quotas.accounts(submitter), total, queued, whom)

    def _admitted(self, submissions: Sequence[Submission], submitter: Submitter, operator: bool) -> list[Submission]:
        limits, queued = self._limits(submitter), len(self.store.snapshot.waiting)
        return admit(submissions, self._loop.sight.inventory, limits, queued=queued, operator=operator)

    def _limits(self, submitter: Submitter) -> Limits:
        jobs, containers = self.config.jobs, self.config.containers
        machine = self._loop.machine
        return Limits(
            machine.cpus, machine.memory, jobs.max_queued, jobs.max_per_pipeline, jobs.time_limit, jobs.max_time_limit,
            engine=self._attempts.engine_state,
            network=containers.network,
            image=containers.image,
            allowed_mounts=containers.allowed_mounts,
            root_refused=submitter.uid == 0 and not containers.allow_root,
            accounts=self._loop.quotas.accounts(submitter),
            margin=self.config.gpus.margin,
            mail=self.config.notify.smtp is not None,
        )  # fmt: skip


def _must_wait(job: Job, verb: str) -> None:
    if job.state not in WAITING:
        raise IllegalTransition(f"cannot {verb} job {job.id}: it is {job.state.value}; only a waiting job can be")


def _held(job: Job, by: str) -> lifecycle.Held:
    _must_wait(job, "hold")
    reason = Reason(Code.HELD, f"held by {by}; `runners-client release {job.id}` lets it go on")
    return lifecycle.Held(job.id, job.attempt, reason)


def _unlink(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
