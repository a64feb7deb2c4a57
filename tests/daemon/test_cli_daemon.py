"""`up` and `down`: a daemon of one's own, started once, stopped when idle, and never somebody else's."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.daemon import PERSONAL, ROOT, Daemon, eventually
from runners import own_daemon, paths, transport
from runners.cli import main
from runners.client import Client

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place of one's own, with a path short enough for a socket."""
    return tmp_path_factory.mktemp("h")


@pytest.fixture
def cli(home: Path) -> Iterator[Cli]:
    """`runners-client` of a user with nothing but this home; a daemon left behind is stopped."""
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RUNNERS_", "XDG_"))},
        "PYTHONPATH": os.pathsep.join([str(ROOT / "client"), str(ROOT / "scheduler")]),
        "HOME": str(home),
        "RUNNERS_STATE_DIR": str(home / "state"),
        "RUNNERS_SOCKET": str(home / "s"),
        "RUNNERS_CONFIG": str(home / "runnersd.yml"),
        "RUNNERS_LOCK_DIR": str(home / "locks"),
    }
    (home / "runnersd.yml").write_text("jobs: {min_free_disk: 64MiB}\n")

    def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "runners.cli", *words], env={**env, **variables}, capture_output=True, text=True,
            timeout=90, check=False, cwd=home,
        )  # fmt: skip

    yield run
    run("down", "--now")


def test_up_starts_one_and_down_stops_it(cli: Cli, home: Path) -> None:
    done = cli("up")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("runnersd ") and " started: pid " in done.stdout
    pid = int(done.stdout.split("pid ")[1].split(",")[0])
    assert os.getsid(pid) == pid
    again = json.loads(cli("up", "--json").stdout)
    assert (again["pid"], again["state"]) == (pid, "already up")
    assert "serving" in (home / "state" / "runnersd.log").read_text()
    done = cli("down")
    assert done.returncode == 0, done.stderr
    assert f"pid {pid}" in done.stdout
    eventually("it is reaped", lambda: not _runs(pid))
    assert cli("status").returncode == 3
    assert cli("down").returncode == 3
    assert cli("up", "--json").returncode == 0


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_up_starts_ones_own_where_the_machines_is_for_others(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machines, connect = str(home / "machines"), transport.connect

    def refused(path: str, timeout: float) -> socket.socket:
        if path == machines:
            raise PermissionError  # as the kernel says to whoever is not in the socket's group, and is not root
        return connect(path, timeout)

    for name in ("RUNNERS_SOCKET", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RUNNERS_STATE_DIR", str(home / "state"))
    monkeypatch.setenv("RUNNERS_LOCK_DIR", str(home / "locks"))
    monkeypatch.setenv("RUNNERS_CONFIG", str(home / "runnersd.yml"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "client"), str(ROOT / "scheduler")]))
    (home / "runnersd.yml").write_text("jobs: {min_free_disk: 64MiB}\n")
    monkeypatch.setattr(os, "geteuid", lambda: 61003)
    monkeypatch.setattr(paths, "SYSTEM_SOCKET", machines)
    monkeypatch.setattr(transport, "connect", refused)
    monkeypatch.setattr(own_daemon, "program", lambda: [sys.executable, str(PERSONAL)])
    assert main.run(["status"]) == 4
    assert capsys.readouterr().err.endswith("or start your own with `runners-client up`\n")
    assert main.run(["up"]) == 0
    try:
        assert main.run(["up", "--json"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["state"] == "already up"
        assert main.run(["status"]) == 0
    finally:
        assert main.run(["down", "--now"]) == 0


def test_two_at_once_start_one(home: Path, cli: Cli) -> None:
    first, second = (
        subprocess.Popen(
            [sys.executable, "-m", "runners.cli", "up", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "client"), str(ROOT / "scheduler")]),
                 "RUNNERS_STATE_DIR": str(home / "state"), "RUNNERS_SOCKET": str(home / "s"),
                 "RUNNERS_CONFIG": str(home / "runnersd.yml"), "RUNNERS_LOCK_DIR": str(home / "locks")},
        )
        for _ in range(2)
    )  # fmt: skip
    said = [child.communicate(timeout=90) for child in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], said
    assert len({json.loads(out)["pid"] for out, _err in said}) == 1


def test_down_refuses_while_jobs_run_and_names_them(cli: Cli, home: Path) -> None:
    cli("up")
    id = int(cli("run", "-d", "--name", "training", "--", "sleep", "100").stdout)
    done = cli("down")
    assert done.returncode == 2
    assert f"\n  {id} training (" in done.stderr
    assert "down --now" in done.stderr
    client = Client(str(home / "s"))
    eventually("it runs", lambda: client.job(id)["state"] == "running")
    done = cli("down", "--now")
    assert done.returncode == 0, done.stderr
    cli("up")
    assert client.job(id)["state"] == "cancelled"


def test_a_daemon_that_cannot_start_says_why(cli: Cli, home: Path) -> None:
    (home / "runnersd.yml").write_text("jobs: {max_runing: 3}\n")
    done = cli("up")
    assert done.returncode == 1
    assert "cannot start a daemon: it ended with code 2" in done.stderr
    assert "max_runing" in done.stderr
    assert "runnersd.log" in done.stderr
    assert "Traceback" not in done.stderr
    (home / "state" / "runnersd.log").unlink()
    (home / "state").rmdir()
    (home / "state").write_text("in the way")
    done = cli("up")
    assert done.returncode == 1
    assert done.stderr.startswith("runners-client: cannot start a daemon: ")


def test_one_without_standard_streams_serves_and_ends_well(tmp_path: Path) -> None:
    closing = tmp_path / "closing"
    closing.write_text(f'#!/bin/sh\nexec {sys.executable} "$@" <&- >&- 2>&-\n')
    closing.chmod(0o755)
    daemon = Daemon(tmp_path / "d")
    daemon.python = str(closing)
    with daemon:
        assert daemon.run("run", "--", "echo", "hello").stdout == b"hello\n"
        assert daemon.kill(signal.SIGTERM) == 0


def test_a_daemon_that_dies_is_started_again(cli: Cli) -> None:
    pid = json.loads(cli("up", "--json").stdout)["pid"]
    os.kill(pid, signal.SIGKILL)
    eventually("it is gone", lambda: not _runs(pid))
    done = json.loads(cli("up", "--json").stdout)
    assert done["state"] == "started"
    assert done["pid"] != pid


def test_without_what_the_daemon_needs_it_says_how_to_get_it(home: Path) -> None:
    """A plain install is the client alone."""
    plain = "import sys; sys.modules['uvloop'] = None; from runnersd.__main__ import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", plain, "--state-dir", home / "state"], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "client"), str(ROOT / "scheduler")])},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "runnersd: cannot start: uvloop is missing; `pip install 'runnersd[daemon]'` brings it\n"
