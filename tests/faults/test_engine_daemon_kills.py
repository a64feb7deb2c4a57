"""`kill -9` of the daemon at every step of a container's way, held there by a proxy before a real engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine import Engine, Hang, Proxy
from harness.containers import Evidence, check, daemon_on, job, nothing_left
from harness.daemon import Daemon, eventually

#: Where the daemon is held: the call's method and path, how many of them pass first, whether the engine has done it.
STEPS: dict[str, tuple[str, str, int, bool]] = {
    "before it is made": ("POST", "/containers/create", 0, False),
    "it is made, which was not answered": ("POST", "/containers/create", 0, True),
    "it is looked at": ("GET", "/containers/*/json", 0, False),
    "before it is started": ("POST", "/containers/*/start", 0, False),
    "it is started, which was not answered": ("POST", "/containers/*/start", 0, True),
    "it runs, its gate not opened": ("GET", "/containers/*/json", 1, False),
    "it has ended, which was not seen": ("GET", "/containers/*/json", 2, True),
    "before it is removed": ("DELETE", "/containers/*", 0, False),
    "it is removed, which was not answered": ("DELETE", "/containers/*", 0, True),
}
#: The same of the first job, whose image nobody has seen.
FIRST_STEPS: dict[str, tuple[str, str, int, bool]] = {
    "its image is looked up": ("GET", "/images/*/json", 0, False),
    "before a look into its image": ("POST", "/containers/create", 0, False),
    "during a look into its image": ("POST", "/containers/create", 0, True),
    "after a look into its image": ("DELETE", "/containers/*", 0, False),
}
CODE = 6


@pytest.fixture
def proxy(docker_engine: Engine, tmp_path: Path) -> Iterator[Proxy]:
    with Proxy(tmp_path / "proxy.sock", docker_engine.socket) as proxy:
        yield proxy
        proxy.clear()


def hold(proxy: Proxy, step: str) -> Callable[[], bool]:
    """Hold the daemon at a step; whether it is there."""
    method, path, skip, done = (STEPS | FIRST_STEPS)[step]
    fault = proxy.fault(method, path, Hang(after_effect=done), skip=skip, times=1)

    def there() -> bool:
        # With its effect: once the engine has answered the proxy.
        calls = [call for call in proxy.calls(method, path) if call.fault is not None]
        return bool(fault.hits and calls) and (not done or calls[0].status is not None)

    return there


def killed_at(step: str, proxy: Proxy, daemon: Daemon, engine: Engine, *, gated: bool = True) -> None:
    """A job, and another after it; the daemon is killed at that step of the first."""
    if step in STEPS:
        daemon.wait(*daemon.submit(job("before", 0.0)))
        nothing_left(engine, daemon)
    there = hold(proxy, step)
    ids = daemon.submit(job("a", 0.3, CODE), job("b", 0.0), num_jobs=1)
    eventually(f"it is where {step}", there)
    daemon.kill()
    proxy.clear()
    daemon.start()

    found = {one["id"]: one for one in daemon.wait(*ids)}

    # Nobody knows whether a start that was not answered will happen: without a gate it cannot be asked for again.
    lost = ["container_lost"] if step == "before it is started" and not gated else []
    lines = [line for line in Evidence(daemon).lines() if line.job in found]
    check(lines, found, {ids[0]: CODE}, lost=lost)
    assert [one["attempt"] for one in found.values()] == [1, 1]
    nothing_left(engine, daemon, records=gated)


#: Steps that `make test` looks at too.
FIRST = (
    "it is made, which was not answered",
    "it is started, which was not answered",
    "it has ended, which was not seen",
)


@pytest.mark.parametrize(
    "step", [pytest.param(one, marks=[] if one in FIRST else pytest.mark.slow) for one in (*FIRST_STEPS, *STEPS)]
)
def test_killed_where(step: str, proxy: Proxy, docker_engine: Engine, tmp_path: Path) -> None:
    with daemon_on(proxy.socket, tmp_path / "d") as daemon:
        killed_at(step, proxy, daemon, docker_engine)


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_killed_without_a_gate_where(step: str, proxy: Proxy, docker_engine: Engine, tmp_path: Path) -> None:
    with daemon_on(proxy.socket, tmp_path / "d", personal=True) as daemon:
        killed_at(step, proxy, daemon, docker_engine, gated=False)


@pytest.mark.parametrize("word", ['"opened"', '"began"'], ids=["its gate is opened", "it was seen to run"])
def test_killed_when_the_record_says_that(word: str, proxy: Proxy, docker_engine: Engine, tmp_path: Path) -> None:
    with daemon_on(proxy.socket, tmp_path / "d") as daemon:
        ids = daemon.submit(job("a", 0.3, CODE), job("b", 0.0), num_jobs=1)
        record = daemon.state / "runs" / "0" / f"{ids[0]}.1.run"
        eventually(f"the record has {word}", lambda: record.exists() and word in record.read_text())
        daemon.kill()
        daemon.start()
        found = {one["id"]: one for one in daemon.wait(*ids)}
        check(Evidence(daemon).lines(), found, {ids[0]: CODE}, lost=())
        nothing_left(docker_engine, daemon)


@pytest.mark.slow
def test_killed_again_and_again_at_each_step_of_taking_it_back(
    proxy: Proxy, docker_engine: Engine, tmp_path: Path
) -> None:
    with daemon_on(proxy.socket, tmp_path / "d") as daemon:
        there = hold(proxy, "it is started, which was not answered")
        [id] = daemon.submit(job("a", 0.3, CODE))
        eventually("its start was not answered", there)
        daemon.kill()
        for method, path in (("GET", "/version"), ("GET", "/containers/*/json"), ("GET", "/events")):
            proxy.clear()
            again = proxy.fault(method, path, Hang(), times=1)
            daemon.start(wait=False)
            eventually(f"it is held at {path}", lambda again=again: again.hits)
            daemon.kill()
        proxy.clear()
        daemon.start()
        [found] = daemon.wait(id)
        check(Evidence(daemon).lines(), {id: found}, {id: CODE}, lost=())
        nothing_left(docker_engine, daemon)
