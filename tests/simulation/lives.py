"""What may happen to a daemon and its machine, for hypothesis to make stories of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runnersd.config import JobsConfig
from runnersd.model import GpuProcess, JobId
from simulation.promises import check, check_calm, check_end
from simulation.simulation import CARDS, CONFIG, Simulation

COMMANDS = (
    "serve",
    "serve",
    "serve",
    "true",
    "false",
    "exit 3",
    "raise 11",
    "sleep 3",
    "sleep 30 1",
    "stubborn",
    "missing",
)
CHANGES: Sequence[Mapping[str, Any]] = (
    {"priority": 4},
    {"priority": -3},
    {"name": "renamed"},
    {"time_limit": 3},
    {"time_limit": "1h"},
    {"num_gpus": 2},
    {"begin": "+5s"},
    {"begin": "now"},
    {"command": "true"},
    {"cpus": 2, "num_gpus": 0},
)

turns = st.integers(0, 8)
picks = st.integers(0, 11)
moments = st.integers(0, 40)

Made = tuple[list[dict[str, Any]], dict[str, Any]]


@st.composite
def pipelines(draw: st.DrawFn) -> Made:
    """Up to four jobs as they travel, some of which wait for others; and the keys of their pipeline."""
    jobs: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 4))):
        job: dict[str, Any] = {"name": f"j{number}", "command": draw(st.sampled_from(COMMANDS)), "grace": 2}
        optional: dict[str, Any] = {
            "num_gpus": draw(st.sampled_from([0, 1, 1, 2, 3])),
            "retries": draw(st.sampled_from([0, 0, 1, 2])),
            "retry_delay": draw(st.sampled_from([0, 1, 4])),
            "time_limit": draw(st.sampled_from([None, None, 5, 20])),
            "priority": draw(st.sampled_from([0, 0, 0, -2, 3])),
            "cpus": draw(st.sampled_from([None, None, 3, 8])),
            "begin": draw(st.sampled_from([None, None, None, "+10s"])),
            "allow_failure": draw(st.booleans()),
            "preemptible": draw(st.booleans()),
        }
        job |= {key: value for key, value in optional.items() if value is not None}
        if number and draw(st.booleans()):
            other = draw(st.sampled_from([f"j{number - 1}", "j0", "all"]))
            job["needs"] = [{"job": other, "on": draw(st.sampled_from(["success", "finished"]))}]
        job["blocking"] = draw(st.sampled_from([False, False, True]))
        jobs.append(job)
    more: dict[str, Any] = {
        "num_jobs": draw(st.integers(1, 4)),
        "hold": draw(st.sampled_from([False, False, False, True])),
    }
    return jobs, more


class Life(RuleBasedStateMachine):
    """What may happen to a daemon and its machine. Troubles come in a few rules, and most go: much has to get done."""

    def __init__(self) -> None:
        super().__init__()
        self.story: Simulation | None = None

    @initialize(
        seed=st.integers(0, 1 << 16), speed=st.sampled_from([0, 1, 3, 12]), pace=st.sampled_from([0, 2, 9]),
        pipeline=pipelines(), turns=moments,
    )  # fmt: skip
    def begin(self, seed: int, speed: int, pace: int, pipeline: Made, turns: int) -> None:
        self.story = Simulation(seed)
        self.story.machine.latency, self.story.disk.pace = speed, pace
        self.submit_another(pipeline, None, turns)

    # -- people ------------------------------------------------------------------------------------------------------

    @rule(pipeline=pipelines(), after=st.none() | st.none() | picks, turns=turns)
    def submit_another(self, pipeline: Made, after: int | None, turns: int) -> None:
        jobs, more = pipeline
        if after is not None and self.told:
            more = {**more, "after": [self.job(after)]}
        self.now.submit(jobs, **more)
        self.now.turns(turns)

    @rule(command=st.sampled_from(COMMANDS), retries=st.sampled_from([0, 2]), turns=turns)
    def run_one(self, command: str, retries: int, turns: int) -> None:
        keys = {"command": command, "num_gpus": 1, "retries": retries, "retry_delay": 1, "grace": 2}
        self.now.submit([{"name": "one", **keys}])
        self.now.turns(turns)

    @rule(
        commands=st.lists(st.sampled_from(COMMANDS), min_size=1, max_size=CARDS), cards=st.integers(1, 3), turns=turns
    )
    def somebody_is_in_a_hurry(self, commands: list[str], cards: int, turns: int) -> None:
        """Jobs that may be preempted have had their time when one comes that is more important."""
        willing = {"num_gpus": 1, "grace": 2, "preemptible": True, "priority": -5}
        self.now.submit([{"name": f"w{n}", "command": one, **willing} for n, one in enumerate(commands)])
        self.now.pass_time(4.0)
        self.now.submit([{"name": "urgent", "command": "exit 0", "num_gpus": cards, "priority": 6}])
        self.now.turns(turns)

    @precondition(lambda self: self.told)
    @rule(pick=picks, at_once=st.booleans(), turns=turns)
    def cancel(self, pick: int, at_once: bool, turns: int) -> None:
        self.now.cancel(self.job(pick), at_once=at_once)
        self.now.turns(turns)

    @precondition(lambda self: self.told)
    @rule(
        pick=picks, change=st.sampled_from(["hold", "release", "retry", "retry all", 2, 9, 18, *CHANGES]), turns=turns
    )
    def change(self, pick: int, change: str | int | dict[str, Any], turns: int) -> None:
        id, engine = self.job(pick), self.now.engine
        match change:
            case "hold":
                self.now.ask(engine.jobs.hold(id, "ann"))
            case "release":
                self.now.ask(engine.jobs.release(id))
            case str():
                self.now.retry(id, alone=change == "retry")
            case int():
                self.now.ask(engine.jobs.signal(id, change))
            case _:
                self.now.ask(engine.jobs.update(id, change, operator=True))
        self.now.turns(turns)

    @rule(
        what=st.sampled_from(["drain", "undrain", "pause", "configure"]), number=st.integers(0, CARDS - 1), turns=turns
    )
    def administer(self, what: str, number: int, turns: int) -> None:
        """Cards are drained for long; the queue is paused for a while only."""
        engine = self.now.engine
        match what:
            case "drain":
                self.now.ask(engine.drain(str(number), "tests", "root"))
            case "undrain":
                self.now.ask(engine.undrain(str(number)))
            case "pause":
                self.now.ask(engine.pause("tests", "ann"))
                self.now.turns(turns)
                self.now.ask(self.now.engine.resume())
            case "configure":
                # A limit that is lowered stops nothing.
                most = max((1, 3, 6, 6)[number], len(self.now.store.snapshot.live))
                gpus = replace(CONFIG.gpus, exclude=("0",) if number == 2 else ())
                self.now.configure(replace(CONFIG, jobs=JobsConfig(max_running=most), gpus=gpus))
        self.now.turns(turns)

    # -- the machine -------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.now.running())
    @rule(pick=picks, code=st.sampled_from([0, 0, 0, 1, 7, None]), turns=turns)
    def finish(self, pick: int, code: int | None, turns: int) -> None:
        """Something ends; without a code, nobody sees how."""
        running = self.now.running()
        run = running[pick % len(running)]
        if code is None:
            self.now.machine.lose(run)
        else:
            self.now.machine.finish(run, code)
        self.now.turns(turns)

    @rule(
        what=st.sampled_from(["lost", "foreign", "stale", "full", "sick", "clock"]), number=st.integers(0, CARDS - 1),
        seconds=st.sampled_from([0.0, 0.5, 3.0, 11.0]), turns=turns, stays=st.sampled_from([False, False, False, True]),
    )  # fmt: skip
    def trouble(self, what: str, number: int, seconds: float, turns: int, stays: bool) -> None:
        """Something of the machine fails for a while, or until the dust settles."""
        story = self.now
        match what:
            case "lost":
                story.change_card(number, lost=True)
            case "foreign":
                story.change_card(number, processes=(GpuProcess(99, "compute", 1 << 30, "python"),))
            case "stale":
                story.machine.stale = True
            case "full":
                story.free_disk = 0
            case "sick":
                story.machine.sick = True
            case "clock":
                story.move_clock((-3600.0, 3600.0, -5.0, 5.0)[number])
        story.turns(turns)
        story.pass_time(seconds)
        if not stays:
            story.mend()
        story.turns(turns)

    @rule(
        latency=st.sampled_from([0, 1, 5, 20]), delay=st.sampled_from([0.0, 0.0, 3.0]),
        pace=st.sampled_from([0, 1, 5, 20]), wait=st.sampled_from([0.0, 0.0, 0.5]),
    )  # fmt: skip
    def speed(self, latency: int, delay: float, pace: int, wait: float) -> None:
        self.now.machine.latency, self.now.machine.delay = latency, delay
        self.now.disk.pace, self.now.disk.delay = pace, wait

    @rule(
        spare=st.sampled_from([0, 0, 1, 3]), commits=st.sampled_from([1, 1, 2, 5, 200]),
        lying=st.sampled_from([False, False, True]), turns=turns,
    )  # fmt: skip
    def commits_fail(self, spare: int, commits: int, lying: bool, turns: int) -> None:
        self.now.disk.spare, self.now.disk.full, self.now.disk.lying = spare, commits, lying
        self.now.turns(turns)

    # -- time and death ----------------------------------------------------------------------------------------------

    @rule(turns=st.integers(0, 60))
    def turn(self, turns: int) -> None:
        self.now.turns(turns)

    @rule(seconds=st.sampled_from([0.5, 3.0, 11.0, 11.0, 70.0]))
    def pass_time(self, seconds: float) -> None:
        self.now.pass_time(seconds)

    @rule(
        turns=turns, finish=st.booleans(), downtime=st.sampled_from([0.0, 0.0, 4.0, 30.0]),
        stranger=st.booleans(), again=st.none() | moments, after=turns,
    )  # fmt: skip
    def daemon_dies(
        self, turns: int, finish: bool, downtime: float, stranger: bool, again: int | None, after: int
    ) -> None:
        self.now.turns(turns)
        self.now.die(finish=finish)
        self.now.pass_time(downtime)
        if stranger and downtime > self.now.machine.delay:  # another daemon takes a card that nobody holds
            self.now.machine.owners.setdefault("GPU-3", "them")
        self.now.boot(killed_after=again)
        self.now.turns(after)

    @rule(turns=turns, downtime=st.sampled_from([0.0, 30.0]), again=st.none() | moments, power_cut=st.booleans())
    def machine_restarts(self, turns: int, downtime: float, again: int | None, power_cut: bool) -> None:
        self.now.turns(turns)
        self.now.reboot(downtime=downtime, killed_after=again, power_cut=power_cut)

    @rule(mended=st.booleans())
    def dust_settles(self, mended: bool) -> None:
        if mended:
            self.now.mend()
        check_calm(self.now)

    # -- promises ----------------------------------------------------------------------------------------------------

    @invariant()
    def promises(self) -> None:
        if self.story is not None:
            check(self.story)

    def teardown(self) -> None:
        """Liveness: once everything works again and every job may end, every job does."""
        if self.story is None:
            return
        try:
            self.story.come_to_an_end()
            check(self.story)
            check_end(self.story)
        finally:
            self.story.close()

    # -- inside ------------------------------------------------------------------------------------------------------

    @property
    def now(self) -> Simulation:
        """The story as it stands."""
        assert self.story is not None
        return self.story

    @property
    def told(self) -> list[JobId]:
        """The jobs that a daemon has told of."""
        return sorted(self.story.told.jobs) if self.story is not None else []

    def job(self, pick: int) -> JobId:
        """One of the latest jobs that a daemon has told of."""
        return self.told[-1 - pick % len(self.told)]
