"""A machine, a disk, a clock, and one daemon after another on them: everything but the machine and the clock is real."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from core.builders import ANN
from runners.api import JobState
from runners.errors import RunnersError
from runners.pipeline.schema import read_submission
from runnersd.config import Config, GpusConfig, JobsConfig
from runnersd.engine import Engine, Machine
from runnersd.machine.simulated import SimulatedCards, SimulatedGpus
from runnersd.model import Job, JobId, RunName
from runnersd.store import Store
from simulation.disk import Disk
from simulation.machine import WatchedLauncher, WatchedMachine
from simulation.timeline import Timeline

CARDS = 4
EPOCH = 1_900_000_000.0
CONFIG = Config(gpus=GpusConfig(poll=2.0), jobs=JobsConfig(max_running=6))
CPUS, MEMORY = 8.0, 64 << 30


@dataclass
class Told:
    """What the daemons have said yes to, and so may never take back."""

    jobs: dict[JobId, str] = field(default_factory=dict)
    cancelled: dict[JobId, int] = field(default_factory=dict)  #: the attempt that a cancel was said yes for
    settled: dict[JobId, tuple[Any, ...]] = field(default_factory=dict)  #: rows of jobs that are over


class Simulation:
    """One story. ``seed`` says how long everything takes in it."""

    def __init__(self, seed: int = 0, *, cards: int = CARDS, config: Config = CONFIG) -> None:
        self.loop = Timeline()
        self._folder = tempfile.TemporaryDirectory(prefix="runners-")
        self.jump = 0.0
        self.jumped = False
        self.disk = Disk(Path(self._folder.name) / "runnersd.db", seed)
        self.machine = WatchedMachine(cards, self.disk, seed=seed, clock=self.clock)
        self.config = config
        self.free_disk = 1 << 50
        self.told = Told()
        self.wrongs: list[str] = self.machine.wrongs
        self.deaths = 0
        self._log = _Log(self.wrongs, self.machine)
        self._log.hang_up()
        self._asked: set[asyncio.Task[Any]] = set()
        self._store: Store | None = None
        self._engine: Engine | None = None
        self._launcher: WatchedLauncher | None = None
        self._booting: asyncio.Task[None] | None = None
        self.boot()

    def clock(self) -> float:
        """Unix seconds, as this machine's clock has them."""
        return EPOCH + self.loop.now + self.jump

    # -- the daemon --------------------------------------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """The daemon that is up."""
        assert self._engine is not None
        return self._engine

    @property
    def store(self) -> Store:
        """Its store."""
        assert self._store is not None
        return self._store

    def boot(self, killed_after: int | None = None) -> None:
        """Start a daemon; with ``killed_after`` it is killed so many turns later, and another started."""
        self._booting = self.loop.create_task(self._start())
        if killed_after is not None:
            self.loop.steps(killed_after)
            self.die()
            self._booting = self.loop.create_task(self._start())
        self.loop.run_until_complete(self._booting)
        self._booting = None

    async def _start(self) -> None:
        self._store = self._engine = None
        self._launcher = WatchedLauncher(self.machine)
        boot = f"boot {self.machine.boot}"
        self._store = await self.disk.open_store(self.clock, boot)
        await self._launcher.open()
        self._engine = Engine(
            self.config,
            self._store,
            SimulatedGpus(self.machine),
            SimulatedCards(self.machine),
            self._launcher,
            machine=Machine(CPUS, MEMORY, rebooted=self._store.previous_boot not in (None, boot)),
            clock=self.clock,
            free_disk=lambda: self.free_disk,
            change_user=False,
        )
        await self._engine.start()

    def die(self, *, finish: bool = False) -> None:
        """Kill the daemon where it stands. What it had asked of the machine happens all the same."""
        self.deaths += 1
        self.disk.crash(finish=finish)
        machine = self.machine._asked
        tasks = {task for task in asyncio.all_tasks(self.loop) if task not in machine}
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks))
        # Closing lets go of what the kernel takes from the dead: timers, locks.
        if self._engine is not None:
            self.loop.run_until_complete(self._engine.close())
        self._asked.clear()

    def close(self) -> None:
        """End the story, without judging it."""
        self._log.take_down()
        if not self.loop.is_closed():
            self.die()
            for task in list(self.machine._asked):
                task.cancel()
            self.loop.steps(2)
            self.loop.close()
        self._folder.cleanup()

    # -- what people do ----------------------------------------------------------------------------------------------

    def ask(self, work: Coroutine[Any, Any, Any], then: Callable[[Any], None] = lambda answer: None) -> None:
        """Ask the daemon for something, as a client does; ``then`` hears the answer, if there is one."""

        async def asking() -> None:
            try:
                then(await work)
            except RunnersError:
                return

        task = self.loop.create_task(asking())
        self._asked.add(task)
        task.add_done_callback(self._answered)

    def submit(self, jobs: Sequence[Mapping[str, Any]], *, operator: bool = True, **more: Any) -> None:
        """Submit a pipeline, as it travels."""
        document = {"name": "p", "jobs": [dict(job) for job in jobs], "cwd": "/", "env": {"A": "b"}, **more}
        submission = read_submission(document, now=self.clock())

        def accepted(answer: Any) -> None:
            for _, made in answer:
                self.told.jobs.update(made)

        self.ask(self.engine.submit([submission], ANN, operator=operator), accepted)

    def cancel(self, id: JobId, *, at_once: bool = False) -> None:
        """Cancel a job."""

        def accepted(job: Job) -> None:
            self.told.cancelled.setdefault(id, job.attempt)

        self.ask(self.engine.cancel(id, "ann", at_once=at_once), accepted)

    def retry(self, id: JobId, *, alone: bool) -> None:
        """Try the unsuccessful jobs of a job's pipeline again, or the job alone."""

        async def work() -> Any:
            pipeline, jobs = await self.store.pipeline((await self.store.job(id)).pipeline.id)
            return await self.engine.retry(pipeline, jobs, id if alone else None)

        self.ask(work(), lambda answer: self.told.jobs.update(answer[1]))

    def _answered(self, task: asyncio.Task[Any]) -> None:
        self._asked.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self._excused(error):
            self.wrongs.append(f"a request failed with {error!r}")
            raise error

    def _excused(self, error: BaseException) -> bool:
        return self.machine.sick and isinstance(error, OSError)

    # -- what happens ------------------------------------------------------------------------------------------------

    def steps(self, count: int) -> None:
        """Let the loop turn so often."""
        self.loop.steps(count)
        self._look_after()

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.loop.pass_time(seconds)
        self._look_after()

    def reboot(self, *, downtime: float = 0.0, killed_after: int | None = None) -> None:
        """Restart the machine, and later its daemon."""
        self.die()
        self.machine.restart()
        self.pass_time(downtime)
        self.boot(killed_after)

    def calm(self) -> None:
        """Let everything that was asked for happen, and the loop turn once more."""
        self.pass_time(12.0)
        if not self.store.snapshot.progress:
            return
        # News of the last moment may have come too late for the loop to turn.
        self.engine.configure(self.config)
        self.steps(2)

    def come_to_an_end(self) -> None:
        """Make everything well, let every job end, and see that it does."""
        self.heal()
        self.pass_time(30.0)
        self.ask(self.engine.resume())
        for card in list(self.machine.gpus):
            self.ask(self.engine.undrain(card))
        for _ in range(60):
            for job in self.unsettled():
                if job.state is JobState.HELD:
                    self.ask(self.engine.release(job.id))
            for run in self.running():
                self.machine.finish(run)
            self.pass_time(20.0)
            if not self.unsettled():
                return
            self.wait_for_the_clock()
        left = {job.id: (job.state.value, self.engine.explain(job).text) for job in self.unsettled()}
        assert not left, f"these never end: {left}"

    def wait_for_the_clock(self) -> None:
        """Let time pass until the next job may begin, if that is what one waits for."""
        now = self.clock()
        delayed = [job.not_before for job in self.unsettled() if job.not_before is not None and job.not_before > now]
        if delayed:
            self.pass_time(min(delayed) - now)

    def move_clock(self, seconds: float) -> None:
        """Somebody sets the clock."""
        self.jump += seconds
        self.jumped = True

    def change_card(self, number: int, **facts: Any) -> None:
        """A card changes; without facts it is as new."""
        uuid = f"GPU-{number}"
        fresh = replace(self.machine.gpus[uuid], lost=False, processes=())
        self.machine.gpus[uuid] = replace(fresh, **facts)

    def heal(self) -> None:
        """Everything works again, and nobody is in the way."""
        self.machine.sick = self.machine.stale = False
        self.machine.latency, self.machine.delay = 1, 0.0
        self.disk.full, self.disk.pace, self.disk.delay = 0, 1, 0.0
        self.free_disk = 1 << 50
        for uuid, gpu in self.machine.gpus.items():
            self.machine.gpus[uuid] = replace(gpu, lost=False, processes=())
        self.machine.owners = {uuid: owner for uuid, owner in self.machine.owners.items() if owner == "us"}
        self.config = CONFIG
        self.engine.configure(self.config)

    def running(self) -> list[RunName]:
        """What runs on the machine."""
        return sorted(self.machine.running, key=lambda run: (run.job, run.attempt))

    def unsettled(self) -> list[Job]:
        """Jobs that are not over."""
        return [job for job in self.store.snapshot.jobs.values() if not job.settled]

    def state(self, id: JobId) -> JobState:
        """What the disk says of a job."""
        return JobState(self.disk.rows("SELECT state FROM job WHERE id = ?", id)[0][0])

    def _look_after(self) -> None:
        """As systemd does: a daemon that ends is started again."""
        if self._engine is None or self._store is None:
            return
        for task in self._engine._tasks:
            if task.done() and not task.cancelled():
                self.wrongs.append(f"the daemon's {task.get_name()} ended: {task.exception()!r}")
                error = task.exception()
                if error is not None:
                    raise error
        if self._store.fatal.done():
            self._store.fatal.exception()
            self.die()
            self.boot()


class _Log(logging.Handler):
    """Hears of what the daemon calls an error; only what a sick machine causes is excused."""

    def __init__(self, wrongs: list[str], machine: WatchedMachine) -> None:
        super().__init__(logging.ERROR)
        self._wrongs, self._machine = wrongs, machine
        self._logger = logging.getLogger("runnersd.engine")

    def hang_up(self) -> None:
        """Begin to listen."""
        self._logger.addHandler(self)

    def take_down(self) -> None:
        """End it."""
        self._logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """An error is a wrong, with where it came from."""
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, OSError):
            self._wrongs.append(f"{record.getMessage()}: {error!r}")
