"""Somebody else's hands on a job's container: removed, renamed, started again, paused, frozen, its shim killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine import PROGRAM, SHELL, Engine
from fake_nvml import FakeDriver
from harness.containers import CardWatch, Evidence, check, daemon_on, job, nothing_left
from harness.daemon import Daemon, eventually

NewDriver = Callable[[int], FakeDriver]


@pytest.fixture
def daemon(docker_engine: Engine, tmp_path: Path, fake_nvml: NewDriver) -> Iterator[Daemon]:
    """On one card."""
    with daemon_on(docker_engine.socket, tmp_path / "d", driver=fake_nvml(1)) as daemon:
        yield daemon


def container_of(engine: Engine) -> str:
    """The only one that runs."""
    [container] = [str(one["Id"]) for one in engine.api("GET", "/containers/json").json]
    return container


def begun(daemon: Daemon, engine: Engine, seconds: float = 60.0, code: int = 0, **keys: Any) -> tuple[int, str]:
    """A job on the card whose payload has begun, and its container."""
    [id] = daemon.submit(job("a", seconds, code, num_gpus=1, **keys))
    Evidence(daemon).await_start(id)
    eventually("it runs", lambda: daemon.job(id)["state"] == "running")
    return id, container_of(engine)


def lost(daemon: Daemon, id: int) -> str:
    """That it ended as lost; the daemon's words."""
    [found] = daemon.wait(id)
    assert (found["state"], found["reason"]["code"], found["exit_code"]) == ("failed", "container_lost", None), found
    check(Evidence(daemon).lines(), {id: found})
    return str(found["reason"]["text"])


@contextmanager
def not_looking(daemon: Daemon) -> Iterator[None]:
    """The daemon is stopped, as a busy machine stops it."""
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        daemon.process.send_signal(signal.SIGCONT)


def state(engine: Engine, container: str) -> str:
    return str(engine.api("GET", f"/containers/{container}/json").json["State"]["Status"])


def test_removed(daemon: Daemon, docker_engine: Engine) -> None:
    id, container = begun(daemon, docker_engine)

    docker_engine.docker("rm", "-f", container)

    assert "removed by somebody else" in lost(daemon, id)
    nothing_left(docker_engine, daemon)


def test_renamed(daemon: Daemon, docker_engine: Engine) -> None:
    id, container = begun(daemon, docker_engine, 1.0, 3)

    docker_engine.docker("rename", container, "mine")

    [found] = daemon.wait(id)
    check(Evidence(daemon).lines(), {id: found}, {id: 3})
    nothing_left(docker_engine, daemon)


def test_killed(daemon: Daemon, docker_engine: Engine) -> None:
    id, container = begun(daemon, docker_engine)

    docker_engine.docker("kill", container)

    [found] = daemon.wait(id)
    assert (found["state"], found["reason"]["code"], found["exit_code"]) == ("failed", "signal", 137)
    nothing_left(docker_engine, daemon)


def test_restarted(daemon: Daemon, docker_engine: Engine) -> None:
    id, container = begun(daemon, docker_engine)

    with not_looking(daemon):
        docker_engine.docker("restart", "-t", "1", container)

    assert "started a second time" in lost(daemon, id)
    nothing_left(docker_engine, daemon)


@pytest.mark.parametrize("ends", [False, True], ids=["it runs", "it has ended"])
def test_started_again_after_its_end(ends: bool, daemon: Daemon, docker_engine: Engine) -> None:
    id, container = begun(daemon, docker_engine, 0.5, 0)

    with not_looking(daemon):
        eventually("it has ended", lambda: state(docker_engine, container) == "exited")
        docker_engine.docker("start", container)
        if ends:
            docker_engine.docker("kill", container)
            eventually("it has ended again", lambda: state(docker_engine, container) == "exited")

    assert "started a second time" in lost(daemon, id)
    assert len(Evidence(daemon).lines()) == 2, "the second run waits at the gate"
    nothing_left(docker_engine, daemon)


def test_started_again_without_a_gate_is_found_out(docker_engine: Engine, tmp_path: Path, fake_nvml: NewDriver) -> None:
    with daemon_on(docker_engine.socket, tmp_path / "d", driver=fake_nvml(1), personal=True) as daemon:
        id, container = begun(daemon, docker_engine, 0.5, 0)
        with not_looking(daemon):
            eventually("it has ended", lambda: state(docker_engine, container) == "exited")
            docker_engine.docker("start", container)
            eventually("it runs again", lambda: len(Evidence(daemon).lines()) >= 3)

        [found] = daemon.wait(id)

        assert (found["state"], found["reason"]["code"]) == ("failed", "container_lost")
        nothing_left(docker_engine, daemon)


def test_its_shim_killed(daemon: Daemon, docker_engine: Engine) -> None:
    id, container = begun(daemon, docker_engine)
    with CardWatch(docker_engine):
        [waits] = daemon.submit(job("b", 0.0, num_gpus=1))
        os.kill(docker_engine.shim(container), signal.SIGKILL)

        [found] = daemon.wait(id)
        # A shim that ends with its container is taken for one that has seen how it ended: that is told as the kill it was.
        assert found["reason"]["code"] in ("container_lost", "signal"), found["reason"]
        assert not docker_engine.pids(container)
        assert daemon.wait(waits)[0]["state"] == "succeeded"
    nothing_left(docker_engine, daemon)


def test_paused_and_let_go_on(daemon: Daemon, docker_engine: Engine) -> None:
    id, container = begun(daemon, docker_engine, 1.0, 3)
    docker_engine.docker("pause", container)
    daemon.kill()
    daemon.start()
    eventually("it is taken back", lambda: "adopted 1 job" in daemon.log.read_text())
    assert daemon.job(id)["state"] == "running"
    assert daemon.client().gpus()[0]["state"] == "reserved"

    docker_engine.docker("unpause", container)

    [found] = daemon.wait(id)
    check(Evidence(daemon).lines(), {id: found}, {id: 3})
    nothing_left(docker_engine, daemon)


def test_paused_and_cancelled(daemon: Daemon, docker_engine: Engine) -> None:
    id, container = begun(daemon, docker_engine, grace="1s")
    docker_engine.docker("pause", container)

    daemon.client().cancel(id)

    [found] = daemon.wait(id)
    assert found["state"] == "cancelled"
    nothing_left(docker_engine, daemon)


def test_a_payload_that_ignores_sigterm_is_killed_after_its_grace(daemon: Daemon, docker_engine: Engine) -> None:
    stubborn = {"command": [PROGRAM, "stubborn"], "run_in": "container", "image": SHELL}
    [id] = daemon.submit({"name": "a", "grace": "1s", **stubborn})
    eventually("it is ready", lambda: daemon.run("logs", str(id)).stdout == b"ready\n")

    daemon.client().cancel(id)

    [found] = daemon.wait(id)
    assert (found["state"], found["exit_code"]) == ("cancelled", 137)
    assert found["finished_at"] - found["events"][-2]["at"] >= 1.0
    nothing_left(docker_engine, daemon)


@contextmanager
def frozen(engine: Engine, container: str) -> Iterator[None]:
    """The container's processes do nothing and do not die, as in the kernel's uninterruptible sleep.

    In a group of their own: what is frozen in its container's group is let go by the engine, to be killed.
    """
    group = Path("/sys/fs/cgroup/freezer") / engine.group / "held"
    if not group.parent.is_dir():
        pytest.skip("needs the freezer of control groups, version 1")
    group.mkdir()
    for pid in engine.pids(container):
        (group / "cgroup.procs").write_text(str(pid))
    (group / "freezer.state").write_text("FROZEN")
    eventually("it is frozen", lambda: (group / "freezer.state").read_text().strip() == "FROZEN")
    try:
        yield
    finally:
        (group / "freezer.state").write_text("THAWED")


@pytest.mark.slow
def test_a_payload_that_does_not_die_keeps_its_card_and_holds_nobody_up(daemon: Daemon, docker_engine: Engine) -> None:
    id, container = begun(daemon, docker_engine, grace="0.5s")
    with CardWatch(docker_engine):
        with frozen(docker_engine, container):
            daemon.client().cancel(id)
            [waits] = daemon.submit(job("b", 0.0, num_gpus=1))
            [other] = daemon.submit(job("c", 0.0, 4))
            assert daemon.wait(other)[0]["exit_code"] == 4

            eventually("it is called stuck", lambda: daemon.job(id)["reason"]["code"] == "stuck")

            assert daemon.job(id)["state"] == "stopping"
            assert daemon.job(waits)["reason"]["code"] == "no_free_gpu"
            daemon.kill()
            daemon.start()
            [another] = daemon.submit(job("d", 0.0, 5))
            assert daemon.wait(another)[0]["exit_code"] == 5
            assert daemon.job(id)["state"] == "stopping"
            assert daemon.job(waits)["state"] == "queued"

        [found] = daemon.wait(id)
        assert found["state"] == "cancelled"
        assert daemon.wait(waits)[0]["state"] == "succeeded"
    nothing_left(docker_engine, daemon)
