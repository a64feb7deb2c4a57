"""Caches and jobs: what a job has made and what it reads is known by its number, what one in the queue needs is kept."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.daemon import ROOT, Daemon, eventually

SCRIPT = """
import os, sys, time
from runners.cache import Items, open_cache, write_items

def build(group):
    write_items(group, [{"x": [n, n]} for n in range(50)], title="numbers")

read = Items(open_cache("numbers", {"n": 50}, build))
print(sum(int(batch["x"].sum()) for batch in read.batches(8)), flush=True)
while not os.path.exists("go"):
    time.sleep(0.02)
"""


@pytest.fixture
def script(tmp_path: Path) -> dict[str, Any]:
    """A job that builds or reads a cache, and has it open until there is a file `go`."""
    (tmp_path / "read.py").write_text(SCRIPT)
    env = {"CACHE_DIRECTORY": str(tmp_path / "caches"), "PYTHONPATH": str(ROOT / "client")}
    return {"command": [sys.executable, "read.py"], "workdir": str(tmp_path), "env": env}


def test_jobs_and_their_caches(tmp_path: Path, script: dict[str, Any]) -> None:
    there = tmp_path / "caches"
    with Daemon(tmp_path / "d", config={"directories": {"cache": str(there)}}) as daemon:
        first, second = daemon.submit({"name": "one", **script}, {"name": "two", **script})
        logs = [Path(daemon.job(id)["logs"]["stdout"]) for id in (first, second)]
        eventually("both have read", lambda: all(log.exists() and log.read_text() == "2450\n" for log in logs))

        [cache] = json.loads(daemon.run("caches", "--json").stdout)["caches"]
        assert cache["job"]["id"] in (first, second)
        assert cache["job"]["name"] in ("one", "two") and cache["job"]["pipeline"] == "p1"
        assert sorted(user["job"] for user in cache["used_by"]) == [first, second]
        assert daemon.run("caches", "prune", "--keep", "0").returncode == 0
        assert os.listdir(there) == [cache["id"]]

        daemon.client().pause("test")
        noted = {"name": "later", **script, "env": {**script["env"], "RUNNERS_CACHES": "other, numbers"}}
        (later,) = daemon.submit(noted)
        assert daemon.job(later)["caches"] == ["other", "numbers"]
        assert "caches" not in daemon.job(first)
        (tmp_path / "go").touch()
        daemon.wait(first, second)
        done = daemon.run("caches", "rm", cache["id"])
        assert done.returncode == 1 and f"it is used by queued job {later}".encode() in done.stderr
        assert daemon.run("caches", "prune", "--unused", "0").returncode == 0
        assert os.listdir(there) == [cache["id"]]

        daemon.client().cancel(later)
        assert "caches" not in daemon.job(later)
        assert daemon.run("caches", "prune", "--unused", "0").stdout.startswith(f"removed {cache['id']}".encode())
        assert os.listdir(there) == []
