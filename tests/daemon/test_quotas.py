"""Quotas of a real daemon: from its configuration to the sentences."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fake_nvml import FakeDriver
from harness.daemon import Daemon, eventually
from runners.errors import InvalidPipeline, QuotaExceeded

ME = pwd.getpwuid(os.geteuid()).pw_name


def test_quotas_hold_and_say_so_and_change_with_a_reload(
    tmp_path: Path, fake_nvml: Callable[[int], FakeDriver]
) -> None:
    driver = fake_nvml(4)
    poll = {"gpus": {"poll": 0.05}}
    quotas = {"users": {ME: {"gpus": 2, "running": 3, "queued": 4}}}
    config = {**poll, "scheduling": {"quotas": quotas}}
    with Daemon(tmp_path / "d", env=driver.environment({}), config=config) as daemon:
        with pytest.raises(InvalidPipeline) as refused:
            daemon.submit({"name": "large", "command": ["true"], "num_gpus": 3})
        assert f"asks for 3 cards, {ME} may hold 2 (scheduling.quotas)" in str(refused.value.problems)
        first, second = daemon.submit(*[{"name": f"a{n}", "command": ["sleep", "60"], "num_gpus": 1} for n in range(2)])
        eventually("both run", lambda: all(daemon.job(id)["state"] == "running" for id in (first, second)))
        (more,) = daemon.submit({"name": "more", "command": ["sleep", "60"], "num_gpus": 1})
        text = f"needs 1 card: {ME} holds 2 of at most 2 (scheduling.quotas)"
        eventually("it waits", lambda: daemon.job(more)["reason"] == {"code": "quota", "text": text})
        idle, last = daemon.submit(*[{"name": f"idle{n}", "command": ["sleep", "60"]} for n in range(2)])
        eventually("one without a card runs", lambda: daemon.job(idle)["state"] == "running")
        text = f"{ME} has 3 jobs running, at most 3 may (scheduling.quotas)"
        eventually("the last waits", lambda: daemon.job(last)["reason"] == {"code": "quota", "text": text})
        three = [{"name": f"b{n}", "command": ["true"]} for n in range(3)]
        with pytest.raises(
            QuotaExceeded, match=f"cannot queue 3 more jobs: of {ME} 2 wait, and at most 4 may; .* ask "
        ):
            daemon.submit(*three)
        assert len(list(daemon.client().jobs())) == 5  # none of the three
        daemon.configure(poll)
        daemon.reload()
        eventually("the rest runs", lambda: all(daemon.job(id)["state"] == "running" for id in (more, last)))


def test_many_submissions_at_once_do_not_pass_the_quota_together(tmp_path: Path) -> None:
    config = {"scheduling": {"quotas": {"default": {"running": 1, "queued": 5}}}}
    with Daemon(tmp_path / "d", config=config) as daemon:
        (running,) = daemon.submit({"name": "a", "command": ["sleep", "60"]})
        eventually("it runs", lambda: daemon.job(running)["state"] == "running")

        def submit(number: int) -> bool:
            try:
                daemon.submit({"name": f"b{number}", "command": ["true"]})
            except QuotaExceeded:
                return False
            return True

        with ThreadPoolExecutor(12) as pool:
            taken = list(pool.map(submit, range(24)))
        assert taken.count(True) == 5
