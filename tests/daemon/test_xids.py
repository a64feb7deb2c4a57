"""What a real daemon does about errors that a fake driver reports."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_nvml import FakeDriver, MigDevice
from harness.daemon import Daemon, eventually


@pytest.fixture
def driver(fake_nvml: Callable[[int], FakeDriver]) -> FakeDriver:
    """Three cards."""
    return fake_nvml(3)


@pytest.fixture
def daemon(driver: FakeDriver, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that has seen the cards."""
    with Daemon(tmp_path / "d", config=config(), env=driver.environment({})) as daemon:
        see(daemon)
        yield daemon


def config(**xid: Any) -> dict[str, Any]:
    return {"gpus": {"poll": 0.1, "xid": xid}}


def see(daemon: Daemon, count: int = 3) -> None:
    eventually("the cards are seen", lambda: len(daemon.client().gpus()) == count)


def states(daemon: Daemon) -> list[str]:
    return [card["state"] for card in daemon.client().gpus()]


def sleep(daemon: Daemon, **keys: Any) -> int:
    """A job that holds its cards until it is cancelled, once it runs."""
    (id,) = daemon.submit({"name": "sleep", "command": ["sleep", "300"], "num_gpus": 1, **keys})
    eventually(f"{id} runs", lambda: daemon.job(id)["state"] == "running")
    return int(id)


def test_one_that_needs_a_reset_takes_its_card_out_until_it_is_undrained(daemon: Daemon, driver: FakeDriver) -> None:
    running = sleep(daemon, gpus=["1"])
    before = time.time()
    driver.report(0, 13).report(1, 79).report(1, 79)
    eventually("it is taken out", lambda: states(daemon)[1] == "drained")
    drained = daemon.client().gpus()[1]["drained"]
    assert before <= drained["at"] <= time.time() and drained["by"] == "runnersd"
    at = time.strftime("%H:%M", time.localtime(drained["at"]))
    assert drained["reason"] == f"Xid 79 (GPU has fallen off the bus) at {at}"
    assert states(daemon) == ["free", "drained", "free"], "13 takes no card out"
    assert daemon.job(running)["state"] == "running"
    (waiting,) = daemon.submit({"name": "sleep", "command": ["true"], "num_gpus": 1, "gpus": ["1"]})
    eventually("it is told", lambda: "Xid 79" in daemon.job(waiting)["reason"]["text"])

    daemon.kill()
    daemon.start()
    see(daemon)
    assert daemon.client().gpus()[1]["drained"] == drained, "kept over kill -9"
    assert daemon.job(running)["state"] == "running"

    daemon.client().cancel(running, now=True)
    daemon.wait(running)
    assert daemon.run("undrain", "1").returncode == 0
    assert [job["state"] for job in daemon.wait(waiting)] == ["succeeded"]
    driver.report(1, 119)
    eventually("it is taken out again", lambda: "Xid 119" in daemon.client().gpus()[1].get("reason", ""))
    log = daemon.log.read_text()
    assert log.count("card 1 is drained after Xid 79 (GPU has fallen off the bus)") == 1
    assert log.count("card 0 had Xid 13 (Graphics Engine Exception): it stays in use") == 1


def test_a_job_that_ends_by_an_error_tells_of_it(daemon: Daemon, driver: FakeDriver) -> None:
    running = sleep(daemon, gpus=["1"])
    driver.report(1, 31).report(1, 31).report(2, 13)
    daemon.client().cancel(running, now=True)
    daemon.wait(running)
    events = eventually("it is noted", lambda: [one for one in daemon.client().job(running)["events"] if "xid" in one])
    uuid = daemon.client().gpus()[1]["uuid"]
    text = "Xid 31 (GPU memory page fault)"
    assert [one["xid"] for one in events] == [{"attempt": 1, "gpu": uuid, "number": 31, "text": text}]
    assert f"card 1 had {text}, " in daemon.run("show", str(running)).stdout.decode()
    daemon.kill()
    daemon.start()
    assert [one for one in daemon.client().job(running)["events"] if "xid" in one] == events


def test_what_the_catalog_does_not_know_is_as_configured(daemon: Daemon, driver: FakeDriver) -> None:
    driver.report(0, 999).report(1, 48)
    eventually("48 is dealt with", lambda: states(daemon)[1] == "drained")
    assert states(daemon) == ["free", "drained", "free"]
    daemon.configure(config(unknown="quarantine", ignore=[79], quarantine=[13]))
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    eventually("it is taken on", lambda: "configuration" in daemon.log.read_text())
    driver.report(0, 999)
    eventually("999 is dealt with", lambda: states(daemon)[0] == "drained")
    driver.report(2, 79).report(2, 13)
    eventually("13 is dealt with", lambda: states(daemon)[2] == "drained")
    assert "Xid 13 " in daemon.client().gpus()[2]["reason"]


def test_an_operators_own_words_stay(daemon: Daemon, driver: FakeDriver) -> None:
    daemon.run("drain", "1", "--reason", "loud fan")
    driver.report(1, 79).report(2, 79)
    eventually("79 is dealt with", lambda: states(daemon)[2] == "drained")
    assert daemon.client().gpus()[1]["drained"]["reason"] == "loud fan"


def test_all_parts_of_a_divided_card_are_taken_out(daemon: Daemon, driver: FakeDriver) -> None:
    driver.cards[1].mig = 1
    driver.migs = [MigDevice("MIG-a", 1), MigDevice("MIG-b", 1)]
    driver.write()
    daemon.kill()
    daemon.start()
    see(daemon, 4)
    driver.report(1, 95)
    eventually("it is taken out", lambda: states(daemon) == ["free", "drained", "drained", "free"])
    gpus = json.loads(daemon.run("gpus", "--json").stdout)["gpus"]
    assert [card["drained"]["reason"][:6] for card in gpus if "drained" in card] == ["Xid 95", "Xid 95"]
