"""The client's HTTP: bodies of every kind, answers that break, and what each becomes for the caller."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from runners import errors, transport
from runners.client import Client

from .conftest import Responder, job_view, response


def ask(responder: Responder, *replies: object) -> Client:
    responder.will(*replies)  # type: ignore[arg-type]
    return Client(str(responder.path), timeout=5)


def in_pieces(pieces: Iterable[bytes]) -> object:
    def send(connection: socket.socket) -> None:
        for piece in pieces:
            try:
                connection.sendall(piece)
            except BrokenPipeError:
                return  # the client had all it needed
            time.sleep(0.002)

    return send


def test_json_with_a_length(responder: Responder) -> None:
    assert ask(responder, response({"status": "ok"})).health() == {"status": "ok"}
    assert responder.lines() == ["GET /v1/health HTTP/1.1"]


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_chunks_cut_anywhere(responder: Responder, size: int) -> None:
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n5;x=y\r\nde\r\nf\r\n1A\r\nghijklmnopqrstuvwxyzABCDEF\r\n0\r\n\r\n"
    client = ask(responder, in_pieces(whole[at : at + size] for at in range(0, len(whole), size)))
    with client.logs(1) as answer:
        assert answer.read() == b"abcde\r\nfghijklmnopqrstuvwxyzABCDEF"
        assert answer.ended


def test_a_body_without_a_length_ends_with_the_connection(responder: Responder) -> None:
    with ask(responder, b"HTTP/1.1 200 OK\r\n\r\nall of it").logs(1) as answer:
        assert answer.read() == b"all of it"


def test_a_large_body(responder: Responder) -> None:
    blob = os.urandom(3_000_000)
    with ask(responder, response(blob)).logs(1) as answer:
        assert answer.read() == blob


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.1 200",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        response(b"<html>"),
        b"HTTP/1.1 200 OK\r\n" + b"x" * 70_000,
    ],
)
def test_what_is_no_answer_is_unavailable(responder: Responder, reply: bytes) -> None:
    client = ask(responder, reply)
    with pytest.raises(errors.Unavailable, match="cannot (get an answer from|use the answer of) .*/s"):
        client.pause()


def test_silence_ends(responder: Responder) -> None:
    client = ask(responder, lambda connection: time.sleep(1))
    client.timeout = 0.2
    with pytest.raises(errors.Unavailable, match="nothing came for 0 s; the daemon is stuck, .*; try again"):
        client.health()


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("not-found", "404 Not Found", errors.NotFound),
        ("not-allowed", "403 Forbidden", errors.NotAllowed),
        ("illegal-transition", "409 Conflict", errors.IllegalTransition),
        ("quota-exceeded", "429 Too Many", errors.QuotaExceeded),
        ("too-large", "413 Too Large", errors.TooLarge),
        ("unavailable", "503 Unavailable", errors.Unavailable),
        ("something-new", "404 Not Found", errors.NotFound),
        ("something-new", "400 Bad", errors.InvalidRequest),
        ("method-not-allowed", "405 No", errors.InvalidRequest),
    ],
)
def test_problems_become_errors(responder: Responder, code: str, status: str, kind: type[errors.RunnersError]) -> None:
    client = ask(responder, response({"code": code, "detail": "cannot x: y"}, status))
    with pytest.raises(kind, match="^cannot x: y$") as raised:
        client.job(1)
    assert type(raised.value) is kind


def test_a_wrong_pipeline_has_its_problems(responder: Responder) -> None:
    document = {
        "code": "invalid-pipeline",
        "detail": "cannot queue it",
        "problems": [{"path": "jobs[0].needs", "message": "no such job"}, {"path": "name", "message": "too long"}],
    }
    with pytest.raises(errors.InvalidPipeline) as raised:
        ask(responder, response(document, "422 Wrong")).submit([{}])
    assert [problem.path for problem in raised.value.problems] == ["jobs[0].needs", "name"]
    assert str(raised.value) == "cannot queue it\njobs[0].needs: no such job\nname: too long"


def test_an_error_without_a_document(responder: Responder) -> None:
    with pytest.raises(errors.RunnersError, match="answered 500"):
        ask(responder, response(b"oops", "500 Internal")).job(1)


def test_a_submission_cut_off_is_sent_again_with_its_key(responder: Responder) -> None:
    made = {"pipeline": "p1", "jobs": [{"id": 1, "name": "a"}]}
    client = ask(responder, b"", b"HTTP/1.1 201", response(made, "201 Created"))
    assert client.submit([{"name": "x"}]) == [made]
    keys = {request.split(b"Idempotency-Key: ")[1].split(b"\r\n")[0] for request in responder.requests}
    assert len(responder.requests) == 3
    assert len(keys) == 1
    assert responder.bodies() == [{"name": "x"}] * 3


def test_two_submissions_have_two_keys(responder: Responder) -> None:
    client = ask(responder, response({"pipelines": []}))
    client.submit([{}, {}])
    client.submit([{}, {}])
    keys = {request.split(b"Idempotency-Key: ")[1].split(b"\r\n")[0] for request in responder.requests}
    assert len(keys) == 2


def test_a_restart_in_mid_submission_is_waited_for(responder: Responder) -> None:
    """The daemon hangs up, is away for a moment, and is back on the same socket."""
    made = {"pipeline": "p1", "jobs": []}
    path = responder.path
    second: list[Responder] = []

    def restart() -> None:
        responder.close()
        path.unlink()
        time.sleep(0.3)
        second.append(Responder(path, response(made)))

    thread = threading.Thread(target=restart)
    client = ask(responder, lambda connection: thread.start())
    assert client.submit([{}]) == [made]
    thread.join()
    second[0].close()


def test_what_is_not_repeatable_is_sent_once(responder: Responder) -> None:
    with pytest.raises(errors.Unavailable):
        ask(responder, b"").cancel(1)
    assert len(responder.requests) == 1


def test_more_than_the_daemon_takes_is_not_sent(responder: Responder) -> None:
    with pytest.raises(errors.TooLarge, match=r"9\.\d MiB.*8 MiB"):
        ask(responder, response({})).submit([{"name": "x" * 9_500_000}])
    assert responder.requests == []


def test_a_refusal_before_the_whole_body_is_read(responder: Responder) -> None:
    """A daemon that answers and hangs up while the client still sends."""
    listener = socket.socket(socket.AF_UNIX)
    path = responder.path.with_name("t")
    listener.bind(str(path))
    listener.listen()

    def refuse() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(10)
            connection.sendall(response({"code": "too-large", "detail": "cannot take it: too large"}, "413 Large"))

    thread = threading.Thread(target=refuse)
    thread.start()
    with pytest.raises(errors.TooLarge, match="cannot take it"):
        Client(str(path), timeout=5).submit([{"name": "x" * 5_000_000}])
    thread.join()
    listener.close()


def test_a_socket_deep_in_the_tree(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    here = os.open(deep, os.O_PATH)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"/proc/self/fd/{here}/s")
    listener.listen()
    try:
        assert len(str(deep / "s")) > transport.MAX_ADDRESS
        transport.connect(str(deep / "s"), 5).close()
    finally:
        listener.close()
        os.close(here)


def test_a_full_backlog_is_waited_for(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(tmp_path_factory.mktemp("b") / "s")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(0)
    waiting = [transport.connect(path, 5)]
    with pytest.raises(TimeoutError):
        while True:
            waiting.append(transport.connect(path, 0.2))
    thread = threading.Timer(0.3, lambda: waiting.append(listener.accept()[0]))
    thread.start()
    transport.connect(path, 5).close()
    thread.join()
    for sock in (*waiting, listener):
        sock.close()


def test_targets_are_quoted() -> None:
    assert transport.quote("GPU-1 a/b?ü") == "GPU-1%20a%2Fb%3F%C3%BC"


def test_queries(responder: Responder) -> None:
    client = ask(responder, response({"jobs": [], "next": None}))
    client.status([1, "p2"], all=True, limit=5)
    list(client.jobs(states=["queued", "held"], user="a b", limit=3))
    assert responder.lines() == [
        "GET /v1/status?ids=1,p2&all=1&limit=5 HTTP/1.1",
        "GET /v1/jobs?state=queued,held&user=a%20b&limit=3&newest=1 HTTP/1.1",
    ]


def test_jobs_come_in_pages(responder: Responder) -> None:
    first = {"jobs": [job_view(9, "queued"), job_view(8, "queued")], "next": 8}
    client = ask(responder, response(first), response({"jobs": [job_view(7, "queued")], "next": None}))
    assert [job["id"] for job in client.jobs()] == [9, 8, 7]
    assert "after=8" in responder.lines()[1]
