"""The proxy before an engine does what tests rely on: it is not noticed, and it breaks what it was told to break."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from engine import BARE, PROGRAM, SHELL, Delay, Disconnect, Engine, Hang, Proxy, Reply, call, following
from engine.api import UnixConnection
from engine.proxy import Exchange
from harness.daemon import eventually

CREATE = {"Image": BARE, "Cmd": [PROGRAM, "term", "3"], "HostConfig": {"NetworkMode": "none"}}
BROKEN = (http.client.HTTPException, ConnectionError)


@pytest.fixture
def proxy(docker_engine: Engine, tmp_path: Path) -> Iterator[Proxy]:
    with Proxy(tmp_path / "proxy.sock", docker_engine.socket) as proxy:
        yield proxy
        proxy.clear()
        eventually("no connection to the engine is left", lambda: proxy.upstream_open == 0)


def created(engine: Engine) -> str:
    """A container that is there and was not started."""
    return str(engine.api("POST", "/containers/create", CREATE).json["Id"])


def state(engine: Engine, container: str) -> str:
    return str(engine.api("GET", f"/containers/{container}/json").json["State"]["Status"])


def test_it_is_not_noticed(proxy: Proxy, docker_engine: Engine) -> None:
    def docker(*arguments: str, say: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "-H", f"unix://{proxy.socket}", *arguments], input=say, capture_output=True, text=True
        )

    attached = docker("run", "--rm", "-i", SHELL, "sh", "-c", "cat; echo no >&2; exit 5", say="yes\n")
    docker_engine.docker("run", "-d", "--name", "long", SHELL, "sh", "-c", "seq 100000; sleep 1000")
    executed = docker("exec", "-i", "long", "cat", say="in\n")
    logged = eventually(
        "all lines are logged", lambda: (out := docker("logs", "long").stdout).endswith("\n100000\n") and out
    )

    assert (attached.returncode, attached.stdout, attached.stderr.splitlines()[-1:]) == (5, "yes\n", ["no"])
    assert executed.stdout == "in\n"
    assert logged == "".join(f"{number}\n" for number in range(1, 100001))
    assert [made.status for made in proxy.calls("POST", "/containers/create")] == [201]


def test_one_connection_serves_many_calls(proxy: Proxy) -> None:
    connection = UnixConnection(proxy.socket, 20.0)
    said = []
    for path in ("/_ping", "/version", "/containers/none/json", "/v1.41/info"):
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        said.append(answer.status)
        assert proxy.clients_open == 1
    connection.close()

    assert said == [200, 200, 404, 200]
    assert [exchange.path for exchange in proxy.exchanges] == ["/_ping", "/version", "/containers/none/json", "/info"]


def test_a_call_hangs_before_its_effect_and_goes_on_when_lifted(proxy: Proxy, docker_engine: Engine) -> None:
    container = created(docker_engine)
    hang = proxy.fault("POST", "/containers/*/start", Hang())

    with ThreadPoolExecutor() as threads:
        start = threads.submit(call, proxy.socket, "POST", f"/v1.41/containers/{container}/start")
        eventually("the call hangs", lambda: hang.hits == 1)
        assert (start.done(), state(docker_engine, container)) == (False, "created")
        hang.lift()
        assert start.result(20).status == 204

    assert state(docker_engine, container) == "running"


def test_a_call_hangs_after_its_effect(proxy: Proxy, docker_engine: Engine) -> None:
    container = created(docker_engine)
    hang = proxy.fault("POST", "/containers/*/start", Hang(after_effect=True))

    with pytest.raises(TimeoutError):
        call(proxy.socket, "POST", f"/containers/{container}/start", timeout=1.0)

    eventually("it has started", lambda: state(docker_engine, container) == "running")
    eventually("the caller is forgotten", lambda: proxy.clients_open == 0)
    assert hang.hits == 1


def test_an_answer_is_late(proxy: Proxy) -> None:
    proxy.fault("GET", "/version", Delay(0.3), times=1)
    begin = time.monotonic()

    late = call(proxy.socket, "GET", "/version")

    assert time.monotonic() - begin >= 0.3
    assert late.json["ApiVersion"]


@pytest.mark.parametrize("after_effect", [True, False])
def test_a_caller_is_cut_off(proxy: Proxy, docker_engine: Engine, after_effect: bool) -> None:
    proxy.fault("POST", "/containers/create", Disconnect(after_effect=after_effect))

    with pytest.raises(BROKEN):
        call(proxy.socket, "POST", "/containers/create?name=cut", CREATE)

    found = docker_engine.api("GET", "/containers/cut/json").status
    assert found == (200 if after_effect else 404)


def test_the_nth_call_gets_another_answer(proxy: Proxy, docker_engine: Engine) -> None:
    container = created(docker_engine)
    proxy.fault("POST", "/containers/*/start", Reply(409, "taken"), skip=1, times=1)
    proxy.fault("POST", "/containers/*/stop", Reply(304))
    proxy.fault("DELETE", "/containers/*", Reply(500), times=1)

    said = [
        call(proxy.socket, method, f"/containers/{container}{path}")
        for method, path in [
            ("POST", "/start"),
            ("POST", "/start"),
            ("POST", "/start"),
            ("POST", "/stop"),
            ("DELETE", ""),
        ]
    ]

    assert [answer.status for answer in said] == [204, 409, 304, 304, 500]
    assert said[1].json == {"message": "taken"}
    assert [call.fault is not None for call in proxy.calls("POST", "*/start")] == [False, True, False]
    assert state(docker_engine, container) == "running"


@contextmanager
def events(proxy: Proxy, timeout: float = 20.0) -> Iterator[tuple[http.client.HTTPResponse, Exchange]]:
    """A caller that follows the engine's events, and the proxy's end of it."""
    with following(proxy.socket, "/events", timeout=timeout) as follower:
        (stream,) = proxy.streams("GET", "/events")
        yield follower, stream


def test_events_are_mixed_with_garbage(proxy: Proxy, docker_engine: Engine) -> None:
    with events(proxy) as (follower, stream):
        stream.inject(b"garbage\n" + b"x" * (1 << 20) + b"\n")
        container = created(docker_engine)

        assert follower.readline() == b"garbage\n"
        assert len(follower.read((1 << 20) + 1)) == (1 << 20) + 1
        assert json.loads(follower.readline())["id"] == container


def test_events_die_silently(proxy: Proxy, docker_engine: Engine) -> None:
    with events(proxy, timeout=1.0) as (follower, stream):
        first = created(docker_engine)
        assert json.loads(follower.readline())["id"] == first

        stream.stall()
        created(docker_engine)

        with pytest.raises(TimeoutError):
            follower.readline()
        assert stream.open


def test_a_stalled_stream_does_not_end_with_the_engines(proxy: Proxy, docker_engine: Engine) -> None:
    container = created(docker_engine)
    docker_engine.api("POST", f"/containers/{container}/start")
    path = f"/containers/{container}/logs"
    with following(proxy.socket, f"{path}?follow=1&stdout=1", timeout=1.0) as follower:
        (stream,) = proxy.streams("GET", path)
        stream.stall()
        docker_engine.api("POST", f"/containers/{container}/stop")

        with pytest.raises(TimeoutError):
            follower.read()
        assert stream.open


def test_events_are_cut_or_end(proxy: Proxy) -> None:
    with events(proxy) as (follower, stream):
        stream.cut()
        with pytest.raises(BROKEN):
            follower.read()
    eventually("the first stream is over", lambda: not proxy.streams("GET", "/events"))
    with events(proxy) as (follower, stream):
        stream.end()
        assert follower.read() == b""


def test_followers_that_vanish_are_counted_out(proxy: Proxy, docker_engine: Engine) -> None:
    container = created(docker_engine)
    docker_engine.api("POST", f"/containers/{container}/start")

    with ExitStack() as followers:
        for _ in range(150):
            followers.enter_context(following(proxy.socket, f"/containers/{container}/logs?follow=1&stdout=1"))
        assert (proxy.upstream_open, proxy.clients_open) == (150, 150)

    eventually("no connection is left", lambda: (proxy.upstream_open, proxy.clients_open) == (0, 0))


def test_it_goes_down_and_comes_up(proxy: Proxy) -> None:
    with events(proxy) as (follower, _):
        proxy.down()
        with pytest.raises(BROKEN):
            follower.read()
    with pytest.raises(OSError):
        call(proxy.socket, "GET", "/_ping")

    proxy.up()

    assert call(proxy.socket, "GET", "/_ping").status == 200


def test_without_an_engine_it_accepts_and_never_answers(tmp_path: Path) -> None:
    with Proxy(tmp_path / "proxy.sock") as proxy:
        with pytest.raises(TimeoutError):
            call(proxy.socket, "GET", "/_ping", timeout=0.3)
        eventually("the first caller is forgotten", lambda: proxy.clients_open == 0)
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(str(proxy.socket))
            eventually("it is accepted", lambda: proxy.clients_open == 1)
    assert proxy.exchanges[0].path == "/_ping"
