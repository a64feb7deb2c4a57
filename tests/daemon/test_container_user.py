"""Containers of a daemon that runs as a user: no gate, since its owner could open that, and everything as that user."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.containers import Lab, new_lab
from engine import BARE, CARDS, PROGRAM, SHELL, Engine
from engine.fixtures import check_docker
from engine.requirements import search_path
from fake_nvml import FakeDriver
from harness.daemon import eventually

ADA = 61001


@pytest.fixture(scope="module")
def python() -> str:
    """An interpreter like ours that a user without rights can run."""
    for path in (sys.executable, "/usr/bin/python3"):
        try:
            said = subprocess.run(
                [path, "-c", "import sys; print(*sys.version_info[:2])"],
                user=ADA, group=ADA, extra_groups=[], cwd="/", capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
        except (OSError, subprocess.CalledProcessError):
            continue
        if said.split() == [str(part) for part in sys.version_info[:2]]:
            return path
    pytest.skip("no interpreter of this version that another user can run")


@pytest.fixture(scope="module")
def user_lab(python: str, fake_nvml_library: Path) -> Iterator[Lab]:
    """The lab below `lab`; take that one."""
    check_docker()
    folder = Path(tempfile.mkdtemp(prefix="ada-"))
    folder.chmod(0o755)
    library = shutil.copytree(fake_nvml_library, folder / "nvml")
    driver = FakeDriver(library, folder).add_cards(len(CARDS))
    # Whether the engine can pass cards a user learns only from the engine: its runtimes say so.
    runtimes = {"runtimes": {"nvidia": {"path": shutil.which("runc", path=search_path())}}}
    with Engine(folder / "engine", config=runtimes, cards=CARDS) as engine:
        engine.import_standard_images()
        engine.socket.chmod(0o666)
        with new_lab(engine, env=driver.environment({})) as lab:
            daemon = lab.daemon
            daemon.python, daemon.uid = python, ADA
            daemon.env["PYTHONPATH"] += os.pathsep + sysconfig.get_path("purelib")
            for path in (daemon.folder, daemon.config, daemon.socket.parent):
                os.chown(path, ADA, ADA)
            lab.start()
            yield lab
    shutil.rmtree(folder)


@pytest.fixture
def lab(user_lab: Lab) -> Iterator[Lab]:
    """Ada's own daemon with four cards, one for the module."""
    user_lab.engine.set_cards(CARDS)
    yield user_lab
    user_lab.clean()


def end(job: Any) -> tuple[str, str, int | None]:
    return job["state"], job["reason"]["code"], job["exit_code"]


def test_they_end_as_they_do_on_the_whole_machine(lab: Lab) -> None:
    jobs = lab.run(
        {"name": "ok", "command": "exit 0"},
        {"name": "code", "command": "exit 3"},
        {"name": "signal", "command": "kill -9 $$"},
        {"name": "bare", "command": [PROGRAM, "exit", "5"], "image": BARE},
        {"name": "missing", "command": ["missing"]},
        # An engine begins to watch a container's memory after it has started it; a gate leaves it the time.
        {"name": "memory", "command": f"sleep 0.5; exec {PROGRAM} memory 200", "memory": "32MiB"},
        {"name": "limit", "command": "trap '' TERM; while :; do sleep 0.1; done", "time_limit": "1s", "grace": "0.5s"},
    )
    assert [end(job) for job in jobs] == [
        ("succeeded", "ok", 0),
        ("failed", "exit_code", 3),
        ("failed", "signal", 137),
        ("failed", "exit_code", 5),
        ("failed", "launch_failed", None),
        ("failed", "out_of_memory", 137),
        ("timed_out", "time_limit", 137),
    ]
    assert jobs[4]["reason"]["text"] == "cannot run missing: No such file or directory"


def test_everything_is_the_users(lab: Lab) -> None:
    script = "id -u; id -g; touch made; echo $HOME; touch $HOME/x; pwd"
    (job,) = lab.daemon.wait(*lab.submit_as(ADA, {"name": "a", "command": script}, cwd=str(lab.daemon.folder)))
    assert lab.out(job["id"]).splitlines() == [str(ADA), str(ADA), f"/home/{ADA}", "/workspace"]
    there = (lab.daemon.folder / "made").stat()
    assert (there.st_uid, there.st_gid) == (ADA, ADA)


def test_a_cancel_leaves_no_process(lab: Lab) -> None:
    (id,) = lab.submit({"name": "a", "command": "trap '' TERM; setsid sleep 60 & echo ready; while :; do sleep 0.1; done",
                        "grace": "0.3s"})  # fmt: skip
    lab.until_out(id, "ready")
    container = lab.container(id)
    lab.daemon.client().cancel(id)
    (job,) = lab.daemon.wait(id)
    assert (end(job), lab.engine.pids(container)) == (("cancelled", "cancelled_by", 137), [])


def test_they_outlive_the_daemon_and_keep_every_line(lab: Lab) -> None:
    stop = lab.daemon.folder / "stop"
    script = "n=0; while [ ! -e stop ]; do n=$((n+1)); echo $n; sleep 0.01; done; exit 4"
    (id,) = lab.submit({"name": "a", "command": script})
    lab.until_out(id, "\n5\n")
    for number in (signal.SIGTERM, signal.SIGKILL):
        lab.daemon.kill(number)
        lab.start()
        before = len(lab.out(id))
        eventually("lines come again", lambda: len(lab.out(id)) > before)  # noqa: B023
    stop.touch()
    (job,) = lab.daemon.wait(id)
    assert (end(job), job["attempt"]) == (("failed", "exit_code", 4), 1)
    lines = lab.out(id).splitlines()
    assert lines == [str(n) for n in range(1, len(lines) + 1)]


def test_cards_are_those_reserved_and_no_others(lab: Lab) -> None:
    jobs = lab.run(
        *({"name": f"j{n}", "image": SHELL, "command": f"{PROGRAM} open /dev/nvidia{n}", "num_gpus": 1, "gpus": ["2"]}
          for n in (2, 3))
    )  # fmt: skip
    assert [job["exit_code"] for job in jobs] == [errno.ENXIO, errno.ENOENT]


def test_a_container_that_got_other_cards_is_ended(lab: Lab) -> None:
    lab.engine.set_cards({uuid: 3 - minor for uuid, minor in CARDS.items()})
    (job,) = lab.run({"name": "a", "command": "sleep 60", "num_gpus": 1})
    assert end(job) == ("failed", "launch_failed", None)
    assert "which it has not reserved" in job["reason"]["text"]


def test_a_mount_of_what_the_user_cannot_read_is_refused(lab: Lab) -> None:
    secret = lab.folder / "secret"
    secret.mkdir(mode=0o700)
    with lab.configured(containers={"allowed_mounts": [str(lab.folder)]}):
        (job,) = lab.run({"name": "a", "command": "ls /in", "mounts": [f"{secret}:/in"]})
    assert end(job)[1] == "launch_failed"
    assert f"cannot mount {secret}: Permission denied" in job["reason"]["text"]
