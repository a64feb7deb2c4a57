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
from runnersd.config import Config, GpusConfig, JobsConfig, SchedulingConfig
from runnersd.engine import Engine, Machine
from runnersd.machine.simulated import SimulatedCards, SimulatedGpus
from runnersd.model import Job, JobId, RunName
from runnersd.store import Store
from simulation.disk import Disk
from simulation.machine import WatchedLauncher, WatchedMachine
from simulation.timeline import LIFE, Timeline

CARDS = 4
EPOCH = 1_900_000_000.0
CONFIG = Config(
    gpus=GpusConfig(poll=2.0),
    jobs=JobsConfig(max_running=6),
    scheduling=SchedulingConfig(preemption=True, min_run=3.0),
)
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
        self.jumped = False  #: whether somebody has set the clock
        self.disk = Disk(Path(self._folder.name) / "runnersd.db", seed)
        self.machine = WatchedMachine(cards, self.disk, seed=seed, clock=self.clock)
        self.config = config
        self.highest_limit = (
            config.jobs.max_running
        )  #: a store that goes back to its rows may have more live than the last
        self.free_disk = 1 << 50
        self.told = Told()
        self.wrongs = self.machine.wrongs
        self.database = ""
        self.life = 1  #: which daemon this is; 0 is the machine's own
        self.deaths = 0
        self._log = _Log(self)
        self._store: Store | None = None
        self._engine: Engine | None = None
        self._launcher: WatchedLauncher | None = None
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
        booting = self._begin()
        if killed_after is not None:
            self.loop.turns(killed_after)
            self.die()
            booting = self._begin()
        self.loop.run_until_complete(booting)

    def die(self, *, finish: bool = False) -> None:
        """Kill the daemon where it stands. What it had asked of the machine happens all the same.

        What it had asked of the disk is done and never told (``finish``), or never done.
        """
        self.machine.note("the daemon dies")
        self.deaths += 1
        self.disk.crash(finish=finish)
        if self._launcher is not None:
            self._launcher.dead = True
        dying, self.life = self.life, self.life + 1
        self.loop.end(dying)
        SimulatedCards(self.machine).close()  # the kernel lets go of the locks that no job of it keeps
        self._store = self._engine = self._launcher = None

    def close(self) -> None:
        """End the story, without judging it."""
        self._log.take_down()
        if not self.loop.is_closed():
            self.die()
            self.loop.end(0)
            self.loop.close()
        self._folder.cleanup()

    def _begin(self) -> asyncio.Task[None]:
        return self.loop.begin(self._start(), self.life)

    async def _start(self) -> None:
        self.machine.note("a daemon starts")
        cards = SimulatedCards(self.machine)
        self._launcher = WatchedLauncher(self.machine, cards)
        self._store = await self.disk.open_store(self.clock, f"boot {self.machine.boot}")
        self.database = self._store.database
        await self._launcher.open()
        self._engine = Engine(
            self.config,
            self._store,
            SimulatedGpus(self.machine),
            cards,
            self._launcher,
            machine=Machine(CPUS, MEMORY),
            clock=self.clock,
            ticks=self.loop.time,
            free_disk=lambda: self.free_disk,
            change_user=False,
        )
        await self._engine.start()

    # -- what people do ----------------------------------------------------------------------------------------------

    def ask(self, work: Coroutine[Any, Any, Any], then: Callable[[Any], None] = lambda answer: None) -> None:
        """Ask the daemon for something, as a client does; ``then`` hears the answer, if there is one."""

        async def asking() -> None:
            try:
                answer = await work
            except RunnersError as error:
                self.machine.note(f"refused: {type(error).__name__}")
            else:
                then(answer)

        self.loop.begin(asking(), self.life).add_done_callback(lambda task: self._answered(task, work))

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

        self.ask(self.engine.jobs.cancel(id, "ann", at_once=at_once), accepted)

    def retry(self, id: JobId, *, alone: bool) -> None:
        """Try the unsuccessful jobs of a job's pipeline again, or the job alone."""

        async def work() -> Any:
            pipeline, jobs = await self.store.pipeline((await self.store.job(id)).pipeline.id)
            return await self.engine.retry(pipeline, jobs, (id,) if alone else None)

        self.ask(work(), lambda answer: self.told.jobs.update(answer[1]))

    def _answered(self, task: asyncio.Task[Any], work: Coroutine[Any, Any, Any]) -> None:
        work.close()  # it has not even begun if the daemon died at once
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not (self.machine.sick and isinstance(error, OSError)):
            self.wrongs.append(f"a request failed with {error!r}")

    # -- what happens ------------------------------------------------------------------------------------------------

    def turns(self, count: int) -> None:
        """Let the loop turn so often."""
        self.loop.turns(count)
        self._look_after()

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.loop.pass_time(seconds)
        self._look_after()

    def until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        """Let the loop turn until something is so."""
        end = self.loop.now + seconds
        while not condition():
            assert self.loop.now < end, f"it did not come true in {seconds} s"
            self.turns(1)

    def reboot(self, *, downtime: float = 0.0, killed_after: int | None = None, power_cut: bool = False) -> None:
        """Restart the machine, and later its daemon."""
        self.die()
        self.machine.restart(power_cut=power_cut)
        self.pass_time(downtime)
        self.boot(killed_after)

    def calm(self) -> None:
        """Let everything that was asked for happen."""
        delays = self.machine.delay, self.disk.delay
        self.machine.delay = self.disk.delay = 0.0
        self.pass_time(16.0)
        self.machine.delay, self.disk.delay = delays

    def come_to_an_end(self) -> None:
        """Make everything well, let every job end, and see that it does."""
        self.heal()
        self.pass_time(20.0)
        self.ask(self.engine.resume())
        for card in list(self.machine.gpus):
            self.ask(self.engine.undrain(card))
        for _ in range(60):
            for job in self.unsettled():
                if job.state is JobState.HELD:
                    self.ask(self.engine.jobs.release(job.id))
            for run in self.running():
                self.machine.finish(run)
            self.pass_time(8.0)
            if not self.unsettled():
                return
            self._wait_for_the_clock()
        left = {job.id: (job.state.value, self.engine.explain(job).text) for job in self.unsettled()}
        raise AssertionError(f"these never end: {left}")

    def mend(self) -> None:
        """What had failed of the machine works again."""
        self.machine.sick = self.machine.stale = False
        self.free_disk = 1 << 50
        for number in range(len(self.machine.gpus)):
            self.change_card(number)

    def heal(self) -> None:
        """Everything works again, and well, and nobody is in the way."""
        self.mend()
        self.machine.latency, self.machine.delay = 1, 0.0
        self.disk.full, self.disk.pace, self.disk.delay = 0, 1, 0.0
        self.machine.owners = {uuid: owner for uuid, owner in self.machine.owners.items() if owner == "us"}
        self.configure(CONFIG)

    def configure(self, config: Config) -> None:
        """Give the daemon, and those after it, another configuration."""
        self.config = config
        self.highest_limit = max(self.highest_limit, config.jobs.max_running)
        self.engine.configure(config)

    def move_clock(self, seconds: float) -> None:
        """Somebody sets the clock."""
        self.machine.note(f"the clock is set by {seconds} s")
        self.jump += seconds
        self.jumped = True

    def change_card(self, number: int, **facts: Any) -> None:
        """A card changes; without facts it is as new."""
        uuid = f"GPU-{number}"
        fresh = replace(self.machine.gpus[uuid], lost=False, processes=())
        self.machine.gpus[uuid] = replace(fresh, **facts)

    def _wait_for_the_clock(self) -> None:
        """Let time pass until the next job may begin, if that is what one waits for."""
        now = self.clock()
        delayed = [job.not_before for job in self.unsettled() if job.not_before is not None and job.not_before > now]
        if delayed:
            self.pass_time(min(delayed) - now)

    def _look_after(self) -> None:
        """As systemd does: a daemon that ends is started again."""
        if self._engine is None or self._store is None:
            return
        for task in self._engine._tasks:
            if task.done() and not task.cancelled():
                self.wrongs.append(f"the daemon's {task.get_name()} ended: {task.exception()!r}")
        if self._store.fatal.done():
            self._store.fatal.exception()
            self.die()
            self.boot()

    # -- what there is -----------------------------------------------------------------------------------------------

    def running(self) -> list[RunName]:
        """What runs on the machine."""
        return sorted(self.machine.running, key=lambda run: (run.job, run.attempt))

    def unsettled(self) -> list[Job]:
        """Jobs that are not over."""
        return [job for job in self.store.snapshot.jobs.values() if not job.settled]

    def state(self, id: JobId) -> str:
        """What the disk says of a job."""
        rows = self.disk.rows("SELECT state FROM job WHERE id = ?", id)
        return str(rows[0][0]) if rows else "nothing"

    def attempts(self, id: JobId) -> list[tuple[str, str]]:
        """What the disk says of a job's attempts: the state and the reason's code of each."""
        query = "SELECT state, coalesce(json_extract(reason, '$[0]'), '') FROM attempt WHERE job = ? ORDER BY attempt"
        return self.disk.rows(query, id)

    def trace(self) -> list[Any]:
        """All that happened, in order: on the machine, and by the history on the disk."""
        events = self.disk.rows("SELECT id, at, type, job, data FROM event ORDER BY id")
        return [*self.machine.trace, *events]


class _Log(logging.Handler):
    """Hears of what the daemon calls an error; only what a sick machine causes is excused."""

    def __init__(self, story: Simulation) -> None:
        super().__init__(logging.ERROR)
        self._story = story
        self._daemon, self._engine = logging.getLogger("runnersd"), logging.getLogger("runnersd.engine")
        self._daemon.propagate = False
        self._engine.addHandler(self)

    def take_down(self) -> None:
        """Listen no more."""
        self._daemon.propagate = True
        self._engine.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """An error is a wrong, with where it came from; what the dead say is not heard."""
        error = record.exc_info[1] if record.exc_info else None
        if LIFE.get() == self._story.life and not (isinstance(error, OSError) and self._story.machine.sick):
            self._story.wrongs.append(f"{record.getMessage()}: {error!r}")
