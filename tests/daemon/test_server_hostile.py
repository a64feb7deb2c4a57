"""Bad requests: whatever is sent, the answer is a 4xx or a closed connection, and the daemon goes on."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import socket
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import runnersd.server.call
import runnersd.server.connection
from runnersd.server.call import MAX_BODY
from runnersd.server.routes import ROUTES
from serving import Served, served_test, submission

#: FUZZ_EXAMPLES=20000 looks longer.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))
FUZZ = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


def exchange(path: str, request: bytes, timeout: float = 5.0) -> bytes:
    """Everything the daemon says to some bytes, until it hangs up; nothing, if it waits for more all that time."""
    answer = b""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(timeout)
        sock.connect(path)
        # When it has heard enough, what it says is still there to be read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(request)
        try:
            while part := sock.recv(65536):
                answer += part
        except (TimeoutError, ConnectionResetError):
            return answer
    return answer


def request(method: str, target: str, body: bytes = b"", headers: str = "") -> bytes:
    head = f"{method} {target} HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def status_of(answer: bytes) -> int | None:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else None


def check(answer: bytes, head_only: bool = False) -> None:
    """A client's error is told as one, in the one form errors have."""
    status = status_of(answer)
    assert status is None or 200 <= status < 500, answer
    if status is not None and status >= 400:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"application/problem+json" in head, answer
        assert head_only or json.loads(body)["status"] == status


async def fuzz(daemon: Served, property: Callable[[], None]) -> None:
    """Run a property against the daemon, beside it; afterwards the daemon is as it was."""
    await asyncio.to_thread(property)
    assert (await daemon.ask("GET", "/v1/health")).json == {"status": "ok"}
    await daemon.until(lambda: len(daemon.server._connections.connections) <= 1)


# -- fuzzing -----------------------------------------------------------------------------------------------------------


@served_test()
async def test_random_bytes(daemon: Served) -> None:
    @FUZZ
    @given(st.binary(max_size=300), st.sampled_from([b"", b"GET /", b"POST /v1/pipelines HTTP/1.1\r\n", b"\r\n\r\n"]))
    def property(data: bytes, before: bytes) -> None:
        check(exchange(str(daemon.socket), before + data + b"\r\n\r\n", timeout=0.02))

    await fuzz(daemon, property)


methods = st.sampled_from(
    ["GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "FOO", "get"]
)
texts = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(["1", "p1", "0", "-1", "9" * 30, "../x"])
filled = st.builds(
    lambda route, part: route.path.replace("{id}", quote(part, safe="")).replace("{gpu}", quote(part, safe="")),
    st.sampled_from(ROUTES),
    texts,
)
odd_paths = st.builds(lambda parts: "/" + "/".join(quote(part, safe="") for part in parts), st.lists(texts, max_size=6))
queries = st.dictionaries(
    st.sampled_from(["ids", "limit", "all", "state", "user", "after", "job", "stream", "tail", "attempt", "x"]) | texts,
    texts,
    max_size=3,
).map(lambda query: "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query.items()))
raw_queries = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#"), max_size=30)
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
bodies = st.binary(max_size=100) | json_like.map(lambda value: json.dumps(value).encode())


@served_test()
async def test_odd_requests_of_every_route(daemon: Served) -> None:
    await daemon.submit("forever", "true", hold=True)

    @FUZZ
    @given(methods, filled | odd_paths, queries | raw_queries, bodies)
    def property(method: str, path: str, query: str, body: bytes) -> None:
        if path == "/v1/daemon/shutdown" or (path == "/v1/events" and method == "GET"):
            return
        check(exchange(str(daemon.socket), request(method, f"{path}?{query}", body)), head_only=method == "HEAD")

    await fuzz(daemon, property)


keys = st.sampled_from(
    [
        "name",
        "num_jobs",
        "jobs",
        "cwd",
        "env",
        "umask",
        "after",
        "hold",
        "barriers",
        "items",
        "defaults",
        "priority",
        "dry_run",
        "pipelines",
        "command",
        "needs",
        "gpus",
        "gpu_memory",
        "time_limit",
        "retries",
        "begin",
        "matrix",
        "mounts",
        "workdir",
        "run_in",
        "num_gpus",
        "cpus",
        "memory",
    ]
)
values = json_like | st.sampled_from(
    ["2h", "-1s", "1e999", "\ud800", "\x00", "a" * 300, 10**400, -0.0, 1e308, "+99999d"]
)


@served_test()
async def test_submissions_with_something_wrong_somewhere(daemon: Served) -> None:
    @FUZZ
    @given(st.dictionaries(keys, values, max_size=3), st.dictionaries(keys, values, max_size=3), st.booleans())
    def property(above: dict[str, Any], within: dict[str, Any], several: bool) -> None:
        document = submission("true", hold=True)
        document.update(above)
        if isinstance(document["jobs"], list) and document["jobs"] and isinstance(document["jobs"][0], dict):
            document["jobs"][0].update(within)
        body = json.dumps({"pipelines": [document, document]} if several else document).encode()
        answer = exchange(str(daemon.socket), request("POST", "/v1/pipelines", body))
        check(answer)
        assert status_of(answer) is not None

    await fuzz(daemon, property)


@served_test()
async def test_changes_with_something_wrong_somewhere(daemon: Served) -> None:
    await daemon.submit("true", hold=True)

    @FUZZ
    @given(st.dictionaries(keys | st.just("held"), values, max_size=3))
    def property(changes: dict[str, Any]) -> None:
        check(exchange(str(daemon.socket), request("PATCH", "/v1/jobs/1", json.dumps(changes).encode())))

    await fuzz(daemon, property)


# -- limits ------------------------------------------------------------------------------------------------------------


@served_test()
async def test_a_body_over_the_limit_is_refused_however_it_comes(daemon: Served) -> None:
    at_limit = b'{"name": "' + b"x" * (MAX_BODY - 12) + b'"}'
    assert len(at_limit) == MAX_BODY

    async def in_chunks(body: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    for body, status in ((at_limit, 422), (at_limit + b" ", 413)):
        for data in (io.BytesIO(body), in_chunks(body)):
            async with daemon.session.post("http://d/v1/pipelines", data=data) as response:
                assert response.status == status
                document = await response.json(content_type=None)
                assert document["code"] == ("too-large" if status == 413 else "invalid-pipeline")
    announced = request("POST", "/v1/pipelines").replace(b"Content-Length: 0", b"Content-Length: 99999999999")
    assert status_of(await asyncio.to_thread(exchange, str(daemon.socket), announced, 0.5)) == 413


@served_test()
async def test_long_lines_and_many_headers_are_refused(daemon: Served) -> None:
    for bad in (
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: d\r\n\r\n",
        request("GET", "/v1/health", headers="X: " + "y" * 100_000 + "\r\n"),
        request("GET", "/v1/health", headers="".join(f"X-{n}: y\r\n" for n in range(10_000))),
        b"\x16\x03\x01 hello\r\n\r\n",
        b"GET /v1/health HTTP/9.9\r\n\r\n",
        request("POST", "/v1/pipelines").replace(b"Content-Length: 0", b"Content-Length: -5"),
        request("POST", "/v1/pipelines").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"zz\r\n",
    ):
        answer = await asyncio.to_thread(exchange, str(daemon.socket), bad)
        check(answer)
        assert status_of(answer) == 400, bad[:50]


@served_test()
async def test_a_compressed_bomb_is_just_bytes(daemon: Served) -> None:
    bomb = zlib.compress(b"[" * 50_000_000, 9)
    answer = await daemon.ask("POST", "/v1/pipelines", bomb, headers={"Content-Encoding": "deflate"})
    assert answer.status == 400


@served_test()
async def test_a_client_that_expects_100_continue_is_told_to(daemon: Served) -> None:
    reader, writer = await asyncio.open_unix_connection(str(daemon.socket))
    body = json.dumps(submission("true", hold=True)).encode()
    head = f"POST /v1/pipelines HTTP/1.1\r\nHost: d\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode())
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5.0) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5.0)).startswith(b"HTTP/1.1 201 ")
    writer.close()
    await writer.wait_closed()


@served_test()
async def test_a_user_has_only_so_many_connections(daemon: Served) -> None:
    patch = pytest.MonkeyPatch()
    patch.setattr(runnersd.server.connection, "MAX_CONNECTIONS", 8)
    held = []
    try:
        for _ in range(8):
            held.append(await asyncio.open_unix_connection(str(daemon.socket)))
            held[-1][1].write(request("GET", "/v1/health").replace(b"Connection: close", b"Connection: keep-alive"))
            await held[-1][0].readuntil(b"}")
        answer = await asyncio.to_thread(exchange, str(daemon.socket), request("GET", "/v1/health"))
        check(answer)
        assert status_of(answer) == 429
        held[0][1].close()
        await held[0][1].wait_closed()
        await daemon.until(lambda: sum(daemon.server._connections.per_user.values()) < 8)
        assert (await daemon.ask("GET", "/v1/health")).status == 200
    finally:
        for _, writer in held:
            writer.close()
        patch.undo()


@served_test()
async def test_a_body_that_does_not_come_in_time_is_given_up(daemon: Served) -> None:
    patch = pytest.MonkeyPatch()
    patch.setattr(runnersd.server.call, "BODY_TIMEOUT", 0.05)
    try:
        reader, writer = await asyncio.open_unix_connection(str(daemon.socket))
        writer.write(request("POST", "/v1/pipelines").replace(b"Content-Length: 0", b"Content-Length: 10") + b"{")
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5.0)).startswith(b"HTTP/1.1 408 ")
        writer.close()
        await writer.wait_closed()
    finally:
        patch.undo()


def test_a_head_that_does_not_come_in_time_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runnersd.server.connection, "REQUEST_TIMEOUT", 0.1)

    @served_test()
    async def story(daemon: Served) -> None:
        reader, writer = await asyncio.open_unix_connection(str(daemon.socket))
        for byte in b"GET /v1/hea":
            writer.write(bytes([byte]))
            await asyncio.sleep(0.005)
        assert await asyncio.wait_for(reader.read(), 5.0) == b""
        writer.close()
        await writer.wait_closed()

    story()


@served_test()
async def test_a_submission_whose_client_goes_is_there_whole_or_not_at_all(daemon: Served) -> None:
    body = json.dumps(submission(*["true"] * 50, hold=True)).encode()
    whole = request("POST", "/v1/pipelines", body)
    for cut in range(0, len(whole), len(whole) // 20):
        _, writer = await asyncio.open_unix_connection(str(daemon.socket))
        writer.write(whole[:cut] if cut < len(whole) - len(whole) // 20 else whole)
        writer.close()
        await writer.wait_closed()
    await daemon.until(lambda: len(daemon.server._connections.connections) == 0)
    counts = daemon.store.counts()
    assert counts["held"] in (0, 50)
    assert sum(counts.values()) == counts["held"]
