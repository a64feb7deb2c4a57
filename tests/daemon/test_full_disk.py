"""A disk that is full, as by one of the jobs: what is there can be ended, and nothing more is taken in."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.daemon import Daemon, eventually
from runners.errors import Unavailable

DEAF = "trap '' TERM; while :; do sleep 0.1; done"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """On a disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        with Daemon(folder) as daemon:
            yield daemon
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(daemon: Daemon) -> Path:
    """Have nothing left of its disk; what to remove to have room again."""
    rest = daemon.folder / "rest"
    with rest.open("ab", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(1 << 20))
    assert shutil.disk_usage(daemon.folder).free < 1 << 20
    return rest


def test_whoever_fills_the_disk_is_ended_by_its_time_limit(daemon: Daemon) -> None:
    (id,) = daemon.submit(
        {"name": "fill", "command": f"cat /dev/zero > {daemon.folder}/rest; sleep 300", "time_limit": 2}
    )
    (job,) = daemon.wait(id)
    assert (job["state"], job["reason"]["code"]) == ("timed_out", "time_limit")
    assert shutil.disk_usage(daemon.folder).free < 1 << 20


def test_on_a_full_disk_jobs_are_cancelled_and_none_taken_in(daemon: Daemon) -> None:
    jobs = [{"name": f"job{number}", "command": DEAF, "grace": 0.2, "cpus": 0.05} for number in range(10)]
    ids = daemon.submit(*jobs)
    eventually("they run", lambda: all(daemon.job(id)["state"] == "running" for id in ids))
    rest = fill(daemon)

    with pytest.raises(Unavailable, match="cannot take in jobs now: .* left where the daemon keeps its state; free"):
        daemon.submit({"name": "more", "command": ["true"]})
    assert daemon.run("cancel", *map(str, ids)).returncode == 0
    assert {job["state"] for job in daemon.wait(*ids)} == {"cancelled"}

    daemon.kill()
    daemon.start()
    assert {daemon.job(id)["state"] for id in ids} == {"cancelled"}
    rest.unlink()
    (more,) = daemon.submit({"name": "more", "command": ["true"]})
    assert daemon.wait(more)[0]["state"] == "succeeded"


def test_on_a_full_disk_what_was_taken_in_before_is_not_refused(daemon: Daemon) -> None:
    """Who has not heard the answer asks again; told no, they would queue it twice later."""
    document = {"name": "once", "jobs": [{"name": "a", "command": ["true"]}], "cwd": str(daemon.folder), "env": {}}
    accepted = daemon.client().submit([document], key="a key")
    fill(daemon)
    assert daemon.client().submit([document], key="a key") == accepted
    with pytest.raises(Unavailable, match="cannot take in jobs now"):
        daemon.client().submit([document], key="another")
