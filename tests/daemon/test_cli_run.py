"""`run` and `logs`: the job's bytes, signals and exit code are the client's, and nothing before its start is."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.daemon import Daemon, eventually

PIPE = subprocess.PIPE


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for the module; at most two jobs at once, so that some wait."""
    with Daemon(tmp_path_factory.mktemp("run"), config={"jobs": {"max_running": 2}}) as one:
        yield one


@pytest.fixture
def begin(daemon: Daemon) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts `runners-client`; what the test leaves of it and of the jobs is ended."""
    children: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "runners.cli", *words]
        children.append(subprocess.Popen(command, env=daemon.env, stdout=PIPE, stderr=PIPE, stdin=subprocess.DEVNULL))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.communicate()
    for job in daemon.client().jobs(states=("queued", "held", "starting", "running")):
        daemon.client().cancel(job["id"], now=True)
        daemon.wait(job["id"])


def newest(daemon: Daemon) -> int:
    return next(daemon.client().jobs(limit=1))["id"]


def line(child: subprocess.Popen[bytes]) -> bytes:
    assert child.stdout is not None
    return child.stdout.readline()


@pytest.mark.parametrize("code", [0, 1, 3, 125, 255])
def test_the_exit_code_is_the_jobs(daemon: Daemon, code: int) -> None:
    assert daemon.run("run", "--", "sh", "-c", f"exit {code}").returncode == code


def test_a_signal_is_128_and_its_number(daemon: Daemon) -> None:
    assert daemon.run("run", "sh", "-c", "kill -9 $$").returncode == 137


def test_each_stream_has_its_own_descriptor_and_every_byte(daemon: Daemon, tmp_path: Path) -> None:
    blob, other = os.urandom(2_500_000), os.urandom(300_000)
    (tmp_path / "a").write_bytes(blob)
    (tmp_path / "b").write_bytes(other)
    done = daemon.run("run", "--", "sh", "-c", "cat a & cat b >&2; wait", cwd=tmp_path)
    assert (done.returncode, done.stdout == blob, done.stderr == other) == (0, True, True)
    id = str(newest(daemon))
    for words in ([], ["-f"]):
        again = daemon.run("logs", id, *words)
        assert (again.returncode, again.stdout == blob, again.stderr == other) == (0, True, True)


def test_words_arrive_as_they_were_given(daemon: Daemon) -> None:
    words = ["a b", "", "--json", "$HOME", "'\"", "ü\n"]
    done = daemon.run("run", "--", sys.executable, "-c", "import sys; print(ascii(sys.argv[1:]))", *words)
    assert done.stdout.decode().strip() == ascii(words)


def test_output_comes_while_it_runs(begin: Callable[..., subprocess.Popen[bytes]], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    child = begin("run", "--", "sh", "-c", f"echo one; while [ ! -e {gate} ]; do sleep 0.02; done; echo two")
    assert line(child) == b"one\n"
    gate.touch()
    assert line(child) == b"two\n"
    assert child.wait(30) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gpus", "99"], b"num_gpus"),
        (["--time-limit", "soon"], b"time_limit"),
        (["--cpus", "many"], b"cpus"),
        (["--gpu-memory", "lots", "--gpus", "1"], b"gpu_memory"),
        (["--gpu-memory", "1GiB"], b"asks for 1 card"),
        (["--gpu-capability", "8.0"], b"asks for 1 card"),
        (["--gpu-capability", "sm_90", "--gpus", "1"], b"gpu_capability"),
        (["--name", "not a name"], b"name"),
        (["--socket", "/nowhere/s"], b"runners-client up"),
    ],
)
def test_a_failure_before_the_start_is_125(daemon: Daemon, words: list[str], said: bytes) -> None:
    done = daemon.run("run", *words, "--", "true")
    assert done.returncode == 125
    assert said in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_program_that_is_not_there_is_125(daemon: Daemon) -> None:
    done = daemon.run("run", "--", "no-such-program-anywhere")
    assert done.returncode == 125
    assert b"no-such-program-anywhere" in done.stderr


def test_a_time_limit_ends_it_and_is_said(daemon: Daemon) -> None:
    done = daemon.run("run", "-t", "1s", "--", "sleep", "60")
    assert done.returncode == 143
    assert b"time limit" in done.stderr


def test_detached_prints_the_id_and_leaves(daemon: Daemon) -> None:
    done = daemon.run("run", "-d", "--name", "aside", "--", "sh", "-c", "echo hi")
    id = int(done.stdout)
    job = daemon.wait(id)[0]
    assert (job["name"], job["state"]) == ("aside", "succeeded")
    document = json.loads(daemon.run("run", "-d", "--json", "--", "true").stdout)
    assert document["jobs"][0]["name"] == "true"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_is_passed_on(begin: Callable[..., subprocess.Popen[bytes]], number: signal.Signals) -> None:
    script = (
        "import signal, sys, time\n"
        f"signal.signal({int(number)}, lambda n, f: (print('got', n, flush=True), sys.exit(40)))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    child = begin("run", "--", sys.executable, "-c", script)
    assert line(child) == b"ready\n"
    child.send_signal(number)
    assert child.communicate(timeout=30)[0] == f"got {int(number)}\n".encode()
    assert child.returncode == 40


def test_the_second_interrupt_cancels_and_the_third_kills(
    daemon: Daemon, begin: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """A job that will not hear."""
    script = (
        "import signal, time\n"
        "for n in (2, 15): signal.signal(n, lambda n, f: print('heard', n, flush=True))\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(1)\n"
    )
    child = begin("run", "--", sys.executable, "-c", script)
    assert line(child) == b"ready\n"
    child.send_signal(signal.SIGINT)
    assert line(child) == b"heard 2\n"
    child.send_signal(signal.SIGINT)
    assert line(child) == b"heard 15\n"
    child.send_signal(signal.SIGINT)
    assert child.wait(30) == 137
    assert daemon.job(newest(daemon))["state"] == "cancelled"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_end_of_the_client_is_the_jobs(
    daemon: Daemon, begin: Callable[..., subprocess.Popen[bytes]], number: signal.Signals
) -> None:
    child = begin("run", "--", "sh", "-c", "trap 'echo bye; exit 9' TERM; echo ready; while :; do sleep 0.05; done")
    assert line(child) == b"ready\n"
    child.send_signal(number)
    assert child.communicate(timeout=30)[0] == b"bye\n"
    assert child.returncode == 9
    assert daemon.job(newest(daemon))["state"] == "cancelled"


def test_an_interrupt_takes_a_queued_job_back(daemon: Daemon, begin: Callable[..., subprocess.Popen[bytes]]) -> None:
    daemon.submit({"name": "x", "command": "sleep 60"}, {"name": "y", "command": "sleep 60"})
    child = begin("run", "--name", "waiting", "--", "true")
    found = eventually(
        "it waits", lambda: [job["id"] for job in daemon.client().jobs(states=["queued"]) if job["name"] == "waiting"]
    )
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert child.returncode == 130
    assert daemon.job(found[0])["state"] == "cancelled"


def test_a_job_cancelled_by_another_while_queued_is_125(
    daemon: Daemon, begin: Callable[..., subprocess.Popen[bytes]]
) -> None:
    daemon.submit({"name": "x", "command": "sleep 60"}, {"name": "y", "command": "sleep 60"})
    child = begin("run", "--name", "waiting", "--", "true")
    found = eventually(
        "it waits", lambda: [job["id"] for job in daemon.client().jobs(states=["queued"]) if job["name"] == "waiting"]
    )
    daemon.client().cancel(found[0])
    said = child.communicate(timeout=30)[1]
    assert child.returncode == 125
    assert b"cancelled" in said


def test_a_reader_that_leaves_ends_the_job(daemon: Daemon, begin: Callable[..., subprocess.Popen[bytes]]) -> None:
    child = begin("run", "--", "yes")
    assert line(child) == b"y\n"
    assert child.stdout is not None
    child.stdout.close()
    assert child.wait(30) == 141
    assert daemon.wait(newest(daemon))[0]["state"] == "cancelled"
    assert child.stderr is not None
    assert child.stderr.read() == b""


def test_kill_9_of_the_client_leaves_the_job(daemon: Daemon, begin: Callable[..., subprocess.Popen[bytes]]) -> None:
    child = begin("run", "--", "sh", "-c", "echo ready; exec sleep 60")
    assert line(child) == b"ready\n"
    child.kill()
    child.wait(30)
    assert daemon.job(newest(daemon))["state"] == "running"


def test_logs_tail_attempts_and_what_is_wrong(daemon: Daemon, tmp_path: Path) -> None:
    count = tmp_path / "count"
    script = f"echo x >> {count}; echo try $(wc -l < {count}); echo end; echo bad >&2; [ $(wc -l < {count}) -ge 2 ]"
    [id] = daemon.submit({"name": "twice", "command": script, "retries": 1, "retry_delay": "0s"})
    daemon.wait(id)
    assert daemon.run("logs", str(id)).stdout == b"try 2\nend\n"
    assert daemon.run("logs", str(id), "--attempt", "1").stdout == b"try 1\nend\n"
    assert daemon.run("logs", str(id), "-n1").stdout == b"end\n"
    assert daemon.run("logs", str(id), "-n0").stdout == b""
    assert daemon.run("logs", str(id)).stderr == b"bad\n"
    for words in (["--attempt", "3"], ["--attempt", "0"], ["--tail", "-1"]):
        done = daemon.run("logs", str(id), *words)
        assert (done.returncode, done.stdout) == (2, b""), words
        assert b"cannot" in done.stderr


def test_logs_of_a_job_between_two_attempts(daemon: Daemon, begin: Callable[..., subprocess.Popen[bytes]]) -> None:
    [id] = daemon.submit({"name": "again", "command": "echo said; exit 1", "retries": 1, "retry_delay": "1h"})
    eventually("the first attempt has failed", lambda: daemon.job(id)["reason"]["code"] == "retry_delay")
    assert daemon.run("logs", str(id)).stdout == b"said\n"
    child = begin("logs", "-f", str(id))
    assert line(child) == b"said\n"
    daemon.client().cancel(id)
    assert child.communicate(timeout=30)[0] == b""
    assert child.returncode == 0


def test_logs_of_a_job_that_has_not_begun(daemon: Daemon) -> None:
    [id] = daemon.submit({"name": "later", "command": "true"}, hold=True)
    done = daemon.run("logs", str(id))
    assert done.returncode == 2
    assert b"held" in done.stderr
    daemon.client().cancel(id)
    assert daemon.run("logs", "-f", str(id)).returncode == 0


def test_logs_follow_waits_for_the_start_and_goes_over_attempts(
    daemon: Daemon, begin: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    count = tmp_path / "count"
    script = f"echo x >> {count}; echo try $(wc -l < {count}); [ $(wc -l < {count}) -ge 3 ]"
    [id] = daemon.submit({"name": "thrice", "command": script, "retries": 5, "retry_delay": "0s"}, hold=True)
    child = begin("logs", "-f", str(id))
    assert child.stderr is not None
    assert b"is held" in child.stderr.readline()
    daemon.client().release(id)
    assert child.communicate(timeout=30)[0] == b"try 1\ntry 2\ntry 3\n"
    assert child.returncode == 0


def test_a_terminal_that_is_closed_ends_the_job_also_before_its_signal_comes(daemon: Daemon) -> None:
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "runners.cli", "run", "--", "yes"]
    # It is nobody's controlling terminal, so no SIGHUP follows.
    with subprocess.Popen(command, env=daemon.env, stdin=subprocess.DEVNULL, stdout=its, stderr=PIPE) as child:
        os.close(its)
        assert os.read(ours, 1) == b"y"
        os.close(ours)
        said = child.communicate(timeout=30)[1]
    assert (child.returncode, said) == (141, b"")
    assert daemon.wait(newest(daemon))[0]["state"] == "cancelled"
