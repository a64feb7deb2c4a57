"""`show` to those who have the job and not the daemon's folders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.somebody import Somebody
from harness.daemon import Daemon

ANN = 61001
#: As the user, once all is loaded: that user may not be able to read this installation.
PROGRAM = """
import contextlib, os, sys
from runners.cli.main import run
uid, job = int(sys.argv[1]), sys.argv[2]
with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
    run(["show", job])
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
sys.exit(run(["show", job]))
"""


def shown(daemon: Daemon, uid: int, job: int) -> list[str]:
    """The lines below `output`."""
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(uid), str(job)], env=daemon.env, capture_output=True, text=True, timeout=60
    )
    assert said.returncode == 0, said.stderr
    lines = said.stdout.splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith("output"))
    assert lines[at].split() == ["output", "runners-client", "logs", str(job)]
    return lines[at + 1 :]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")
def test_paths_are_shown_to_those_who_can_reach_them(tmp_path: Path) -> None:
    with Daemon(tmp_path / "d") as daemon:
        daemon.socket.chmod(0o666)
        daemon.socket.parent.chmod(0o711)
        with Somebody(daemon, ANN) as ann:
            (job,) = ann.submit({"name": "a", "command": "true"}, cwd="/")
        daemon.wait(job)
        assert shown(daemon, ANN, job) == []
        assert [line.split()[0] for line in shown(daemon, 0, job)] == ["stdout", "stderr"]
