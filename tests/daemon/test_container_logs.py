"""What container jobs write: every byte, to its own stream, while it runs and after, over restarts of the daemon."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from daemon.containers import Lab

PIPE = subprocess.PIPE


@pytest.fixture
def follow(lab: Lab) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts `runners-client logs -f`; what the test leaves of it is ended."""
    children: list[subprocess.Popen[bytes]] = []

    def start(id: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "runners.cli", "logs", "-f", str(id)]
        children.append(
            subprocess.Popen(command, env=lab.daemon.env, stdout=PIPE, stderr=PIPE, stdin=subprocess.DEVNULL)
        )
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.communicate()


def test_each_stream_has_its_own_descriptor_and_every_byte(lab: Lab) -> None:
    blob, other = os.urandom(2_500_000), os.urandom(300_000)
    (lab.daemon.folder / "a").write_bytes(blob)
    (lab.daemon.folder / "b").write_bytes(other)
    (job,) = lab.run({"name": "a", "command": "cat a & cat b >&2; wait"})
    done = lab.daemon.run("logs", str(job["id"]))
    assert (len(done.stdout), len(done.stderr)) == (len(blob), len(other))
    assert (done.stdout == blob, done.stderr == other) == (True, True)


def test_many_lines_and_long_ones_are_whole(lab: Lab) -> None:
    many, long, unended = lab.run(
        {"name": "many", "command": "seq -w 200000"},
        {"name": "long", "command": "head -c 1048576 /dev/zero | tr '\\0' x; echo; echo after"},
        {"name": "unended", "command": "printf 'no newline'"},
    )
    assert lab.out(many["id"]) == "".join(f"{n:06}\n" for n in range(1, 200_001))
    assert lab.out(long["id"]) == "x" * 1_048_576 + "\nafter\n"
    assert lab.out(unended["id"]) == "no newline"


@pytest.mark.slow
def test_what_is_written_faster_than_it_can_be_read_is_whole(lab: Lab) -> None:
    """The container has ended long before the engine has handed its output over."""
    (id,) = lab.submit({"name": "a", "command": "seq 1000000"})
    (job,) = lab.daemon.wait(id, patience=300)
    assert job["state"] == "succeeded"
    assert lab.out(id) == "".join(f"{n}\n" for n in range(1, 1_000_001))


def test_output_comes_while_it_runs(lab: Lab, follow: Callable[..., subprocess.Popen[bytes]]) -> None:
    (id,) = lab.submit(
        {"name": "a", "command": "echo one; echo err >&2; while [ ! -e gate ]; do sleep 0.02; done; echo two"}
    )
    lab.until_out(id, "one")
    child = follow(id)
    assert child.stdout is not None and child.stderr is not None
    assert (child.stdout.readline(), child.stderr.readline()) == (b"one\n", b"err\n")
    (lab.daemon.folder / "gate").touch()
    assert child.communicate(timeout=30) == (b"two\n", b"")
    assert child.returncode == 0


def test_output_over_the_limit_is_cut_and_said(lab: Lab) -> None:
    with lab.configured(jobs={"log_max": "64KiB"}):
        (job,) = lab.run({"name": "a", "command": "seq 20000; echo err >&2"})
    out = lab.out(job["id"])
    assert out.startswith("1\n2\n3\n") and out.endswith("[runners: cut here, at 65536 bytes]\n")
    assert len(out) < 66_000
    assert lab.daemon.run("logs", str(job["id"])).stderr == b"err\n"
    assert job["state"] == "succeeded"
