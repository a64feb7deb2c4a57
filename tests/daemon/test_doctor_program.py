"""`runnersd doctor` as a program: exit codes, both kinds of output, and what it makes of a daemon that runs."""

from __future__ import annotations

import json
import os
import pty
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.daemon import ROOT, Daemon

Doctor = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    """Examines for a daemon that would keep everything in the test's folder; with an engine socket of its own."""
    config = tmp_path / "runnersd.yml"
    config.write_text(json.dumps({"jobs": {"min_free_disk": 1}, "containers": {"socket": str(tmp_path / "docker")}}))
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RUNNERS_", "FAKE_NVML"))},
        "PYTHONPATH": os.pathsep.join([str(ROOT / "client"), str(ROOT / "scheduler")]),
        "RUNNERS_LOCK_DIR": str(tmp_path / "locks"),
        "RUNNERS_STATE_DIR": str(tmp_path / "state"),
        "RUNNERS_SOCKET": str(tmp_path / "s"),
        "RUNNERS_CONFIG": str(config),
    }

    def run(*flags: str, **options: Any) -> subprocess.CompletedProcess[str]:
        options = {"capture_output": True, "text": True, "timeout": 90, "check": False, "env": env, **options}
        return subprocess.run([sys.executable, "-m", "runnersd", *flags], **options)

    run.env = env  # type: ignore[attr-defined]
    return run


def levels(said: dict[str, Any]) -> dict[str, str]:
    return {one["check"]: one["level"] for one in said["checks"]}


def test_a_machine_that_will_do_exits_0(doctor: Doctor, tmp_path: Path) -> None:
    done = doctor("doctor", "--json")
    assert done.stderr == ""
    said = json.loads(done.stdout)
    assert (done.returncode, said["ok"]) == (0, True), said
    assert levels(said)["engine"] == levels(said)["daemon"] == "warning"
    assert levels(said)["state"] == levels(said)["sqlite"] == "ok"
    assert not (tmp_path / "state").exists(), "it only looks"
    assert not (tmp_path / "locks").exists()


def test_a_failure_exits_1(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    done = doctor("doctor")
    assert done.returncode == 1
    [line] = [line for line in done.stdout.splitlines() if line.startswith("failure")]
    assert line.startswith("failure  state: ")
    assert done.stdout.splitlines()[-1].startswith("1 failure, ")


def test_a_wrong_file_is_a_failure_and_the_rest_is_examined(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "runnersd.yml").write_text("jobs: {max_runing: 3}\n")
    said = json.loads(doctor("doctor", "--json").stdout)
    [config] = [one for one in said["checks"] if one["check"] == "config"]
    assert config["level"] == "failure"
    assert "did you mean 'max_running'" in config["text"]
    assert levels(said)["sqlite"] == "ok"
    assert doctor("doctor", "--config", str(tmp_path / "none.yml"), "--json").returncode == 1


def test_a_socket_that_hangs_does_not_hang_it(doctor: Doctor, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "docker"))
        listener.listen(16)
        begun = time.monotonic()
        done = doctor("doctor", "--json")
    assert time.monotonic() - begun < 45
    [engine] = [one for one in json.loads(done.stdout)["checks"] if one["check"] == "engine"]
    assert (done.returncode, engine["level"]) == (1, "failure")
    assert "does not answer" in engine["text"]
    assert "systemctl restart docker" in engine["fix"]


def test_a_daemon_that_runs_is_found(doctor: Doctor, tmp_path: Path) -> None:
    with Daemon(tmp_path / "d") as daemon:
        assert daemon.process is not None
        done = doctor("doctor", "--socket", str(daemon.socket), "--state-dir", str(daemon.state), "--json")
        said = {one["check"]: one for one in json.loads(done.stdout)["checks"]}
        assert f"(pid {daemon.process.pid})" in said["daemon"]["text"]
        assert said["socket-rights"]["level"] == "ok"
        assert "of the daemon" in said["open-files"]["text"]


def test_flags_that_do_not_go_together(doctor: Doctor) -> None:
    done = doctor("--json")
    assert done.returncode == 2
    assert "--json goes with doctor" in done.stderr
    assert doctor("dcotor").returncode == 2


def test_on_a_terminal_it_is_drawn(doctor: Doctor, tmp_path: Path) -> None:
    env = {**doctor.env, "TERM": "xterm-256color", "COLUMNS": "70", "LANG": "C.UTF-8"}  # type: ignore[attr-defined]
    env.pop("NO_COLOR", None)
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-m", "runnersd", "doctor"], stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    written = b""
    while piece := _read(ours):
        written += piece
    os.close(ours)
    assert process.wait(60) == 0
    lines = written.decode().splitlines()
    assert any("\x1b[32m✓\x1b[0m sqlite" in line for line in lines)
    bare = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    sentences = [line for line in bare if not line.lstrip().startswith(("$", "#")) and str(tmp_path) not in line]
    assert max(map(len, sentences)) <= 70
    assert bare[0].startswith(" runnersd doctor · runners ")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""
