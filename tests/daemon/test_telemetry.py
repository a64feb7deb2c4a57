"""What is said of a job beside what its cards and its processes did, which the tests decide."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_nvml import FakeDriver
from harness.daemon import Daemon, eventually

GIB = 1 << 30
#: Seconds between two samples here, and how late one may be on a busy machine.
EVERY, LATE = 0.1, 0.3

#: Holds memory in a process of its own, below a shell, and keeps a CPU busy, until a file is there.
BUSY = """
import os, sys, time
held = bytearray(int(sys.argv[1]) << 20)
while not os.path.exists(sys.argv[2]):
    sum(range(10000))
"""


class Lab:
    """A daemon on one card whose doings a test writes down."""

    def __init__(self, daemon: Daemon, driver: FakeDriver) -> None:
        self.daemon, self.driver = daemon, driver
        self.done = daemon.folder / "done"

    def begin(self, mebibytes: int = 1, **keys: Any) -> int:
        """A job on the card that runs until `end`, and runs when this returns."""
        self.done.unlink(missing_ok=True)
        command = f"'{sys.executable}' -c '{BUSY}' {mebibytes} '{self.done}'; true"
        (id,) = self.daemon.submit({"name": "job", "command": command, "num_gpus": 1, **keys})
        eventually("it is seen", lambda: self.summary(id))
        return id

    def end(self, id: int) -> Any:
        """What its attempt did, once it is over."""
        self.done.touch()
        (job,) = self.daemon.wait(id)
        assert job["state"] == "succeeded"
        return job["attempts"][0]["telemetry"]

    def summary(self, id: int) -> Any:
        """What its last attempt did up to now."""
        attempts = self.daemon.job(id)["attempts"]
        return attempts[-1]["telemetry"] if attempts else None

    def play(self, busy: int, memory: int, watts: float) -> float:
        """Let the card do this from now on: percent, GiB, watts. Returns when that began."""
        card = self.driver.cards[0]
        card.utilization, card.used, card.power = busy, memory * GIB, watts
        self.driver.write()
        return time.time()

    def more(self, id: int, seconds: float = 0.0) -> Any:
        """What its attempt did, once so many more seconds were seen of it, and another sample."""
        before = self.summary(id)
        return eventually(
            "more is seen of it",
            lambda: (seen := self.summary(id))["seconds"] > before["seconds"] + max(seconds, 1e-6) and seen,
        )


@pytest.fixture(scope="module")
def lab(fake_nvml_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One for the module: a card that is looked at ten times a second."""
    folder = tmp_path_factory.mktemp("telemetry")
    driver = FakeDriver(fake_nvml_library, folder).add_cards(1)
    config = {"gpus": {"poll": EVERY}, "telemetry": {"every": EVERY}}
    with Daemon(folder / "d", env=driver.environment({}), config=config) as daemon:
        yield Lab(daemon, driver)


def test_the_summary_is_that_of_the_cards_script_within_a_sample(lab: Lab) -> None:
    lab.play(0, 1, 100.0)
    id = lab.begin()
    script = [(80, 20, 500.0), (0, 20, 150.0), (100, 40, 700.0)]
    times = []
    for busy, memory, watts in script:
        times.append(lab.play(busy, memory, watts))
        lab.more(id)
        first = lab.more(id)
        last = lab.more(id, 1.0)
        took = last["seconds"] - first["seconds"]
        assert last["energy"] - first["energy"] == pytest.approx(watts * took), "nothing else happened in that time"
        idle = last["gpus"][0]["idle"] - first["gpus"][0]["idle"]
        assert idle == pytest.approx(took if busy == 0 else 0.0)
    found = lab.end(id)
    (card,) = found["gpus"]
    spans = [after - at for at, after in itertools.pairwise([*times, time.time()])]
    for place, which, steps in ((0, "utilization", 260), (2, "power", 1300)):
        area = sum(span * step[place] for span, step in zip(spans, script, strict=True))
        # Each change is seen up to a sample late, and the job ends a moment before we know.
        assert card[which]["mean"] * card[which]["seconds"] == pytest.approx(area, abs=steps * (EVERY + LATE))
    assert card["energy"] == found["energy"] == pytest.approx(card["power"]["mean"] * card["power"]["seconds"])
    assert [card[name]["peak"] for name in ("utilization", "memory", "power")] == [100, 40 * GIB, 700.0]
    assert (card["index"], card["memory_total"], card["temperature"]["peak"]) == (0, 80 * GIB, 33)


def test_what_was_measured_outlives_a_daemon_that_is_killed_and_goes_on(lab: Lab) -> None:
    lab.play(100, 60, 400.0)
    id = lab.begin()
    before = lab.more(id, 2.0)
    lab.daemon.kill()
    lab.play(20, 10, 200.0)
    lab.daemon.start()
    kept = eventually("it goes on", lambda: lab.summary(id))
    assert kept["seconds"] > before["seconds"] / 3, "half of what was seen is on disk"
    lab.more(id, 1.0)
    found = lab.end(id)
    (card,) = found["gpus"]
    assert (card["memory"]["peak"], card["power"]["peak"]) == (60 * GIB, 400.0), "from before it was killed"
    first = (card["power"]["mean"] - 200.0) / 200.0 * found["seconds"]  # for how long it drew 400 W
    assert first == pytest.approx(kept["seconds"], abs=2 * LATE), "the time without a daemon counts for nothing"


def test_the_processes_of_a_job_are_measured_and_told_while_it_runs(lab: Lab) -> None:
    id = lab.begin(mebibytes=200, memory="4GiB", cpus=1)
    seen = eventually(
        "it holds its memory", lambda: (one := lab.summary(id))["process"]["memory"]["peak"] > 200 << 20 and one
    )
    assert seen["process"]["memory"]["peak"] < 320 << 20, "nothing but the shell and what it runs"
    lab.more(id, 1.0)
    shown = lab.daemon.run("show", str(id)).stdout.decode()
    found = lab.end(id)
    assert 0.1 < found["process"]["cpu"]["mean"] <= 1.1, "one busy process, on a machine that may have others to do"
    assert found["verdict"] == [], "too short to say anything"
    assert "memory" in shown and "cpus" in shown, shown
    assert json.loads(lab.daemon.run("show", str(id), "--json").stdout)["attempts"][0]["telemetry"] == found
