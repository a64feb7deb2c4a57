"""Any order of submissions, ends, cancellations, lost cards, full disks, deaths and reboots keeps every promise."""

from __future__ import annotations

import os
import random
import secrets
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from simulation.lives import COMMANDS, Life
from simulation.simulation import Simulation

#: NOSHRINK=1 tells the first failure as it is found, in a long story.
PHASES = (Phase.generate,) if "NOSHRINK" in os.environ else (Phase.generate, Phase.shrink)


def lead_lives(number: int, steps: int, seeded: int | None = None, **more: Any) -> None:
    """Let so many daemons live. A failure is told with the rules that lead to it."""
    kind = type("Life", (Life,), {})
    if seeded is not None:
        seed(seeded)(kind)
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        kind,
        settings=settings(
            max_examples=number,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=PHASES,
            suppress_health_check=list(HealthCheck),
            **more,
        ),
    )


def test_short_lives() -> None:
    lead_lives(60, 25, derandomize=True)


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(4))
def test_many_lives(batch: int, capsys: pytest.CaptureFixture[str]) -> None:
    """SEED=N leads the lives of the first batch again; LIVES says how many there are in each."""
    seeded = int(os.environ.get("SEED") or secrets.randbits(32)) + batch
    with capsys.disabled():
        print(f" SEED={seeded}", end=" ", flush=True)
    lead_lives(int(os.environ.get("LIVES", "200")), 50, seeded)


def eventful(seeded: int) -> list[Any]:
    """What happened in a story in which much does."""
    chance = random.Random(seeded)
    story = Simulation(seeded)
    try:
        story.machine.latency, story.disk.pace = 12, 9
        for number in range(12):
            keys = {"num_gpus": chance.randint(0, 3), "retries": 1, "time_limit": 20, "grace": 2}
            story.submit([{"name": f"j{n}", "command": chance.choice(COMMANDS), **keys} for n in range(3)])
            story.turns(chance.randint(0, 40))
            if story.told.jobs:
                story.cancel(chance.choice(sorted(story.told.jobs)), at_once=chance.random() < 0.5)
            if number % 5 == 1:
                story.disk.full, story.disk.lying = 1, chance.random() < 0.5
            if number % 5 == 2:
                story.die(finish=chance.random() < 0.5)
                story.boot()
            if number % 10 == 4:
                story.reboot(downtime=3.0)
            story.machine.delay, story.machine.sick = chance.choice([0.0, 1.0]), chance.random() < 0.2
            story.pass_time(chance.uniform(0, 10))
        story.come_to_an_end()
        return story.trace()
    finally:
        story.close()


def test_a_seed_tells_one_story() -> None:
    """In another process too, where sets and what lies where in memory have another order."""
    script = "import sys; from simulation.test_engine import eventful; print(eventful(int(sys.argv[1])))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "12345"}
    process = [sys.executable, "-W", "error", "-c", script, "7"]
    there = subprocess.run(process, env=environment, check=True, capture_output=True, text=True).stdout
    assert there == f"{eventful(7)}\n" and there.count("start ") > 10
