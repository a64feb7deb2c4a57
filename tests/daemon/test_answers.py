"""What a daemon answers to people who wait: when, why, behind whom, and what would be otherwise."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_nvml import FakeDriver
from harness.daemon import Daemon, eventually


@pytest.fixture
def daemon(fake_nvml: Callable[[int], FakeDriver], tmp_path: Path) -> Iterator[Daemon]:
    """A machine with two cards."""
    with Daemon(tmp_path / "d", env=fake_nvml(2).environment({})) as one:
        eventually("the cards are seen", lambda: len(one.client().gpus()) == 2)
        yield one


def sleeper(name: str, num_gpus: int = 1, **keys: Any) -> dict[str, Any]:
    return {"name": name, "command": "sleep 1000", "num_gpus": num_gpus, "time_limit": 3600, **keys}


def running(daemon: Daemon, *ids: int) -> None:
    eventually("they run", lambda: all(daemon.job(id)["state"] == "running" for id in ids))


def test_status_and_show_say_when_a_waiting_job_is_expected_to_start(daemon: Daemon) -> None:
    first, second = daemon.submit(sleeper("a"), sleeper("b", time_limit=1800))
    running(daemon, first, second)
    late, soon = daemon.submit(sleeper("wide", 2, time_limit=7200), sleeper("narrow"))
    eventually("both are foretold", lambda: all(daemon.job(id)["expected_start"] for id in (late, soon)))
    jobs = {job["id"]: job for job in json.loads(daemon.run("status", "--json").stdout)["jobs"]}
    started = {id: jobs[id]["started_at"] for id in (first, second)}
    assert jobs[soon]["expected_start"] == pytest.approx(started[second] + 1800, abs=1)
    assert jobs[late]["expected_start"] >= started[first] + 3600 - 1
    for id in (late, soon):
        earliest, latest = jobs[id]["expected_start_range"]
        assert time.time() - 60 < earliest <= jobs[id]["expected_start"] <= latest
        assert daemon.job(id)["expected_start_range"][1] == pytest.approx(latest, rel=1e-3)
    assert jobs[first]["expected_start"] is None
    waiting = [id for id, job in jobs.items() if job["state"] == "queued"]
    assert waiting == [soon, late], "they are listed as they will run"


def test_a_start_that_nobody_can_tell_is_not_told(daemon: Daemon) -> None:
    ids = daemon.submit(*({"name": name, "command": "sleep 1000", "num_gpus": 2} for name in "ab"))
    running(daemon, ids[0])
    job = eventually(
        "it is foretold", lambda: found if (found := daemon.job(ids[1])).get("expected_start_range") else None
    )
    assert job["expected_start"] is None
    assert job["expected_start_range"][1] is None
