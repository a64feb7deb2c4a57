"""Any order of submissions, ends, cancellations, lost cards, full disks, deaths and reboots keeps every promise."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from runnersd.config import JobsConfig
from runnersd.model import GpuProcess, JobId, RunName
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

turns = st.integers(0, 8)
picks = st.integers(0, 11)


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[list[dict[str, Any]], dict[str, Any]]:
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
    """What may happen to a daemon and its machine."""

    def __init__(self) -> None:
        super().__init__()
        self.story: Simulation | None = None

    @initialize(seed=st.integers(0, 1 << 16), speed=st.sampled_from([0, 1, 3, 12]), pace=st.sampled_from([0, 2, 9]))
    def begin(self, seed: int, speed: int, pace: int) -> None:
        self.story = Simulation(seed)
        self.story.machine.latency, self.story.disk.pace = speed, pace

    # -- people ------------------------------------------------------------------------------------------------------

    @rule(pipeline=pipelines(), after=st.none() | picks, turns=turns)
    def submit(self, pipeline: tuple[list[dict[str, Any]], dict[str, Any]], after: int | None, turns: int) -> None:
        jobs, more = pipeline
        if after is not None and self.told:
            more = {**more, "after": [self.told[after % len(self.told)]]}
        self.now.submit(jobs, **more)
        self.now.steps(turns)

    @rule(pick=picks, at_once=st.booleans(), turns=turns)
    def cancel(self, pick: int, at_once: bool, turns: int) -> None:
        self.now.cancel(self.job(pick), at_once=at_once)
        self.now.steps(turns)

    @rule(pick=picks, turns=turns)
    def hold(self, pick: int, turns: int) -> None:
        self.now.ask(self.now.engine.hold(self.job(pick), "ann"))
        self.now.steps(turns)

    @rule(pick=picks, turns=turns)
    def release(self, pick: int, turns: int) -> None:
        self.now.ask(self.now.engine.release(self.job(pick)))
        self.now.steps(turns)

    @rule(
        pick=picks,
        changes=st.sampled_from(
            [
                {"priority": 4}, {"priority": -3}, {"name": "renamed"}, {"time_limit": 3}, {"time_limit": "1h"},
                {"num_gpus": 2}, {"begin": "+5s"}, {"begin": "now"}, {"command": "true"}, {"cpus": 2, "num_gpus": 0},
            ]
        ),
        turns=turns,
    )  # fmt: skip
    def update(self, pick: int, changes: dict[str, Any], turns: int) -> None:
        self.now.ask(self.now.engine.update(self.job(pick), changes, operator=True))
        self.now.steps(turns)

    @rule(pick=picks, alone=st.booleans(), turns=turns)
    def retry(self, pick: int, alone: bool, turns: int) -> None:
        self.now.retry(self.job(pick), alone=alone)
        self.now.steps(turns)

    @rule(pick=picks, number=st.sampled_from([2, 9, 18]), turns=turns)
    def signal(self, pick: int, number: int, turns: int) -> None:
        self.now.ask(self.now.engine.signal(self.job(pick), number))
        self.now.steps(turns)

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        engine = self.now.engine
        self.now.ask(engine.pause("tests", "ann") if paused else engine.resume())

    @rule(number=st.integers(0, CARDS - 1), drained=st.booleans())
    def drain(self, number: int, drained: bool) -> None:
        engine = self.now.engine
        self.now.ask(engine.drain(str(number), "tests") if drained else engine.undrain(str(number)))

    @rule(most=st.sampled_from([1, 3, 6]), excluded=st.sampled_from([(), (), ("0",)]))
    def configure(self, most: int, excluded: tuple[str, ...]) -> None:
        assume(len(self.now.store.snapshot.live) <= most)
        gpus = replace(CONFIG.gpus, exclude=excluded)
        self.now.config = replace(CONFIG, jobs=JobsConfig(max_running=most), gpus=gpus)
        self.now.engine.configure(self.now.config)

    # -- the machine -------------------------------------------------------------------------------------------------

    @rule(pick=picks, code=st.sampled_from([0, 0, 0, 1, 7]), turns=turns)
    def finish(self, pick: int, code: int, turns: int) -> None:
        self.now.machine.finish(self.run(pick), code)
        self.now.steps(turns)

    @rule(pick=picks, turns=turns)
    def lose_a_supervisor(self, pick: int, turns: int) -> None:
        self.now.machine.lose(self.run(pick))
        self.now.steps(turns)

    @rule(number=st.integers(0, CARDS - 1), what=st.sampled_from(["lost", "foreign", "well", "well"]))
    def change_card(self, number: int, what: str) -> None:
        stranger = GpuProcess(99, "compute", 1 << 30, "python")
        facts: dict[str, dict[str, Any]] = {"lost": {"lost": True}, "foreign": {"processes": (stranger,)}, "well": {}}
        self.now.change_card(number, **facts[what])

    @rule(stale=st.booleans())
    def driver(self, stale: bool) -> None:
        self.now.machine.stale = stale

    @rule(latency=st.sampled_from([0, 1, 5, 20]), delay=st.sampled_from([0.0, 0.0, 3.0]))
    def machine_speed(self, latency: int, delay: float) -> None:
        self.now.machine.latency, self.now.machine.delay = latency, delay

    @rule(pace=st.sampled_from([0, 1, 5, 20]), delay=st.sampled_from([0.0, 0.0, 0.5]))
    def disk_speed(self, pace: int, delay: float) -> None:
        self.now.disk.pace, self.now.disk.delay = pace, delay

    @rule(commits=st.sampled_from([1, 1, 2, 5, 200]), lying=st.sampled_from([False, False, True]), turns=turns)
    def disk_is_full(self, commits: int, lying: bool, turns: int) -> None:
        self.now.disk.full, self.now.disk.lying = commits, lying
        self.now.steps(turns)

    @rule(space=st.sampled_from([0, 1 << 50]))
    def room_on_the_disk(self, space: int) -> None:
        self.now.free_disk = space

    @rule(sick=st.booleans())
    def launcher_fails(self, sick: bool) -> None:
        self.now.machine.sick = sick

    @rule(jump=st.sampled_from([-3600.0, 3600.0, -5.0]))
    def clock_jumps(self, jump: float) -> None:
        self.now.move_clock(jump)

    # -- time and death ----------------------------------------------------------------------------------------------

    @rule(turns=st.integers(0, 60))
    def turn(self, turns: int) -> None:
        self.now.steps(turns)

    @rule(seconds=st.sampled_from([0.5, 3.0, 11.0, 70.0]))
    def pass_time(self, seconds: float) -> None:
        self.now.pass_time(seconds)

    @rule(
        turns=turns, finish=st.booleans(), downtime=st.sampled_from([0.0, 0.0, 4.0, 30.0]),
        stranger=st.booleans(), again=st.none() | st.integers(0, 40), after=turns,
    )  # fmt: skip
    def daemon_dies(
        self, turns: int, finish: bool, downtime: float, stranger: bool, again: int | None, after: int
    ) -> None:
        self.now.steps(turns)
        self.now.die(finish=finish)
        self.now.pass_time(downtime)
        if stranger and downtime:  # another daemon takes a card that nobody holds
            self.now.machine.owners.setdefault("GPU-3", "them")
        self.now.boot(killed_after=again)
        self.now.steps(after)

    @rule(turns=turns, downtime=st.sampled_from([0.0, 30.0]), again=st.none() | st.integers(0, 40))
    def machine_restarts(self, turns: int, downtime: float, again: int | None) -> None:
        self.now.steps(turns)
        self.now.reboot(downtime=downtime, killed_after=again)

    @rule()
    def dust_settles(self) -> None:
        self.now.calm()
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
        assert self.story is not None
        return self.story

    @property
    def told(self) -> list[JobId]:
        return sorted(self.now.told.jobs)

    def job(self, pick: int) -> JobId:
        """One of the latest jobs that a daemon has told of."""
        assume(self.told)
        return self.told[-1 - pick % len(self.told)]

    def run(self, pick: int) -> RunName:
        """Something that runs."""
        running = self.now.running()
        assume(running)
        return running[pick % len(running)]


#: NOSHRINK=1 tells the first failure as it is found, in a long story.
PHASES = (Phase.generate,) if "NOSHRINK" in os.environ else (Phase.generate, Phase.shrink)


def lead_lives(examples: int, steps: int, **more: Any) -> None:
    """Let so many daemons live. A failure is told with the rules that lead to it."""
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Life,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=PHASES,
            suppress_health_check=list(HealthCheck),
            **more,
        ),
    )


def test_short_lives() -> None:
    lead_lives(80, 40, derandomize=True)


@pytest.mark.slow
def test_many_long_lives() -> None:
    """EXAMPLES says how many; the seed of a failure is printed by hypothesis."""
    lead_lives(int(os.environ.get("EXAMPLES", "1000")), 60, print_blob=True)
