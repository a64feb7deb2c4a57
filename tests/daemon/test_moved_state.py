"""A state directory that is moved away, or deleted, under a running daemon: nothing is promised that would be lost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.daemon import Daemon, eventually
from runners.errors import Unavailable

SAID = "cannot promise anything now: the state directory .*/state was moved away or deleted; put it back as it was"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path) as daemon:
        yield daemon
        daemon.kill()


def refused(daemon: Daemon) -> None:
    """Nothing is taken in, at once, and before long the daemon says so itself. Its log has one line."""
    with pytest.raises(Unavailable, match=SAID):
        daemon.submit({"name": "more", "command": ["true"]})
    with pytest.raises(Unavailable, match=SAID):
        daemon.client().health()
    log = daemon.log.read_text()
    assert log.count("was moved away or deleted") == 1
    assert "Traceback" not in log


def test_what_is_put_back_goes_on(daemon: Daemon) -> None:
    (long, short) = daemon.submit(
        {"name": "long", "command": ["sleep", "1000"]},
        {"name": "short", "command": f"until [ -e {daemon.folder}/end ]; do sleep 0.1; done; exit 3"},
    )
    eventually("they run", lambda: all(daemon.job(id)["state"] == "running" for id in (long, short)))
    away = daemon.state.rename(daemon.folder / "away")

    refused(daemon)
    (daemon.folder / "end").touch()
    with pytest.raises(Unavailable, match=SAID):
        daemon.client().cancel(str(long))
    assert daemon.run("submit", "-").returncode == 2
    assert not daemon.state.exists(), "its place is free"

    away.rename(daemon.state)
    (found,) = daemon.wait(short)
    assert (found["state"], found["exit_code"]) == ("failed", 3)
    (more,) = daemon.submit({"name": "more", "command": ["true"]})
    assert daemon.wait(more)[0]["state"] == "succeeded"
    assert daemon.job(long)["state"] == "running"
    daemon.client().cancel(str(long))
    daemon.wait(long)


def test_an_idle_daemon_sees_that_it_was_deleted(daemon: Daemon) -> None:
    shutil.rmtree(daemon.state)

    def unhealthy() -> bool:
        try:
            daemon.client().health()
        except Unavailable as error:
            assert "was moved away or deleted" in str(error)
            return True
        return False

    eventually("it says that it is not well", unhealthy)
    refused(daemon)
    assert not daemon.state.exists()


def test_another_one_in_its_place_is_not_taken_for_it(daemon: Daemon) -> None:
    daemon.state.rename(daemon.folder / "away")
    shutil.copytree(daemon.folder / "away", daemon.state)
    refused(daemon)
