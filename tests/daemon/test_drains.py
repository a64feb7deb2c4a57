"""Cards that are taken out and given back, under a real daemon and a fake driver."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fake_nvml import FakeDriver, MigDevice
from harness.daemon import Daemon, eventually


@dataclass
class Machine:
    """A daemon, and the driver that it sees cards through."""

    daemon: Daemon
    driver: FakeDriver

    def run(self, *words: str, code: int = 0) -> str:
        """What the client prints; on stderr where it refuses."""
        done = self.daemon.run(*words)
        assert done.returncode == code, (done.stdout, done.stderr)
        return (done.stderr if code else done.stdout).decode()

    def card(self, index: int) -> Any:
        return self.daemon.client().gpus()[index]

    def sleep(self, **keys: Any) -> int:
        """Queue a job that holds its cards until it is cancelled."""
        return self.daemon.submit({"name": "sleep", "command": ["sleep", "300"], "num_gpus": 1, **keys})[0]

    def runs(self, id: int) -> list[str]:
        """Wait until the job runs; its cards."""
        eventually(f"{id} runs", lambda: self.daemon.job(id)["state"] == "running")
        return list(self.daemon.job(id)["gpus"])


@pytest.fixture
def machine(fake_nvml: Callable[[int], FakeDriver], tmp_path: Path) -> Iterator[Machine]:
    """Three cards."""
    driver = fake_nvml(3)
    with Daemon(tmp_path / "d", config={"gpus": {"poll": 0.1}}, env=driver.environment({})) as daemon:
        eventually("the cards are seen", lambda: len(daemon.client().gpus()) == 3)
        yield Machine(daemon, driver)


def test_a_drain_says_why_who_and_since_when_over_restarts(machine: Machine) -> None:
    before = time.time()
    machine.run("drain", "1", "--reason", "loud fan")
    machine.run("drain", "2")
    for _ in range(2):
        drained = machine.card(1)["drained"]
        assert (drained["reason"], drained["by"]) == ("loud fan", machine.card(2)["drained"]["by"])
        assert before <= drained["at"] <= time.time()
        since = time.strftime("%H:%M", time.localtime(drained["at"]))
        for words in (["gpus"], ["status"]):
            assert f"drained: loud fan (by {drained['by']}, since {since})" in machine.run(*words)
            assert f"drained: by {drained['by']}, since {since}" in machine.run(*words)
        machine.daemon.kill()
        machine.daemon.start()
        eventually("the cards are seen", lambda: len(machine.daemon.client().gpus()) == 3)
    machine.run("undrain", "1")
    assert "drained" not in machine.card(1) and machine.card(1)["state"] == "free"


def test_running_jobs_go_on_and_what_waits_for_the_card_alone_is_told(machine: Machine) -> None:
    running = machine.sleep(gpus=["1"])
    machine.runs(running)
    assert machine.run("drain", "1", "--reason", "loud fan").rstrip().endswith(f": drained; still runs {running}")
    only = machine.sleep(gpus=["1"])
    reason = eventually(
        "it is told", lambda: "drained" in (said := machine.daemon.job(only)["reason"]["text"]) and said
    )
    assert re.fullmatch(r"needs card 1, 0 can be had: card 1 is drained by \S+: loud fan", reason)
    assert machine.daemon.job(running)["state"] == "running"
    elsewhere = machine.sleep()
    assert machine.runs(elsewhere) != [machine.card(1)["uuid"]]
    machine.daemon.client().cancel(running, now=True)
    machine.daemon.wait(running)
    assert machine.daemon.job(only)["state"] == "queued"
    began = time.monotonic()
    machine.run("undrain", "1")
    machine.runs(only)
    assert time.monotonic() - began < 4, "the queue is woken; it does not wait for the next turn"


def test_several_cards_at_once_and_one_that_is_not_there(machine: Machine) -> None:
    assert machine.run("drain", "0", "2").count(": drained\n") == 2
    document = json.loads(machine.run("undrain", "0,2", "--json"))
    assert [card["index"] for card in document["gpus"]] == [0, 2]
    assert "cannot find card '7': this machine has cards 0, 1, 2; the nearest is 2" in machine.run(
        "drain", "0", "7", code=2
    )
    assert [machine.card(n)["state"] for n in range(3)] == ["drained", "free", "free"]
    uuid = machine.card(1)["uuid"]
    assert f"did you mean 1 ({uuid})?" in machine.run("drain", uuid[:-2] + "x0", code=2)


def test_a_job_for_more_cards_than_are_left_waits_for_the_drained_ones(machine: Machine) -> None:
    machine.run("drain", "0", "--reason", "fan")
    wide = machine.sleep(num_gpus=3)
    assert "2 can be had: card 0 is drained" in eventually(
        "it is told", lambda: "drained" in (said := machine.daemon.job(wide)["reason"]["text"]) and said
    )
    small = machine.sleep()
    machine.runs(small)
    machine.daemon.client().cancel(small, now=True)
    machine.run("undrain", "0")
    machine.runs(wide)


def test_a_lost_card_is_drained_too_and_stays_so_when_it_is_back(machine: Machine) -> None:
    machine.driver.cards[1].lost = True
    machine.driver.write()
    eventually("it is lost", lambda: machine.card(1)["state"] == "lost")
    assert machine.run("drain", "1", "--reason", "Xid 79").rstrip().endswith(": lost, drained")
    assert "lost" in machine.run("gpus") and "drained: Xid 79" in machine.run("gpus")
    machine.driver.cards[1].lost = False
    machine.driver.write()
    machine.daemon.kill()
    machine.daemon.start()
    eventually("it is back", lambda: len(machine.daemon.client().gpus()) == 3 and machine.card(1)["state"] != "lost")
    assert machine.card(1)["state"] == "drained"


def test_a_part_of_a_card_is_drained_by_its_own_name(machine: Machine) -> None:
    machine.driver.cards[1].mig = 1
    machine.driver.migs = [MigDevice("MIG-a", 1), MigDevice("MIG-b", 1)]
    machine.driver.write()
    machine.daemon.kill()
    machine.daemon.start()
    eventually("they are seen", lambda: len(machine.daemon.client().gpus()) == 4)
    machine.run("drain", "MIG-b")
    assert [card["state"] for card in machine.daemon.client().gpus()] == ["free", "free", "drained", "free"]
    assert "MIG-a, MIG-b begin so" in machine.run("drain", "MIG", code=2)
    waiting = machine.sleep(gpus=["MIG-b"])
    machine.runs(machine.sleep(gpus=["MIG-a"]))
    machine.run("undrain", "MIG-b")
    assert machine.runs(waiting) == ["MIG-b"]
