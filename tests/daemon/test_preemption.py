"""Preemption by a real daemon: jobs make way, what comes free goes to whom it was freed for, and they come back."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fake_nvml import FakeDriver
from harness.daemon import Daemon, eventually

#: Says each time that it begins, and ends a moment after it is told to, when the file `go` is there.
LOW = """
echo "$RUNNERS_JOB_ID $RUNNERS_ATTEMPT $RUNNERS_PREEMPTED" >> begun
trap 'echo told >> told; until [ -e go ]; do sleep 0.02; done; exit 0' TERM
while :; do sleep 0.02; done
"""
CONFIG = {"gpus": {"poll": 0.05}, "scheduling": {"preemption": True, "min_run": 0.5}}


def low(name: str, **keys: Any) -> dict[str, Any]:
    return {"name": name, "command": LOW, "num_gpus": 1, "preemptible": True, "grace": "60s", **keys}


def test_jobs_make_way_and_are_run_again(tmp_path: Path, fake_nvml: Callable[[int], FakeDriver]) -> None:
    driver = fake_nvml(2)
    folder = tmp_path / "d"
    with Daemon(folder, env=driver.environment({}), config=CONFIG) as daemon:
        one, other = daemon.submit(low("one"), low("other"))
        eventually(
            "both run", lambda: (folder / "begun").exists() and len((folder / "begun").read_text().split("\n")) == 3
        )
        (high,) = daemon.submit(
            {
                "name": "high",
                "command": "touch high; until [ -e end ]; do sleep 0.02; done",
                "num_gpus": 2,
                "priority": 5,
            }
        )
        eventually(
            "both were told", lambda: (folder / "told").exists() and (folder / "told").read_text() == "told\n" * 2
        )
        # They take their time: nobody slips in, nobody is told again, and everybody is told why.
        (small,) = daemon.submit({"name": "small", "command": ["true"], "num_gpus": 1, "priority": 9, "time_limit": 1})
        why = daemon.job(one)
        assert (why["state"], why["reason"]["code"]) == ("stopping", "stopping")
        assert (
            why["reason"]["text"].startswith(f"makes way for job {high} (") and "queued again" in why["reason"]["text"]
        )
        eventually(
            "it is said for whom room is made", lambda: "room is made for it" in daemon.job(high)["reason"]["text"]
        )
        # Another daemon takes that over.
        daemon.kill(signal.SIGKILL)
        daemon.start()
        assert "room is made for it" in daemon.job(high)["reason"]["text"]
        (folder / "go").touch()
        eventually("it runs", lambda: (folder / "high").exists())
        assert daemon.job(small)["state"] == daemon.job(one)["state"] == daemon.job(other)["state"] == "queued"
        assert (folder / "told").read_text() == "told\n" * 2
        (folder / "go").unlink()
        (folder / "end").touch()
        assert [job["state"] for job in daemon.wait(high, small)] == ["succeeded", "succeeded"]
        eventually("both run again", lambda: len((folder / "begun").read_text().splitlines()) == 4)
        begun = sorted((folder / "begun").read_text().splitlines())
        assert begun == sorted([f"{id} {attempt} {attempt - 1}" for id in (one, other) for attempt in (1, 2)])
        first = daemon.job(one)["attempts"][0]
        assert (first["state"], first["reason"]["code"]) == ("failed", "preempted")
        shown = daemon.run("show", str(one)).stdout.decode().partition("attempts")[2].splitlines()
        assert shown[1].split()[:2] == ["1", "preempted"] and "failed" not in shown[1], shown
        (folder / "go").touch()


def test_a_start_is_expected_when_the_job_before_it_may_be_preempted(
    tmp_path: Path, fake_nvml: Callable[[int], FakeDriver]
) -> None:
    driver = fake_nvml(1)
    config = {"gpus": {"poll": 0.05}, "scheduling": {"preemption": True, "min_run": 1800}}
    with Daemon(tmp_path / "d", env=driver.environment({}), config=config) as daemon:
        (one,) = daemon.submit(low("one", time_limit="10h"))
        eventually("it runs", lambda: daemon.job(one)["state"] == "running")
        (two,) = daemon.submit({"name": "two", "command": ["true"], "num_gpus": 1, "priority": 5, "time_limit": "1h"})
        eventually("it is foretold", lambda: daemon.job(two)["expected_start"])
        from_ = daemon.job(one)["started_at"] + 1800
        job = daemon.job(two)
        assert job["expected_start"] == pytest.approx(from_ + 60, abs=1)
        earliest, latest = job["expected_start_range"]
        assert earliest <= from_ and from_ + 60 <= latest
        clock = time.strftime("%H:%M", time.localtime(from_))
        assert f"; may preempt {one} (" in job["reason"]["text"]
        assert clock in job["reason"]["text"].partition("may preempt")[2]
        listed = next(job for job in json.loads(daemon.run("status", "--json").stdout)["jobs"] if job["id"] == two)
        assert listed["reason"] == job["reason"]
        tried = daemon.run("submit", "--dry-run", str(_like_it(tmp_path))).stdout.decode()
        assert f"; may preempt {one} (" in tried
        (tmp_path / "d" / "go").touch()


def _like_it(folder: Path) -> Path:
    file = folder / "like.yml"
    file.write_text("jobs: [{command: 'true', num_gpus: 1, priority: 9, time_limit: 1h}]\n")
    return file


def test_without_a_word_in_the_configuration_nobody_makes_way(
    tmp_path: Path, fake_nvml: Callable[[int], FakeDriver]
) -> None:
    driver = fake_nvml(1)
    config = {"gpus": {"poll": 0.05}, "scheduling": {"min_run": 0}}
    with Daemon(tmp_path / "d", env=driver.environment({}), config=config) as daemon:
        (one,) = daemon.submit(low("one"))
        eventually("it runs", lambda: daemon.job(one)["state"] == "running")
        (high,) = daemon.submit({"name": "high", "command": ["true"], "num_gpus": 1, "priority": 5})
        eventually("it waits for the card", lambda: daemon.job(high)["reason"]["code"] == "no_free_gpu")
        assert daemon.job(one)["state"] == "running"
        daemon.configure({**config, "scheduling": {"min_run": 0, "preemption": True}})
        daemon.reload()
        (tmp_path / "d" / "go").touch()
        assert daemon.wait(high)[0]["state"] == "succeeded"
