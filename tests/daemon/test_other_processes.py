"""Who else is on the cards, and how the cards are connected: a real daemon, real processes, a fake driver."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fake_nvml import FakeDriver, Link, Process
from harness.daemon import Daemon, eventually

Make = Callable[[int], FakeDriver]
GIB = 1 << 30
SHARE = {"gpus": {"poll": 0.05, "foreign": "share", "margin": "1GiB"}}


@contextmanager
def somebody(environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process outside of the daemon."""
    process = subprocess.Popen(["sleep", "600"], env=environment or {}, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def card(daemon: Daemon) -> Any:
    return daemon.client().gpus()[0]


def test_a_process_that_a_job_has_left_holds_the_card_also_over_a_restart(tmp_path: Path, fake_nvml: Make) -> None:
    driver, said = fake_nvml(1), tmp_path / "run"
    with Daemon(tmp_path / "d", env=driver.environment({}), config=SHARE) as daemon:
        (first,) = daemon.submit({"name": "a", "command": f'echo "$RUNNERS_RUN" > {said}', "num_gpus": 1})
        daemon.wait(first)
        with somebody({"RUNNERS_RUN": said.read_text().strip()}) as left:
            driver.processes.append(Process(left.pid, memory=GIB))
            driver.write()
            eventually("it is found", lambda: card(daemon)["foreign"] and card(daemon)["foreign"][0]["left_behind"])
            share = {"command": ["true"], "num_gpus": 1, "gpu_shared": True, "gpu_memory": "1GiB"}
            (second,) = daemon.submit({"name": "b", **share})
            daemon.kill()
            daemon.start()
            reason = eventually("it waits", lambda: daemon.job(second)["reason"])
            assert reason["code"] == "foreign_gpu_use"
            assert f"sleep (pid {left.pid}, " in reason["text"] and f"which job {first} has left" in reason["text"]
            assert f"job {first} has left behind" in daemon.run("gpus").stdout.decode()
            driver.processes.clear()
            driver.write()
        assert daemon.wait(second)[0]["state"] == "succeeded"
        assert daemon.log.read_text().count("stays held until it is gone") == 2, "once for each daemon"


def test_who_is_on_a_shared_card_is_shown_with_the_job_also_over_a_restart(tmp_path: Path, fake_nvml: Make) -> None:
    driver = fake_nvml(1)
    with Daemon(tmp_path / "d", env=driver.environment({}), config=SHARE) as daemon, somebody() as other:
        driver.processes.append(Process(other.pid, memory=50 * GIB))
        driver.cards[0].used = 50 * GIB
        driver.write()
        eventually("it is seen", lambda: card(daemon)["state"] == "foreign")
        share = {"command": ["sleep", "600"], "num_gpus": 1, "gpu_shared": True, "gpu_memory": "20GiB"}
        first, second = daemon.submit({"name": "a", **share}, {"name": "b", **share})
        noted = eventually("it is noted", lambda: daemon.job(first)["attempts"][0]["contaminated"])
        assert card(daemon)["state"] == "shared"
        assert "at most 9GiB left" in daemon.job(second)["reason"]["text"]
        daemon.kill()
        daemon.start()
        eventually("it runs on", lambda: card(daemon)["state"] == "shared")
        shown = daemon.job(first)
        (before,), (after,) = noted, shown["attempts"][0]["contaminated"]
        assert (after["pid"], after["program"], after["memory"]) == (other.pid, "sleep", 50 * GIB)
        assert after["since"] == before["since"]
        assert [event["type"] for event in shown["events"]].count("job.contaminated") == 1
        assert f"contaminated: sleep (pid {other.pid}, " in daemon.run("show", str(first)).stdout.decode()


def test_cards_are_given_by_how_they_are_linked(tmp_path: Path, fake_nvml: Make) -> None:
    driver = fake_nvml(4)
    for place, one in enumerate(driver.cards):
        one.place = (place // 2, 0, "0")
    driver.links = [Link(0, to=1, count=4), Link(2, to=3, count=4)]
    driver.write()
    with Daemon(tmp_path / "d", env=driver.environment({}), config={"gpus": {"poll": 0.05}}) as daemon:
        eventually("it is known", lambda: card(daemon)["near"])
        assert card(daemon)["near"] == {"by": "NV4", "gpus": [driver.cards[1].uuid]}
        rows = daemon.run("gpus").stdout.decode().splitlines()
        assert "NEAR" in rows[0].split() and "NV4:1" in rows[1].split()
        wait = {"command": ["sleep", "600"]}
        (one,) = daemon.submit({"name": "one", **wait, "num_gpus": 1})
        (pair,) = daemon.submit({"name": "pair", **wait, "num_gpus": 2})
        eventually("both run", lambda: all(daemon.job(id)["state"] == "running" for id in (one, pair)))
        assert daemon.job(one)["gpus"] == [driver.cards[0].uuid]
        assert daemon.job(pair)["gpus"] == [driver.cards[2].uuid, driver.cards[3].uuid]
