"""Following jobs: events cut anywhere, nothing said twice, nothing missed when the daemon goes away."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable
from typing import Any

import pytest

from runners.client import Client
from runners.errors import DaemonUnreachable
from runners.following import follow

from .conftest import Reply, Responder, job_view, response

_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(number: int, view: dict[str, Any], type: str = "") -> bytes:
    text = f"id: {number}\nevent: {type or 'job.' + view['state']}\ndata: {json.dumps(view)}\n\n"
    return text.encode()


def stream(*parts: bytes, size: int = 1 << 20) -> Reply:
    """Events, in pieces of so many bytes; then the daemon hangs up."""
    text = b"".join(parts)

    def send(connection: socket.socket) -> None:
        try:
            connection.sendall(_HEAD)
            for at in range(0, len(text), size):
                piece = text[at : at + size]
                connection.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            time.sleep(0.05)
        except BrokenPipeError:
            return  # the client has seen the end it waited for

    return send


def states(found: Iterable[Any]) -> list[tuple[int, str]]:
    return [(job["id"], job["state"]) for job in found]


@pytest.mark.parametrize("size", [1, 7, 100, 1 << 20])
def test_events_cut_anywhere(responder: Responder, size: int) -> None:
    running = event(5, job_view(1, "running", name="ü" * 20))
    parts = (b": events\n\n", running, b": still here\n\n", event(6, job_view(1, "failed")))
    responder.will(stream(*parts, size=size), response(job_view(1, "queued")))
    found = states(follow(Client(str(responder.path)), [1]))
    assert found == [(1, "queued"), (1, "running"), (1, "failed")]
    assert responder.lines()[0] == "GET /v1/events?job=1 HTTP/1.1"


def test_events_have_their_numbers(responder: Responder) -> None:
    responder.will(stream(b"id: 7\r\nevent: gpu.lost\r\ndata: {}\r\n\r\n", event(9, job_view(1, "running"))))
    with Client(str(responder.path)).events(after=6) as source:
        found = []
        while not source.ended:
            found += source.read()
    assert [(one.id, one.type) for one in found] == [(7, "gpu.lost"), (9, "job.running")]
    assert source.last == 9


def test_what_is_known_is_not_said_again(responder: Responder) -> None:
    """Events older than the look at the job, others' events, and a state that comes twice."""
    events = [
        event(1, job_view(1, "running")),
        event(2, job_view(3, "failed")),
        event(3, job_view(1, "succeeded")),
        event(4, {"index": 0}, "gpu.lost"),
        event(5, job_view(2, "running")),
        event(6, job_view(2, "running")),
        event(7, job_view(2, "cancelled")),
    ]
    responder.will(stream(*events), response({"jobs": [job_view(1, "succeeded"), job_view(2, "queued")]}))
    found = states(follow(Client(str(responder.path)), ["p1"]))
    assert found == [(1, "succeeded"), (2, "queued"), (2, "running"), (2, "cancelled")]


def test_what_is_over_needs_no_event(responder: Responder) -> None:
    responder.will(stream(b": events\n\n"), response(job_view(1, "failed")))
    assert states(follow(Client(str(responder.path)), [1])) == [(1, "failed")]


def test_after_a_break_the_jobs_themselves_are_asked(responder: Responder) -> None:
    responder.will(
        stream(event(1, job_view(1, "running"))),
        response(job_view(1, "queued")),
        stream(b": events\n\n"),
        response(job_view(1, "failed")),
    )
    assert states(follow(Client(str(responder.path)), [1])) == [(1, "queued"), (1, "running"), (1, "failed")]


def test_an_attempt_after_a_failure_is_news(responder: Responder) -> None:
    events = [event(1, job_view(1, "queued", attempt=1)), event(2, job_view(1, "running", attempt=2))]
    events.append(event(3, job_view(1, "succeeded", attempt=2)))
    responder.will(stream(*events), response(job_view(1, "running", attempt=1)))
    found = [(job["state"], job["attempt"]) for job in follow(Client(str(responder.path)), [1]) if job]
    assert found == [("running", 1), ("queued", 1), ("running", 2), ("succeeded", 2)]


def test_who_subscribed_before_submitting_asks_nothing(responder: Responder) -> None:
    events = [event(n, job_view(1, state)) for n, state in enumerate(("queued", "starting", "running", "succeeded"), 1)]
    client = Client(str(responder.path))
    responder.will(stream(*events))
    found = states(follow(client, ["p1"], stream=client.events(), queued=[1]))
    assert [state for _id, state in found] == ["queued", "starting", "running", "succeeded"]
    assert len(responder.requests) == 1


def test_silence_ticks(responder: Responder) -> None:
    def quiet(connection: socket.socket) -> None:
        connection.sendall(_HEAD)
        time.sleep(0.2)
        piece = event(1, job_view(1, "failed"))
        connection.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        time.sleep(0.05)

    responder.will(quiet, response(job_view(1, "queued")))
    found = list(follow(Client(str(responder.path)), [1], tick=0.02))
    assert found.count(None) >= 2
    assert states(job for job in found if job) == [(1, "queued"), (1, "failed")]


def test_patience_ends(responder: Responder) -> None:
    def leave(connection: socket.socket) -> None:
        connection.sendall(response(job_view(1, "queued")))
        responder.path.unlink()

    responder.will(stream(b": events\n\n"), leave)
    with pytest.raises(DaemonUnreachable):
        list(follow(Client(str(responder.path)), [1], patience=0.3))


def test_a_daemon_that_never_answered_is_not_waited_for() -> None:
    began = time.monotonic()
    with pytest.raises(DaemonUnreachable):
        list(follow(Client("/nowhere/s"), [1]))
    assert time.monotonic() - began < 5
