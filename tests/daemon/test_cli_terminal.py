"""What a person sees: `runners-client` on a pseudo-terminal, against a real daemon."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.daemon import PATIENCE, Daemon, eventually
from runners.render.lines import width

_ESCAPE = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07)")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for the module, which runs one job at a time."""
    with Daemon(tmp_path_factory.mktemp("tty"), config={"jobs": {"max_running": 1}}) as one:
        yield one


class Terminal:
    """A program on a terminal of its own: what it shows, and keys typed into it."""

    def __init__(
        self,
        daemon: Daemon,
        *words: str,
        columns: int = 100,
        rows: int = 30,
        cwd: Path | None = None,
        term: str = "xterm-256color",
    ) -> None:
        self._ours, its = os.openpty()
        self.resize(columns, rows)
        self.before = termios.tcgetattr(its)
        self._its = its
        env = {name: value for name, value in daemon.env.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
        env |= {"TERM": term, "PYTHONIOENCODING": "utf-8"}
        self.child = subprocess.Popen(
            [sys.executable, "-m", "runners.cli", *words], env=env, stdin=its, stdout=its, stderr=its,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0), cwd=cwd,
        )  # fmt: skip
        self.shown = ""

    def resize(self, columns: int, rows: int) -> None:
        """The window changes its size."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: str) -> None:
        """Keys of the person."""
        os.write(self._ours, keys.encode())

    def until(self, text: str) -> str:
        """Read until this has been shown; all that was."""
        end = time.monotonic() + PATIENCE
        self._read(0)
        while text not in self.plain:
            assert time.monotonic() < end, f"{text!r} was not shown: {self.plain[-2000:]!r}"
            self._read(0.1)
        return self.plain

    def end(self) -> int:
        """Wait for the program's end, and read the rest; its exit code."""
        end = time.monotonic() + PATIENCE
        while self.child.poll() is None:
            assert time.monotonic() < end, f"it does not end: {self.plain[-2000:]!r}"
            self._read(0.05)
        self._read(0)
        self.after = termios.tcgetattr(self._its)
        return self.child.returncode

    def close(self) -> None:
        """End it, whatever it does."""
        self.child.kill()
        self.child.wait()
        for one in (self._its, self._ours):
            os.close(one)

    @property
    def plain(self) -> str:
        """What was shown, without colours and movements."""
        return _ESCAPE.sub("", self.shown)

    def _read(self, timeout: float) -> None:
        while select.select([self._ours], [], [], timeout)[0]:
            self.shown += os.read(self._ours, 65536).decode(errors="replace")
            timeout = 0


Start = Callable[..., Terminal]


@pytest.fixture
def start(daemon: Daemon) -> Iterator[Start]:
    """Starts `runners-client` on a terminal; what the test leaves of it and of its jobs is ended."""
    begun: list[Terminal] = []

    def begin(*words: str, **how: Any) -> Terminal:
        begun.append(Terminal(daemon, *words, **how))
        return begun[-1]

    yield begin
    for one in begun:
        one.close()
    left = [job["id"] for job in daemon.client().jobs(states=("queued", "held", "starting", "running"))]
    for id in left:
        daemon.client().cancel(id, now=True)
    if left:
        daemon.wait(*left)


def test_status_fits_its_columns(daemon: Daemon, start: Start) -> None:
    name = "a-very-long-name-" * 6
    ids = daemon.submit(
        {"name": name, "command": "sleep 60"}, *({"name": f"j{n}", "command": "true"} for n in range(9))
    )
    eventually("it runs", lambda: daemon.job(ids[0])["state"] == "running")
    for columns in (80, 100, 160):
        terminal = start("status", columns=columns)
        assert terminal.end() == 0
        for line in terminal.plain.splitlines():
            assert width(line) <= columns, line
        assert "Running 1" in terminal.plain and "Queued 9" in terminal.plain
        assert "\x1b[32m" in terminal.shown


def test_show_leaves_nothing_out_on_a_small_terminal(daemon: Daemon, start: Start) -> None:
    words = "--option " * 20 + "--the-last"
    ids = daemon.submit(
        {"name": "long", "command": f"echo {words}; exit 3"}, {"name": "gone", "command": ["no-such-one"]}
    )
    daemon.wait(*ids)
    pipeline = daemon.job(ids[0])["pipeline"]
    for columns in (50, 80):
        for what, told in ((str(ids[0]), words), (pipeline, "cannot run 'no-such-one': No such program on its PATH")):
            terminal = start("show", what, columns=columns)
            assert terminal.end() == 0
            assert told in " ".join(terminal.plain.split()), terminal.plain
            assert max(map(width, terminal.plain.splitlines())) <= columns


@pytest.mark.parametrize("leave", ["q", "\x03", "signal"])
def test_watch_redraws_and_leaves_the_terminal_as_it_was(daemon: Daemon, start: Start, leave: str) -> None:
    terminal = start("status", "--watch")
    terminal.until("runners ")
    daemon.submit({"name": "appears", "command": "sleep 60"})
    terminal.until("appears")
    terminal.resize(60, 12)
    seen = len(terminal.shown)
    terminal.child.send_signal(signal.SIGWINCH)
    eventually("it redraws", lambda: terminal.until("appears") and len(terminal.shown) > seen)
    if leave == "signal":
        terminal.child.terminate()
    else:
        terminal.type(leave)
    assert terminal.end() == 0
    assert terminal.shown.startswith("\x1b[?1049h\x1b[?25l")
    assert terminal.shown.rstrip().endswith("\x1b[?25h\x1b[?1049l")
    assert terminal.after == terminal.before
    assert "Traceback" not in terminal.plain


def test_follow_draws_progress_and_leaves_what_ended(daemon: Daemon, start: Start, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    (tmp_path / "work.yml").write_text(
        "jobs:\n"
        f"- {{name: first, command: 'echo epoch 7; while [ ! -e {gate} ]; do sleep 0.02; done'}}\n"
        "- {name: second, command: exit 5, needs: [first]}\n"
    )
    terminal = start("submit", "work.yml", "--follow", cwd=tmp_path)
    terminal.until("epoch 7")
    terminal.until("next: second waits for first")
    gate.touch()
    assert terminal.end() == 1
    text = terminal.plain
    assert re.search(r"✓ +\d+  first ", text)
    assert re.search(r"✗ +\d+  second .*exited with code 5", text)
    assert "work  " in text and "2/2" in text
    assert "1 succeeded, 1 failed" in text
    assert "logs" in text.splitlines()[-1]
    assert terminal.shown.count("\x1b[?25h") == 1
    assert all(width(line) <= 100 for line in text.replace("\r", "\n").splitlines())


def test_ctrl_c_leaves_followed_jobs_running(daemon: Daemon, start: Start, tmp_path: Path) -> None:
    (tmp_path / "work.yml").write_text("{name: long, command: sleep 60}\n")
    terminal = start("submit", "work.yml", "--follow", cwd=tmp_path)
    terminal.until("1 running")
    terminal.type("\x03")
    assert terminal.end() == 130
    assert "the jobs go on" in terminal.plain
    assert terminal.shown.count("\x1b[?25h") == 1
    [job] = daemon.client().jobs(limit=1)
    assert job["state"] == "running"


def test_run_says_why_it_waits_and_hands_over_ctrl_c(daemon: Daemon, start: Start) -> None:
    [first] = daemon.submit({"name": "first", "command": "sleep 60"})
    eventually("it runs", lambda: daemon.job(first)["state"] == "running")
    terminal = start(
        "run", "--", "sh", "-c", "trap 'echo caught; exit 3' INT; echo begun; while :; do sleep 0.02; done"
    )
    terminal.until("is queued: 1 job runs")
    daemon.client().cancel(first, now=True)
    terminal.until("begun")
    assert "\r\x1b[Kbegun" in terminal.shown, "the note is gone when the job speaks"
    terminal.type("\x03")
    assert terminal.end() == 3
    assert "caught" in terminal.plain


def test_a_submission_of_many_jobs_is_short_on_a_terminal(daemon: Daemon, start: Start, tmp_path: Path) -> None:
    (tmp_path / "many.yml").write_text(
        "jobs: [{name: t, command: 'true ${{ matrix.x }}', matrix: {x: [" + ",".join(map(str, range(100))) + "]}}]\n"
    )
    terminal = start("submit", "many.yml", "--hold", cwd=tmp_path)
    assert terminal.end() == 0
    assert "many: 100 jobs" in terminal.plain
    assert "... and 80 more, up to " in terminal.plain


def test_where_no_cursor_can_be_moved_none_is(daemon: Daemon, start: Start, tmp_path: Path) -> None:
    (tmp_path / "two.yml").write_text("jobs: [{name: a, command: 'true'}, {name: b, command: 'true', needs: [a]}]\n")
    followed = start("submit", "two.yml", "--follow", cwd=tmp_path, term="dumb")
    assert followed.end() == 0
    assert "b succeeded" in followed.shown
    watched = start("status", "--watch", term="dumb")
    watched.until("b")
    watched.child.send_signal(signal.SIGINT)
    watched.end()
    daemon.submit({"name": "x", "command": "sleep 60"})
    waits = start("run", "--", "true", term="dumb")
    eventually("it waits", lambda: [*daemon.client().jobs(states=["queued"])])
    waits.child.send_signal(signal.SIGINT)
    assert waits.end() == 130
    assert "\x1b" not in followed.shown + watched.shown + waits.shown
