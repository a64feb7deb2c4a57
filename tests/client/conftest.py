"""A socket that answers what a test tells it to: the real transport, without a daemon behind it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
Reply = bytes | Callable[[socket.socket], None]


def response(body: Any = b"", status: str = "200 OK", *headers: str) -> bytes:
    """An HTTP response with its length; what is not bytes travels as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", *headers, "", ""]).encode() + data


class Responder:
    """Listens on a Unix socket and gives each connection the next reply; the last one is given again and again."""

    def __init__(self, path: Path, *replies: Reply) -> None:
        self.path = path
        self.requests: list[bytes] = []
        self.replies: list[Reply] = list(replies)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(16)
        self._answering: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def will(self, *replies: Reply) -> Responder:
        """What to answer, in order."""
        self.replies = list(replies)
        return self

    def bodies(self) -> list[Any]:
        """The requests' JSON."""
        return [json.loads(request.partition(b"\r\n\r\n")[2] or b"null") for request in self.requests]

    def lines(self) -> list[str]:
        """The requests' first lines."""
        return [request.split(b"\r\n", 1)[0].decode() for request in self.requests]

    def close(self) -> None:
        """Stop listening."""
        if self._listener.fileno() >= 0:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for thread in (self._thread, *self._answering):
            if thread is not threading.current_thread():
                thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.requests.append(_request(connection))
            reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
            answering = threading.Thread(target=_answer, args=(connection, reply), daemon=True)
            self._answering.append(answering)
            answering.start()


def _answer(connection: socket.socket, reply: Reply) -> None:
    with connection:
        if callable(reply):
            reply(connection)
        else:
            connection.sendall(reply)


def _request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


@pytest.fixture
def responder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Responder]:
    """A responder on a socket with a short path."""
    one = Responder(tmp_path_factory.mktemp("r") / "s")
    yield one
    one.close()


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `runners-client` as a program, with no daemon's address in its environment."""
    for name in ("RUNNERS_SOCKET", "RUNNERS_STATE_DIR", "COLUMNS", "LINES", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "client"))

    def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        options = {"capture_output": True, "text": True, "timeout": 60, "check": False, **options}
        return subprocess.run([sys.executable, "-m", "runners.cli", *words], **options)

    return run


def job_view(id: int, state: str, **keys: Any) -> dict[str, Any]:
    """A job's status object."""
    now = time.time()
    started = None if state in ("queued", "held", "skipped") else now - 100
    settled = state in ("succeeded", "failed", "cancelled", "timed_out", "skipped")
    return {
        "id": id,
        "name": f"job{id}",
        "pipeline": "p1",
        "user": "ann",
        "uid": 1001,
        "state": state,
        "reason": {"code": "ok", "text": "ended well"},
        "priority": 0,
        "run_in": "host",
        "num_gpus": 0,
        "gpus": [],
        "attempt": 0 if started is None else 1,
        "exit_code": 0 if state == "succeeded" else None,
        "submitted_at": now - 200,
        "started_at": started,
        "finished_at": now - 40 if settled else None,
        "expected_start": None,
        **keys,
    }


def gpu_view(index: int, **keys: Any) -> dict[str, Any]:
    """A card's status object."""
    return {
        "index": index,
        "uuid": f"GPU-{index:08d}",
        "name": "NVIDIA A100-SXM4-80GB",
        "memory_total": 80 << 30,
        "memory_used": 20 << 30,
        "utilization": 50,
        "state": "free",
        "jobs": [],
        "foreign_pids": [],
        "power": 100.4,
        "temperature": 40,
        **keys,
    }


def status_view(jobs: list[dict[str, Any]], gpus: list[dict[str, Any]] | None = None, **daemon: Any) -> dict[str, Any]:
    """What `GET /v1/status` answers."""
    counts: dict[str, int] = {}
    for job in jobs:
        counts[job["state"]] = counts.get(job["state"], 0) + 1
    who = {"version": "1.2.3", "pid": 7, "uptime": 3700.0, "engine": "local", **daemon}
    return {"daemon": who, "gpus": gpus or [], "jobs": jobs, "counts": counts}
