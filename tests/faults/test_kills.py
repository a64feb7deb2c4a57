"""`kill -9` of the daemon at any moment: nothing acknowledged is lost, nothing runs twice, no card is shared."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fake_nvml import FakeDriver
from harness import oracle
from harness.daemon import Daemon
from runners.errors import RunnersError


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1])
def test_fifty_kills_at_random_times_under_load(
    seed: int, tmp_path: Path, fake_nvml: Callable[[int], FakeDriver]
) -> None:
    evidence = tmp_path / "oracle"
    dice = random.Random(seed)
    daemon = Daemon(tmp_path / "d", env=fake_nvml(8).environment({}))
    acknowledged: list[int] = []
    over = threading.Event()

    def submit_all_the_while() -> None:
        number = 0
        while not over.is_set():
            number += 1
            jobs = [
                {
                    "name": f"j{one}",
                    "command": oracle.command(evidence, dice.choice([0.0, 0.05, 0.3, 1.5])),
                    "num_gpus": dice.choice([0, 1, 1, 2, 4, 8]),
                    "needs": [f"j{one - 1}"] if one and dice.random() < 0.3 else [],
                }
                for one in range(4)
            ]
            try:
                acknowledged.extend(daemon.submit(*jobs))
            except RunnersError:
                continue  # not acknowledged: it may be queued or not, and is not counted
            over.wait(dice.uniform(0.1, 1.0))

    daemon.start()
    submitter = threading.Thread(target=submit_all_the_while)
    submitter.start()
    try:
        for _ in range(50):
            time.sleep(dice.uniform(0.0, 0.8))
            daemon.kill(signal.SIGKILL)
            daemon.start(wait=dice.random() < 0.7)
        daemon.answers()
    finally:
        over.set()
        submitter.join()
    try:
        everything = [job["id"] for job in every_job(daemon)]
        assert set(acknowledged) <= set(everything), "acknowledged jobs are lost"
        assert len(acknowledged) > 50
        found = {job["id"]: job for job in daemon.wait(*everything, patience=300)}
        oracle.check(oracle.read(evidence), found)
    finally:
        daemon.stop()


def every_job(daemon: Daemon) -> list[dict[str, int]]:
    """All jobs the daemon knows, page by page."""
    jobs: list[dict[str, int]] = []
    after = None
    while True:
        page = daemon.client().get("/v1/jobs", {"limit": 500, **({"after": after} if after is not None else {})})
        jobs += page["jobs"]
        after = page["next"]
        if after is None:
            return jobs
