"""Cards as `runners-client` shows them, with a fake driver under a real daemon."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fake_nvml import FakeDriver
from harness.daemon import Daemon, eventually
from runners.cli.status import holders


@pytest.fixture
def daemon(fake_nvml: Callable[[int], FakeDriver], tmp_path: Path) -> Iterator[Daemon]:
    """A machine with four cards."""
    driver = fake_nvml(4)
    with Daemon(tmp_path / "d", config={"gpus": {"poll": 0.1}}, env=driver.environment({})) as one:
        eventually("the cards are seen", lambda: len(one.client().gpus()) == 4)
        yield one


def test_cards_are_shown_drained_and_used(daemon: Daemon) -> None:
    document = json.loads(daemon.run("gpus", "--json").stdout)
    assert [gpu["index"] for gpu in document["gpus"]] == [0, 1, 2, 3]
    plain = daemon.run("gpus").stdout.decode().splitlines()
    assert plain[0].split()[:2] == ["GPU", "NAME"] and not plain[0].endswith("REASON")
    assert len(plain) == 5
    uuid = document["gpus"][1]["uuid"]
    done = daemon.run("drain", uuid, "--reason", "loud fan")
    assert done.stdout.decode().startswith("card 1 (")
    assert "drained" in done.stdout.decode()
    assert json.loads(daemon.run("gpus", "--json").stdout)["gpus"][1]["state"] == "drained"
    plain = daemon.run("gpus").stdout.decode().splitlines()
    assert plain[0].endswith("  REASON") and "  drained: loud fan (by " in plain[2]
    assert "free" in daemon.run("undrain", "1").stdout.decode()
    assert daemon.run("drain", "9").returncode == 2

    [id] = daemon.submit({"name": "big", "command": "echo $RUNNERS_GPU_INDICES; sleep 100", "num_gpus": 3})
    eventually("it runs", lambda: daemon.job(id)["state"] == "running")
    [too_many] = daemon.submit({"name": "more", "command": "true", "num_gpus": 2})
    text = daemon.run("status").stdout.decode()
    assert text.count(" reserved ") == 3
    waiting = next(line.split() for line in text.splitlines() if " more " in line)
    assert (waiting[0], waiting[5]) == (str(too_many), "2cards")
    assert "cards" in daemon.run("show", str(id)).stdout.decode()
    daemon.client().cancel(id, now=True)
    assert daemon.wait(too_many)[0]["state"] == "succeeded"


def test_run_takes_a_card(daemon: Daemon) -> None:
    done = daemon.run("run", "--gpus", "2", "--", "sh", "-c", "echo $RUNNERS_GPU_INDICES $NUM_WORKERS")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()[0].split(b",")) == 2


def test_who_has_a_card_is_not_named_when_the_daemon_knows_no_such_job(daemon: Daemon) -> None:
    (id,) = daemon.submit({"name": "a", "command": ["sleep", "600"], "num_gpus": 1})
    eventually("it has a card", lambda: daemon.client().gpus()[0]["jobs"] == [id])
    view = daemon.client().status()
    assert [job["id"] for job in holders(daemon.client(), {**view, "jobs": []})] == [id]
    view["gpus"][0]["jobs"] = [id + 1]  # as of a database that was put back meanwhile
    assert holders(daemon.client(), {**view, "jobs": []}) == []
