"""A daemon that does not answer: whoever looks is told soon, and what to do."""

from __future__ import annotations

import importlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.daemon import Daemon
from runners.cli.main import run
from runners.endpoint import LOOKING


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path) as daemon:
        assert daemon.process is not None
        daemon.submit({"name": "a", "command": ["true"]})
        os.kill(daemon.process.pid, signal.SIGSTOP)
        yield daemon
        os.kill(daemon.process.pid, signal.SIGCONT)
        daemon.answers()


@pytest.mark.parametrize("words", ["status", "status --json", "show 1", "gpus"])
def test_who_looks_at_a_stopped_daemon_is_told_so(
    words: str, stopped: Daemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = importlib.import_module(f"runners.cli.{words.split()[0]}")
    assert command.LOOKING == LOOKING == 10.0
    monkeypatch.setattr(command, "LOOKING", 1.0)
    begin = time.monotonic()
    assert run([*words.split(), "--socket", str(stopped.socket)]) == 1
    assert time.monotonic() - begin < 5.0
    assert stopped.process is not None
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        f"runners-client: cannot get an answer from {stopped.socket}: nothing came for 1 s; "
        f"the daemon's process {stopped.process.pid} is stopped; `kill -CONT {stopped.process.pid}` lets it go on\n"
    )
