"""`kill -9` of a real engine while containers start: none is started twice, no card has two, and the end told is true."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import Engine
from fake_nvml import FakeDriver
from harness.containers import CardWatch, Evidence, check, daemon_on, job, nothing_left
from harness.daemon import Daemon, eventually

NewEngine = Callable[..., Engine]
NewDriver = Callable[[int], FakeDriver]

#: What a job of each round exits with, and for how long it runs.
CODE, SECONDS = 3, 0.8

both_restores = pytest.mark.parametrize("live_restore", [True, False], ids=["live-restore", "no-live-restore"])
both_paths = pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])


class Rounds:
    """Rounds of two jobs that want the only card, with the engine killed while the first one starts."""

    def __init__(self, engine: Engine, daemon: Daemon, dice: random.Random) -> None:
        self.engine, self.daemon, self.dice = engine, daemon, dice
        self.evidence = Evidence(daemon)
        self.codes: dict[int, int] = {}
        self.first: list[int] = []

    def submit(self) -> int:
        """Both; the id of the first."""
        again = {"num_gpus": 1, "retries": 2, "retry_delay": "0.1s"}
        first, second = self.daemon.submit(job("first", SECONDS, CODE, **again), job("second", 0.0, **again))
        self.codes |= {first: CODE, second: 0}
        self.first.append(first)
        return first

    def kill(self) -> None:
        """The engine; it is back after a moment."""
        self.engine.kill()
        time.sleep(self.dice.uniform(0.0, 0.5))
        self.engine.start()

    def settle(self) -> None:
        """Wait until every job so far is over, and check all of it."""
        found = {shown["id"]: shown for shown in self.daemon.wait(*self.codes, patience=120.0)}
        # `retries` begins anew what was lost, and what exits with 3: each attempt is checked by itself.
        check(self.evidence.lines(), found, self.codes)
        nothing_left(self.engine, self.daemon)


def rounds(
    count: int, kill_at: Callable[[Rounds, int], None], engine: Engine, folder: Path, driver: FakeDriver, *, gated: bool
) -> None:
    dice = random.Random(count)
    with daemon_on(engine.socket, folder, driver=driver, personal=not gated) as daemon, CardWatch(engine):
        played = Rounds(engine, daemon, dice)
        for _ in range(count):
            kill_at(played, played.submit())
            played.kill()
            played.settle()


def at_its_line(played: Rounds, first: int) -> None:
    """The payload has just written that it starts."""
    eventually("the payload has begun", lambda: played.evidence.started(first))


def soon_after_its_start_was_asked_for(played: Rounds, first: int) -> None:
    """Up to half a second after the daemon asked the engine to start it."""
    record = played.daemon.state / "runs" / "0" / f"{first}.1.run"
    eventually("its start is asked for", lambda: record.exists() and b'"starting"' in record.read_bytes())
    time.sleep(played.dice.uniform(0.0, 0.5))


@pytest.mark.slow
@pytest.mark.timeout(900)
@both_paths
@both_restores
def test_killed_when_a_payload_says_that_it_starts(
    live_restore: bool, gated: bool, tmp_path: Path, new_docker_engine: NewEngine, fake_nvml: NewDriver
) -> None:
    engine = new_docker_engine(config={"live-restore": live_restore})
    rounds(10, at_its_line, engine, tmp_path / "d", fake_nvml(1), gated=gated)


@pytest.mark.slow
@pytest.mark.timeout(900)
@both_paths
@both_restores
def test_killed_soon_after_a_start_was_asked_for(
    live_restore: bool, gated: bool, tmp_path: Path, new_docker_engine: NewEngine, fake_nvml: NewDriver
) -> None:
    engine = new_docker_engine(config={"live-restore": live_restore})
    rounds(8, soon_after_its_start_was_asked_for, engine, tmp_path / "d", fake_nvml(1), gated=gated)
