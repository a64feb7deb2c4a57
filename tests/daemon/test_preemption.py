"""Preemption by a real daemon: jobs make way, what comes free goes to whom it was freed for, and they come back."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
        (folder / "go").touch()


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
