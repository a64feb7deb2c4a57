"""Calls to a real engine that are not answered, or late, or wrongly: what was done is found, and done once."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from engine import Delay, Disconnect, Engine, Hang, Proxy, Reply
from fake_nvml import FakeDriver
from harness.containers import CardWatch, Evidence, check, daemon_on, job, nothing_left
from harness.daemon import Daemon, eventually

NewDriver = Callable[[int], FakeDriver]
Call, Fault = tuple[str, str], Delay | Disconnect | Hang | Reply
CREATE, START, LOOK = ("POST", "/containers/create"), ("POST", "/containers/*/start"), ("GET", "/containers/*/json")


@pytest.fixture
def proxy(docker_engine: Engine, tmp_path: Path) -> Iterator[Proxy]:
    with Proxy(tmp_path / "proxy.sock", docker_engine.socket) as proxy:
        yield proxy
        proxy.clear()


DONE = [Disconnect(), Reply(409, after_effect=True), Reply(500, after_effect=True), Reply(304, after_effect=True)]
UNDONE = [Disconnect(after_effect=False), Reply(304)]


def each_runs_once(proxy: Proxy, engine: Engine, daemon: Daemon, faults: Iterable[tuple[Call, Fault]]) -> None:
    """A job for each fault, which breaks the first call of that kind for it."""
    with daemon:
        daemon.wait(*daemon.submit(job("first", 0.0)))  # its image is looked into
        for call, what in faults:
            fault = proxy.fault(*call, what, times=1)
            [id] = daemon.submit(job("once", 0.0, 4))

            [found] = daemon.wait(id)

            assert fault.hits == 1
            assert (found["state"], found["exit_code"], found["attempt"]) == ("failed", 4, 1), (
                call,
                what,
                found["reason"],
            )
            check([line for line in Evidence(daemon).lines() if line.job == id], {id: found}, {id: 4})
        nothing_left(engine, daemon)


@pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])
def test_what_was_done_in_spite_of_the_answer_is_found_by_its_name(
    gated: bool, proxy: Proxy, docker_engine: Engine, tmp_path: Path
) -> None:
    daemon = daemon_on(proxy.socket, tmp_path / "d", personal=not gated)
    each_runs_once(proxy, docker_engine, daemon, itertools.product((CREATE, START), DONE))
    made = [call.query for call in proxy.calls(*CREATE) if "look" not in call.query]
    assert len(made) == len(set(made)) == 1 + 2 * len(DONE), "none was made twice"


def test_what_was_not_done_is_asked_for_again(proxy: Proxy, docker_engine: Engine, tmp_path: Path) -> None:
    daemon = daemon_on(proxy.socket, tmp_path / "d")
    each_runs_once(proxy, docker_engine, daemon, itertools.product((CREATE, START), UNDONE))


def test_looks_that_fail_are_repeated(proxy: Proxy, docker_engine: Engine, tmp_path: Path) -> None:
    daemon = daemon_on(proxy.socket, tmp_path / "d")
    wrong = [Disconnect(), Reply(500), Reply(200, "not what was asked for"), Reply(204)]
    each_runs_once(proxy, docker_engine, daemon, [(LOOK, what) for what in wrong])


@pytest.mark.slow
def test_a_start_without_a_gate_that_does_not_happen_is_lost_in_the_end(
    proxy: Proxy, docker_engine: Engine, tmp_path: Path
) -> None:
    with daemon_on(proxy.socket, tmp_path / "d", personal=True) as daemon:
        proxy.fault(*START, Disconnect(after_effect=False), times=1)
        [id] = daemon.submit(job("once", 0.0, 4, retries=1, retry_delay="0.1s"))

        [found] = daemon.wait(id, patience=120.0)

        assert [one["reason"]["code"] for one in found["attempts"]] == ["container_lost", "exit_code"]
        check(Evidence(daemon).lines(), {id: found}, {id: 4})
        nothing_left(docker_engine, daemon)


@pytest.mark.slow
def test_an_engine_that_hangs_holds_nobody_up(
    tmp_path: Path, new_docker_engine: Callable[..., Engine], fake_nvml: NewDriver
) -> None:
    # Whether an engine passes cards is told by its process's PATH, which a proxy hides, or by its runtimes.
    engine = new_docker_engine(config={"runtimes": {"nvidia": {"path": "runc"}}})
    with (
        Proxy(tmp_path / "proxy.sock", engine.socket) as proxy,
        daemon_on(proxy.socket, tmp_path / "d", driver=fake_nvml(2)) as daemon,
        CardWatch(engine),
    ):
        evidence = Evidence(daemon)
        [runs] = daemon.submit(job("runs", 3.0, 5, num_gpus=1))
        evidence.await_start(runs)
        hang = proxy.fault("*", "*", Hang())
        [begins] = daemon.submit(job("begins", 0.0, 6, num_gpus=1))
        eventually("its making hangs", lambda: hang.hits)

        took: list[float] = []

        def ask() -> list[str]:
            begin = time.monotonic()
            codes = [daemon.job(id)["reason"]["code"] for id in (runs, begins)]
            took.append(time.monotonic() - begin)
            return codes

        [host] = daemon.submit({"name": "host", "command": ["true"]})
        assert daemon.wait(host)[0]["state"] == "succeeded"
        eventually("nobody knows", lambda: ask() == ["unknown", "unknown"])
        [waits] = daemon.submit(job("waits", 0.0, 7))
        eventually("it waits for the engine", lambda: daemon.job(waits)["reason"]["code"] == "engine_unavailable")
        assert sorted(took)[len(took) * 99 // 100] < 2.0, (
            "two requests, on a machine that may be busy: nobody waits for the engine"
        )
        assert {card["state"] for card in daemon.client().gpus()} == {"reserved"}
        proxy.clear()

        codes = {runs: 5, begins: 6, waits: 7}
        found = {one["id"]: one for one in daemon.wait(*codes)}
        check(evidence.lines(), found, codes)
        assert [one["attempt"] for one in found.values()] == [1, 1, 1]
        nothing_left(engine, daemon)


def test_a_job_that_an_engine_holds_up_can_be_cancelled(proxy: Proxy, docker_engine: Engine, tmp_path: Path) -> None:
    with daemon_on(proxy.socket, tmp_path / "d") as daemon:
        fault = proxy.fault(*START, Hang(after_effect=True))
        [id] = daemon.submit(job("held-up", 60.0))
        eventually("its start hangs", lambda: fault.hits)
        begin = time.monotonic()
        daemon.client().cancel(id)

        [found] = daemon.wait(id)

        assert time.monotonic() - begin < 20.0
        assert (found["state"], found["exit_code"]) == ("cancelled", None)
        assert not Evidence(daemon).lines(), "its gate was never opened"
        nothing_left(docker_engine, daemon)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("call", "gated"),
    [(CREATE, True), (START, False), (LOOK, True)],
    ids=["create, gated", "start, plain", "look, gated"],
)
def test_an_answer_that_is_ninety_seconds_late(
    call: tuple[str, str], gated: bool, proxy: Proxy, docker_engine: Engine, tmp_path: Path
) -> None:
    with daemon_on(proxy.socket, tmp_path / "d", personal=not gated) as daemon:
        proxy.fault(*call, Delay(90.0), times=1)
        [id] = daemon.submit(job("late", 0.5, 4))
        [host] = daemon.submit({"name": "host", "command": ["true"]})
        assert daemon.wait(host)[0]["state"] == "succeeded"

        [found] = daemon.wait(id, patience=150.0)

        assert (found["exit_code"], found["attempt"]) == (4, 1), found["reason"]
        check(Evidence(daemon).lines(), {id: found}, {id: 4})
        nothing_left(docker_engine, daemon)
