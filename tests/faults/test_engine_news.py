"""A real engine's news that break off, lie, or never come; and followers of a container's output that vanish."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from engine import SHELL, Engine, Proxy
from engine.proxy import Exchange
from harness.containers import Evidence, check, daemon_on, job, nothing_left
from harness.daemon import Daemon, eventually


@pytest.fixture
def proxy(docker_engine: Engine, tmp_path: Path) -> Iterator[Proxy]:
    with Proxy(tmp_path / "proxy.sock", docker_engine.socket) as proxy:
        yield proxy
        proxy.clear()


@pytest.fixture
def daemon(proxy: Proxy, tmp_path: Path) -> Iterator[Daemon]:
    with daemon_on(proxy.socket, tmp_path / "d") as daemon:
        eventually("it listens", lambda: proxy.streams("GET", "/events"))
        yield daemon


def news(proxy: Proxy) -> Exchange:
    """The stream that the daemon listens to now."""
    return eventually("it listens", lambda: proxy.streams("GET", "/events"))[-1]


def runs_well(daemon: Daemon, seconds: float = 0.0) -> None:
    """A job starts, ends, and is told truly."""
    [id] = daemon.submit(job("probe", seconds, 9))
    [found] = daemon.wait(id)
    assert (found["exit_code"], found["attempt"]) == (9, 1), found["reason"]


def memory(daemon: Daemon) -> int:
    """The daemon's resident bytes."""
    assert daemon.process is not None
    return int(Path(f"/proc/{daemon.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_news_that_cease_without_a_word_are_missed_by_nobody(
    daemon: Daemon, proxy: Proxy, docker_engine: Engine
) -> None:
    [id] = daemon.submit(job("a", 1.0, 3))
    Evidence(daemon).await_start(id)
    news(proxy).stall()

    [found] = daemon.wait(id)

    assert found["exit_code"] == 3
    runs_well(daemon)
    nothing_left(docker_engine, daemon)


def test_nonsense_among_the_news_is_left_out(daemon: Daemon, proxy: Proxy) -> None:
    runs_well(daemon)
    before = memory(daemon)
    stream = news(proxy)
    for nonsense in (b"garbage\n", b"[" * 5000 + b"\n", b'{"Actor": 7}\n', b'{"Actor": {"ID": []}}\n', b"\xff\xfe\n\n"):
        stream.inject(nonsense)
    for _ in range(64):
        stream.inject(b"x" * (1 << 20))  # one line of 64 MiB
    stream.inject(b"\n")

    runs_well(daemon)

    assert stream.open, "it still listens to the same stream"
    assert memory(daemon) - before < 32 << 20
    assert "Traceback" not in daemon.log.read_text()


def test_a_death_that_is_told_too_early_or_twice_changes_nothing(
    daemon: Daemon, proxy: Proxy, docker_engine: Engine
) -> None:
    [id] = daemon.submit(job("a", 2.0, 3))
    Evidence(daemon).await_start(id)
    [container] = [one["Id"] for one in docker_engine.api("GET", "/containers/json").json]
    death = json.dumps({"Type": "container", "Action": "die", "Actor": {"ID": container}}).encode() + b"\n"
    for _ in range(50):
        news(proxy).inject(death)
    assert daemon.job(id)["state"] == "running"

    [found] = daemon.wait(id)
    for _ in range(50):
        news(proxy).inject(death)

    check(Evidence(daemon).lines(), {id: found}, {id: 3})
    runs_well(daemon)
    assert daemon.job(id)["state"] == "failed"


@pytest.mark.parametrize("how", ["cut", "end"])
def test_news_that_break_off_are_taken_up_again(how: str, daemon: Daemon, proxy: Proxy) -> None:
    for _ in range(3):
        before = len(proxy.calls("GET", "/events"))
        getattr(news(proxy), how)()
        eventually("it listens again", lambda before=before: len(proxy.calls("GET", "/events")) > before)
    runs_well(daemon)


def test_three_hundred_events_while_nobody_listens(daemon: Daemon, proxy: Proxy, docker_engine: Engine) -> None:
    codes = dict(zip(daemon.submit(*(job(f"j{n}", 1.5, n) for n in range(4))), range(4), strict=True))
    Evidence(daemon).await_start(*codes)
    proxy.down()
    other = docker_engine.api("POST", "/containers/create", {"Image": SHELL, "Cmd": ["true"]}).json["Id"]
    for number in range(300):
        assert docker_engine.api("POST", f"/containers/{other}/rename?name=n{number}").status == 204
    docker_engine.api("DELETE", f"/containers/{other}")
    eventually("all have ended", lambda: len(Evidence(daemon).lines()) == 8)
    assert {daemon.job(id)["reason"]["code"] for id in codes} == {"unknown"}
    proxy.up()

    found = {one["id"]: one for one in daemon.wait(*codes)}

    check(Evidence(daemon).lines(), found, codes)
    nothing_left(docker_engine, daemon)


def test_followers_that_vanish_leave_no_connection_behind(daemon: Daemon, proxy: Proxy, docker_engine: Engine) -> None:
    talks: dict[str, Any] = {"name": "talks", "run_in": "container", "image": SHELL, "grace": "1s"}
    [id] = daemon.submit({**talks, "command": "while :; do echo word; sleep 0.01; done"})
    eventually("it talks", lambda: daemon.run("logs", str(id)).stdout)

    def files() -> int:
        assert daemon.process is not None
        return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))

    before, to_engine = files(), proxy.upstream_open
    with ExitStack() as followers:
        for _ in range(150):
            follower = followers.enter_context(socket.socket(socket.AF_UNIX))
            follower.connect(str(daemon.socket))
            follower.sendall(f"GET /v1/jobs/{id}/logs?follow=1 HTTP/1.1\r\nHost: d\r\n\r\n".encode())
            assert follower.recv(4096).startswith(b"HTTP/1.1 200")
        assert files() >= before + 150
        assert proxy.upstream_open <= to_engine + 1, "who follows does not ask the engine"
        runs_well(daemon)

    eventually("no connection is left", lambda: files() <= before + 2 and proxy.upstream_open <= to_engine)
    runs_well(daemon)
    daemon.client().cancel(id)
    daemon.wait(id)
    nothing_left(docker_engine, daemon)
