"""`runners-client` as a program: exit codes, where complaints go, which socket is asked, and what it costs to start."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runners import paths
from runners.cli.commands import COMMANDS

from .conftest import ROOT, Responder, gpu_view, job_view, response, status_view

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def test_no_command_is_a_wrong_request(cli: Cli) -> None:
    done = cli()
    assert done.returncode == 2
    assert done.stdout == ""
    assert "usage: runners-client COMMAND" in done.stderr


def test_help_and_version(cli: Cli) -> None:
    assert "usage: runners-client COMMAND" in cli("--help").stdout
    assert cli("help", "submit").stdout == cli("submit", "--help").stdout
    assert cli("--version").stdout.startswith("runners-client ")


@pytest.mark.parametrize(
    ("words", "near"), [(["statsu"], "status"), (["lgos", "3"], "logs"), (["--sokcet", "x", "status"], "--socket")]
)
def test_what_is_misspelt_names_the_nearest(cli: Cli, words: list[str], near: str) -> None:
    done = cli(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("runners-client: cannot ")
    assert f"did you mean {near}?" in done.stderr


def test_a_socket_without_its_path_is_said_to_lack_it(cli: Cli) -> None:
    done = cli("--socket")
    assert done.returncode == 2
    assert "--socket needs a value: PATH" in done.stderr


#: Words with which each command gets as far as the daemon.
ARGUMENTS = {
    "submit": ["job.yml"],
    "sweep": ["sweep.yml"],
    "run": ["--", "true"],
    "show": ["1"],
    "logs": ["1"],
    "wait": ["1"],
    "cancel": ["1"],
    "hold": ["1"],
    "release": ["1"],
    "retry": ["1"],
    "priority": ["1", "2"],
    "update": ["1", "name=x"],
    "drain": ["0"],
    "undrain": ["0"],
    "plot": ["1"],
}
NEEDS_NONE = {"validate", "up", "completion", "caches"}


@pytest.mark.parametrize("name", [command.name for command in COMMANDS if command.name not in NEEDS_NONE])
def test_without_a_daemon_every_command_exits_3_and_names_up(cli: Cli, tmp_path: Path, name: str) -> None:
    (tmp_path / "job.yml").write_text("command: 'true'\n")
    (tmp_path / "sweep.yml").write_text(f"info: {{output_folder: '{tmp_path}/x'}}\nseed: 0\nsweep: [{{seed: [1]}}]\n")
    done = cli("--socket", "/nowhere/s", name, *ARGUMENTS.get(name, []), cwd=tmp_path)
    assert done.returncode == (125 if name == "run" else 3)
    assert done.stdout == ""
    assert "nothing answers on /nowhere/s" in done.stderr
    assert "runners-client up" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_is_125_also_for_wrong_words(cli: Cli) -> None:
    assert cli("run", "--gpus", "two", "--", "true").returncode == 125


def test_a_working_directory_that_is_gone_is_told(responder: Responder, tmp_path: Path) -> None:
    (tmp_path / "job.yml").write_text("command: 'true'\n")
    env = {**os.environ, "PYTHONPATH": str(ROOT / "client"), "RUNNERS_SOCKET": str(responder.path)}
    for words, code in ((["submit", str(tmp_path / "job.yml")], 2), (["run", "--", "true"], 125)):
        gone = tmp_path / "gone"
        gone.mkdir()
        command = ["sh", "-c", 'rmdir "$PWD"; exec "$@"', "sh", sys.executable, "-m", "runners.cli", *words]
        done = subprocess.run(command, cwd=gone, env=env, capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode, done.stdout) == (code, "")
        assert "the working directory is gone" in done.stderr


def test_a_socket_that_may_not_be_used_is_exit_4(
    tmp_path_factory: pytest.TempPathFactory, responder: Responder
) -> None:
    """As a stranger: root is nobody's stranger, so the child becomes one."""
    responder.path.chmod(0o600)
    code = (
        "import os,sys\n"
        f"sys.path.insert(0, {str(ROOT / 'client')!r})\n"
        "from runners.cli import main, commands, options, status\n"
        "from runners import client, refusals\n"
        "import grp\n"
        "os.getuid() == 0 and os.setuid(65534)\n"
        f"sys.exit(main.run(['status', '--socket', {str(responder.path)!r}]))\n"
    )
    for folder in (responder.path.parent, *responder.path.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o111)
    if os.getuid() != 0:
        responder.path.chmod(0o000)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 4, done.stderr
    assert "permission denied" in done.stderr
    assert done.stdout == ""


def test_the_group_to_ask_for_is_named(monkeypatch: pytest.MonkeyPatch, responder: Responder) -> None:
    import grp

    from runners.client import Client
    from runners.errors import NotAllowed

    other = next((group for group in grp.getgrall() if group.gr_gid), None)
    if os.getuid() != 0 or other is None:
        other = grp.getgrgid(os.getgid())
    os.chown(responder.path, -1, other.gr_gid)
    monkeypatch.setattr("runners.transport.connect", _refuse)
    with pytest.raises(NotAllowed, match=f"group `{other.gr_name}`|only root"):
        Client(str(responder.path)).health()


def _refuse(path: str, timeout: float) -> None:
    raise PermissionError(13, "Permission denied", path)


def test_the_first_socket_that_answers_is_asked(
    cli: Cli, responder: Responder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """--socket, else $RUNNERS_SOCKET, else the user's own if it answers."""
    responder.will(response(status_view([job_view(1, "running", name="found")])))
    assert "found" in cli("status", "--socket", str(responder.path)).stdout
    assert "found" in cli("--socket", str(responder.path), "status").stdout
    assert "found" in cli(f"--socket={responder.path}", "status").stdout
    monkeypatch.setenv("RUNNERS_SOCKET", str(responder.path))
    assert "found" in cli("status").stdout
    assert cli("status", "--socket", "/nowhere/s").returncode == 3
    monkeypatch.setenv("RUNNERS_SOCKET", "/nowhere/t")
    assert cli("status").returncode == 3


@pytest.mark.parametrize("uid", [0, 1000])
def test_where_things_are(uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    for name in ("RUNNERS_SOCKET", "RUNNERS_STATE_DIR", "RUNNERS_CONFIG", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    monkeypatch.setenv("HOME", "/home/ann")
    system = "/run/runners/runnersd.sock"
    if uid == 0:
        assert paths.candidate_sockets() == (system,)
        assert paths.state_dir() == "/var/lib/runners"
        assert paths.config_file() == "/etc/runners/runnersd.yml"
        return
    state = "/home/ann/.local/state/runners"
    assert paths.candidate_sockets() == ("/run/user/1000/runners/runnersd.sock", f"{state}/runnersd.sock", system)
    assert paths.state_dir() == state
    assert paths.config_file() == "/home/ann/.config/runners/runnersd.yml"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert paths.candidate_sockets() == ("/s/runners/runnersd.sock", system)
    assert paths.config_file() == "/home/ann/.config/runners/runnersd.yml"
    monkeypatch.setenv("RUNNERS_SOCKET", "/e")
    assert paths.candidate_sockets() == ("/e",)
    assert paths.candidate_sockets("/c") == ("/c",)


def test_a_reader_that_has_seen_enough_is_no_error(cli: Cli, responder: Responder) -> None:
    responder.will(response(status_view([job_view(number, "queued", name="x" * 200) for number in range(1, 3000)])))
    reading, writing = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-m", "runners.cli", "status", "--socket", str(responder.path)],
        stdout=writing, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(writing)
    assert os.read(reading, 10)
    os.close(reading)
    assert child.communicate(timeout=30)[1] == ""


def test_json_is_the_daemons_document(cli: Cli, responder: Responder) -> None:
    view = status_view([job_view(1, "queued")], [gpu_view(0)])
    responder.will(response(view))
    done = cli("status", "--json", "--socket", str(responder.path))
    assert json.loads(done.stdout) == view
    assert done.stdout.count("\n") == 1
    assert "limit" not in responder.lines()[0]


def test_the_table_asks_for_50_rows_unless_told(cli: Cli, responder: Responder) -> None:
    responder.will(response(status_view([])))
    cli("status", "--socket", str(responder.path))
    cli("status", "--limit", "7", "--all", "--mine", "3", "p4", "--json", "--socket", str(responder.path))
    assert responder.lines() == [
        "GET /v1/status?limit=50 HTTP/1.1",
        "GET /v1/status?ids=3,p4&all=1&mine=1&limit=7 HTTP/1.1",
    ]
    assert cli("status", "--limit", "0", "--socket", str(responder.path)).returncode == 2
    assert cli("status", "--watch", "--json", "--socket", str(responder.path)).returncode == 2


def test_an_encoding_without_our_signs_is_no_error(responder: Responder, monkeypatch: pytest.MonkeyPatch) -> None:
    responder.will(response(status_view([job_view(1, "failed", user="zoë 日本")])))
    for encoding in ("ascii", "latin-1", "utf-8"):
        monkeypatch.setenv("PYTHONIOENCODING", encoding)
        done = subprocess.run(
            [sys.executable, "-m", "runners.cli", "status", "--socket", str(responder.path)],
            env={**os.environ, "PYTHONPATH": str(ROOT / "client")}, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_lead_nowhere(responder: Responder, closed: str) -> None:
    responder.will(response(status_view([job_view(1, "running")])))
    for words in (["status"], ["status", "--json"], ["--version"], ["help"]):
        command = [sys.executable, "-m", "runners.cli", *words]
        done = subprocess.run(
            ["sh", "-c", f'"$@" {closed}', "sh", *command],
            env={**os.environ, "PYTHONPATH": str(ROOT / "client"), "RUNNERS_SOCKET": str(responder.path)},
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), words
        assert (done.stdout == "") == (" >&-" in f" {closed}"), words


def test_what_is_started_without_streams_has_them_too(tmp_path: Path) -> None:
    """Else the first file that it opens would be taken for one of them."""
    open_ = f"import os; [os.fstat(number) for number in (0, 1, 2)]; open({str(tmp_path / 'all')!r}, 'w').close()"
    starts = "import subprocess, sys; from runners.standard_streams import open_closed_streams; open_closed_streams()"
    program = f"{starts}; sys.exit(subprocess.call([sys.executable, '-c', {open_!r}]))"
    done = subprocess.run(
        ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT / "client")}, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert (tmp_path / "all").exists()


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colour_on_a_terminal_obeys_no_color(responder: Responder, variables: dict[str, str], coloured: bool) -> None:
    responder.will(response(status_view([job_view(1, "running")], [gpu_view(0)])))
    env = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    env |= {"TERM": "xterm", "PYTHONPATH": str(ROOT / "client"), "PYTHONIOENCODING": "utf-8", **variables}
    shown = on_a_terminal([sys.executable, "-m", "runners.cli", "status", "--socket", str(responder.path)], env)
    assert "Running 1" in shown.replace("\x1b[0m\x1b[2m", "").replace("\x1b[0m", "")
    assert ("\x1b[" in shown) is coloured


def on_a_terminal(command: list[str], env: dict[str, str]) -> str:
    """What a program shows on a terminal of 100 columns."""
    ours, its = pty.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    child = subprocess.Popen(command, env=env, stdin=its, stdout=its, stderr=its)
    os.close(its)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the terminal's other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    assert child.wait(30) == 0
    return shown.decode()


def test_status_in_a_pipe_loads_no_more_than_it_uses(responder: Responder) -> None:
    responder.will(response(status_view([job_view(1, "running")], [gpu_view(0)])))
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'client')!r}); before = set(sys.modules)\n"
        "from runners.cli.main import run\n"
        f"assert run(['status', '--socket', {str(responder.path)!r}]) == 0\n"
        "print(*sorted(set(sys.modules) - before), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=30)
    loaded = set(done.stderr.split())
    forbidden = {
        "asyncio", "aiohttp", "aiodocker", "comet_ml", "zarr", "numpy", "pynvml", "rich", "yaml", "argparse", "typing",
        "dataclasses", "http", "http.client", "email", "ssl", "urllib", "subprocess", "difflib", "inspect", "logging",
        "runners.api", "runners.errors", "runners.render.status", "runners.pipeline", "tempfile", "threading",
    }  # fmt: skip
    assert not loaded & forbidden
    assert {name for name in loaded if name.startswith("runners")} == {
        "runners", "runners.cli", "runners.cli.commands", "runners.cli.main", "runners.cli.options",
        "runners.cli.status", "runners.client", "runners.endpoint", "runners.paths", "runners.render", "runners.render.lines",
        "runners.render.plain", "runners.render.terminal", "runners.render.words", "runners.transport",
    }  # fmt: skip


def test_a_full_disk_is_said_and_is_exit_1() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "runners.cli", "--help"], stdout=full, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "client")}, timeout=30, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "runners-client: cannot write: No space left on device\n")
