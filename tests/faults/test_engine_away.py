"""A real engine that is restarted, away, or back with nothing: what its jobs are said to be, and what becomes of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine import PROGRAM, SHELL, Engine
from engine.fixtures import check_docker
from fake_nvml import FakeDriver
from harness.containers import INSIDE, CardWatch, Evidence, check, daemon_on, job, nothing_left
from harness.daemon import Daemon, eventually

NewEngine = Callable[..., Engine]
NewDriver = Callable[[int], FakeDriver]


def first_long(name: str, **keys: Any) -> dict[str, Any]:
    """A job whose first attempt would run for a minute, and every other for no time."""
    command = f"[ $RUNNERS_ATTEMPT = 1 ] && exec {PROGRAM} witness {INSIDE} 60; exec {PROGRAM} witness {INSIDE} 0"
    return {"name": name, "command": command, "run_in": "container", "image": SHELL, "grace": "1s", **keys}


def shown(daemon: Daemon, *ids: int) -> dict[int, Any]:
    return {id: daemon.job(id) for id in ids}


def reasons(daemon: Daemon, *ids: int) -> list[str]:
    return [daemon.job(id)["reason"]["code"] for id in ids]


def test_a_restart_of_the_engine_loses_what_ran_and_calls_nothing_of_it_failed(
    tmp_path: Path, new_docker_engine: NewEngine, fake_nvml: NewDriver
) -> None:
    engine = new_docker_engine(config={"live-restore": False})
    with daemon_on(engine.socket, tmp_path / "d", driver=fake_nvml(4)) as daemon, CardWatch(engine):
        evidence = Evidence(daemon)
        plain = {"run_in": "container", "image": SHELL, "grace": "1s"}
        retried = daemon.submit(*(first_long(f"r{n}", num_gpus=1, retries=1, retry_delay="0.1s") for n in range(3)))
        others = daemon.submit(
            *(first_long(f"n{n}") for n in range(3)),
            {"name": "obeys", "command": [PROGRAM, "term", "0"], **plain},
            {"name": "ignores", "command": [PROGRAM, "stubborn"], **plain},
        )
        evidence.await_start(*retried, *others[:3])
        eventually("the others run", lambda: reasons(daemon, *others[3:]) == ["running"] * 2)

        engine.restart()

        found = {one["id"]: one for one in daemon.wait(*retried, *others)}
        assert [found[id]["state"] for id in retried] == ["succeeded"] * 3
        assert [found[id]["attempt"] for id in retried] == [2] * 3
        for one in found.values():
            first = one["attempts"][0]
            assert (first["reason"]["code"], first["exit_code"]) == ("container_lost", None), one
        assert [found[id]["state"] for id in others] == ["failed"] * 5
        check(evidence.lines(), found)
        nothing_left(engine, daemon)


@pytest.mark.slow
def test_what_ends_while_the_engine_is_away_has_its_true_end(
    tmp_path: Path, new_docker_engine: NewEngine, fake_nvml: NewDriver
) -> None:
    engine = new_docker_engine(config={"live-restore": True})
    with daemon_on(engine.socket, tmp_path / "d", driver=fake_nvml(4)) as daemon, CardWatch(engine):
        evidence = Evidence(daemon)
        codes = dict(zip(daemon.submit(*(job(f"j{n}", 2.0, n, num_gpus=1) for n in range(4))), range(4), strict=True))
        evidence.await_start(*codes)
        eventually("all run", lambda: reasons(daemon, *codes) == ["running"] * 4)

        engine.stop()
        eventually("nobody knows", lambda: reasons(daemon, *codes) == ["unknown"] * 4)
        [waits] = daemon.submit(job("later", 0.0, num_gpus=1))
        [host] = daemon.submit({"name": "host", "command": ["true"]})
        assert daemon.wait(host)[0]["state"] == "succeeded"
        eventually("all have ended", lambda: len(evidence.lines()) == 8)
        assert reasons(daemon, *codes) == ["unknown"] * 4
        assert {card["state"] for card in daemon.client().gpus()} == {"reserved"}
        daemon.kill()
        daemon.start()
        eventually("nobody knows yet", lambda: reasons(daemon, *codes) == ["unknown"] * 4)
        engine.start()

        found = {one["id"]: one for one in daemon.wait(*codes, waits)}
        check(evidence.lines(), found, codes)
        # A busy engine may itself lose one; it must not be told as an end.
        told = [one["reason"]["code"] for one in found.values()]
        assert told.count("container_lost") < len(codes), told
        assert [one["attempt"] for one in found.values()] == [1] * 5
        nothing_left(engine, daemon)


def test_a_containerd_that_dies_costs_no_job_and_is_no_jobs_failure(
    tmp_path: Path, new_docker_engine: NewEngine, fake_nvml: NewDriver
) -> None:
    engine = new_docker_engine()
    with daemon_on(engine.socket, tmp_path / "d", driver=fake_nvml(2)) as daemon, CardWatch(engine):
        evidence = Evidence(daemon)
        [runs] = daemon.submit(job("runs", 2.0, 3, num_gpus=1))
        evidence.await_start(runs)
        engine.kill_containerd()
        [begins] = daemon.submit(job("begins", 0.0, 4, num_gpus=1))
        eventually("its start was refused", lambda: f"job {begins}: cannot start" in daemon.log.read_text())
        assert daemon.job(begins)["state"] == "starting"
        engine.start()

        found = {one["id"]: one for one in daemon.wait(runs, begins)}

        check(evidence.lines(), found, {runs: 3, begins: 4}, lost=())
        assert [one["attempt"] for one in found.values()] == [1, 1]
        nothing_left(engine, daemon)


@pytest.mark.slow
def test_an_engine_that_comes_back_with_nothing_leaves_no_process_behind(
    tmp_path: Path, new_docker_engine: NewEngine, fake_nvml: NewDriver
) -> None:
    engine = new_docker_engine(config={"live-restore": True})
    with daemon_on(engine.socket, tmp_path / "d", driver=fake_nvml(1)) as daemon, CardWatch(engine):
        evidence = Evidence(daemon)
        [orphan] = daemon.submit(first_long("orphan", num_gpus=1, retries=1, retry_delay="0.1s"))
        evidence.await_start(orphan)
        [container] = [one["Id"] for one in engine.api("GET", "/containers/json").json]

        daemon.client().pause("until the engine has images again")
        engine.stop()
        (engine.directory / "data").rename(engine.directory / "data.old")
        assert engine.pids(container), "live-restore leaves them"
        engine.start()
        eventually("it is given up", lambda: daemon.job(orphan)["state"] == "queued")
        engine.import_standard_images()
        daemon.client().resume()

        [found] = daemon.wait(orphan)
        assert not engine.pids(container)
        assert found["attempts"][0]["reason"]["code"] == "container_lost"
        assert (found["state"], found["attempt"]) == ("succeeded", 2)
        check(evidence.lines(), {orphan: found})
        nothing_left(engine, daemon)
    shutil.rmtree(engine.directory / "data.old", ignore_errors=True)


def test_jobs_wait_for_room_on_the_engines_disk(tmp_path: Path, engine_directory: Path) -> None:
    """Else each of them would fail for good as soon as its turn came."""
    check_docker()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", engine_directory], check=True)
    try:
        with Engine(engine_directory) as engine:
            engine.import_standard_images()
            rest = engine_directory / "rest"
            with rest.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(engine_directory).free)
            with daemon_on(engine.socket, tmp_path / "d") as daemon:
                ids = daemon.submit(*(job(f"j{n}", 0.0) for n in range(3)))
                (host,) = daemon.submit({"name": "host", "command": ["true"]})
                assert daemon.wait(host)[0]["state"] == "succeeded"
                eventually("they wait for room", lambda: reasons(daemon, *ids) == ["low_disk"] * 3)
                rest.unlink()
                assert [one["state"] for one in daemon.wait(*ids)] == ["succeeded"] * 3
    finally:
        subprocess.run(["umount", "--lazy", engine_directory], check=True)
