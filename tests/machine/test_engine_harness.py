"""The engine that tests start does what tests rely on: it runs, isolates cards, dies and comes back, and goes whole."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import BARE, CARDS, PROGRAM, SHELL, Engine, cards_are_isolated
from engine.keeper import hierarchies
from harness.daemon import eventually

FIRST, SECOND = list(CARDS)[:2]
HERE = Path(__file__).parents[1]


def groups(engine: Engine) -> list[Path]:
    """The control groups of its containers."""
    return [base / engine.group for base in hierarchies() if (base / engine.group).exists()]


def mentions(directory: Path) -> list[str]:
    """Processes started with a path in ``directory``."""
    asked = subprocess.run(["ps", "-wweo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in asked.splitlines() if f"{directory}/" in line]


def test_an_image_with_a_shell_and_one_without_run(docker_engine: Engine) -> None:
    docker_engine.import_image(
        "lab/tool:1", ["ENV WHO=lab", "USER 1234:5678", "WORKDIR /tmp"], files={"/bin/tool": "#!/bin/sh\necho $WHO\n"}
    )

    shell = docker_engine.docker("run", "--rm", SHELL, "sh", "-c", "echo out; exit 7", check=False)
    bare = docker_engine.docker("run", "--rm", BARE, PROGRAM, "exit", "9", check=False)
    bare_shell = docker_engine.docker("run", "--rm", BARE, "sh", check=False)
    tool = docker_engine.docker("run", "--rm", "lab/tool:1", "sh", "-c", "tool; id -u; id -g; pwd")

    assert (shell.returncode, shell.stdout) == (7, "out\n")
    assert (bare.returncode, bare_shell.returncode) == (9, 127)
    assert tool.stdout.split() == ["lab", "1234", "5678", "/tmp"]


@pytest.mark.skipif(not cards_are_isolated(), reason="the GPU hook needs the devices controller of cgroup version 1")
def test_a_container_opens_the_cards_it_was_given_and_no_other(docker_engine: Engine) -> None:
    made = docker_engine.docker(
        "create", "--gpus", f"device={SECOND}", SHELL, "sh", "-c",
        f"ls /dev | grep nvidia; {PROGRAM} open /dev/nvidia1; echo $?;"
        f" mknod /tmp/other c 195 0; {PROGRAM} open /tmp/other; echo $?",
    ).stdout.strip()  # fmt: skip

    said = docker_engine.docker("start", "--attach", made).stdout.split()
    unknown = docker_engine.docker("run", "--rm", "--gpus", "device=GPU-unknown", BARE, PROGRAM, check=False)

    assert said == ["nvidia1", str(errno.ENXIO), str(errno.EPERM)]
    (note,) = docker_engine.hook_calls(made)
    assert (note["visible"], note["granted"]) == ([SECOND], [SECOND])
    assert "GPU-unknown: unknown device" in unknown.stderr


def test_without_the_hook_there_is_no_gpu_path(new_docker_engine: Callable[..., Engine]) -> None:
    engine = new_docker_engine(cards=None)

    refused = engine.docker("run", "--rm", "--gpus", f"device={FIRST}", BARE, PROGRAM, check=False)

    assert "could not select device driver" in refused.stderr


def test_an_engine_with_a_bridge_connects_containers(new_docker_engine: Callable[..., Engine]) -> None:
    engine = new_docker_engine(bridge=True)
    server = engine.docker("run", "-d", SHELL, "sh", "-c", "echo hello | nc -l -p 80").stdout.strip()
    address = engine.api("GET", f"/containers/{server}/json").json["NetworkSettings"]["IPAddress"]

    got = engine.docker("run", "--rm", SHELL, "sh", "-c", f"until nc {address} 80 </dev/null; do usleep 10000; done")

    assert got.stdout == "hello\n"


def test_containers_outlive_a_killed_engine_and_are_known_to_the_next(
    new_docker_engine: Callable[..., Engine],
) -> None:
    engine = new_docker_engine(config={"live-restore": True})
    long = engine.docker("run", "-d", BARE, PROGRAM, "term", "5").stdout.strip()
    short = engine.docker("run", "-d", BARE, PROGRAM, "term", "6").stdout.strip()
    (payload,) = engine.pids(long)
    first = engine.pid

    engine.kill()
    assert "terminated" not in engine.log(), "it was not killed but asked"
    assert engine.pids(long) == [payload]
    os.kill(engine.pids(short)[0], signal.SIGTERM)
    engine.start()

    assert engine.pid != first
    assert engine.api("GET", f"/containers/{long}/json").json["State"]["Pid"] == payload
    assert engine.api("POST", f"/containers/{short}/wait").json["StatusCode"] == 6
    engine.restart()
    assert "Processing signal 'terminated'" in engine.log(lines=1000)
    assert engine.pids(long) == [payload]


def test_a_killed_containerd_comes_back(new_docker_engine: Callable[..., Engine]) -> None:
    engine = new_docker_engine()
    container = engine.docker("run", "-d", BARE, PROGRAM, "term", "5").stdout.strip()
    first = engine.containerd_pid

    engine.kill_containerd()
    engine.start()

    assert engine.containerd_pid != first
    assert len(engine.pids(container)) == 1
    assert eventually(
        "containers run again", lambda: engine.docker("run", BARE, PROGRAM, "exit", "0", check=False).returncode == 0
    )


def test_nothing_is_left_of_running_and_frozen_containers(engine_directory: Path, docker_engine: Engine) -> None:
    with Engine(engine_directory / "e", cards=CARDS) as engine:
        engine.import_standard_images()
        ids = [engine.docker("run", "-d", BARE, PROGRAM, "stubborn").stdout.strip() for _ in range(2)]
        engine.docker("pause", ids[0])
        orphan = engine.shim(ids[1])
        os.kill(orphan, signal.SIGKILL)
        assert groups(engine) and mentions(engine_directory)

    assert [engine.pids(container) for container in ids] == [[], []]
    assert not mentions(engine_directory)
    assert not groups(engine)
    assert str(engine_directory) not in Path("/proc/self/mountinfo").read_text()
    assert docker_engine.api("GET", "/_ping").status == 200  # another engine is another matter


@pytest.mark.usefixtures("docker_engine")  # skips where there can be none
def test_nothing_is_left_when_the_tests_are_killed(engine_directory: Path) -> None:
    victim = (
        "import sys; from pathlib import Path; from engine import *; e = Engine(Path(sys.argv[1])); e.start();"
        "e.import_standard_images(); e.docker('run', '-d', BARE, PROGRAM, 'stubborn');"
        "print(e.group, flush=True); sys.stdin.read()"
    )
    tests = subprocess.Popen(
        [sys.executable, "-c", victim, str(engine_directory / "e")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(HERE)},
    )  # fmt: skip
    assert tests.stdin is not None and tests.stdout is not None
    group = tests.stdout.readline().strip()
    assert mentions(engine_directory)

    tests.kill()
    tests.communicate()

    eventually("its processes are gone", lambda: not mentions(engine_directory / "e"))
    eventually("its control groups are gone", lambda: not any((base / group).exists() for base in hierarchies()))
