"""Docker's API over a Unix socket, one request a connection: what a test asks, without the client under test."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read; None when there is none."""
        return json.loads(self.body) if self.body else None


class UnixConnection(http.client.HTTPConnection):
    """HTTP/1.1 to a Unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Borrowed from http.client: called before the first request."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def call(socket_path: Path, method: str, path: str, body: Any = None, *, timeout: float = 60.0) -> Answer:
    """One request, ``body`` sent as JSON, or as it is when it is bytes. ``timeout`` in seconds.

    Raises:
        OSError, http.client.HTTPException: no engine, or one that does not keep to HTTP.
    """
    raw = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    kind = "application/x-tar" if isinstance(body, bytes) else "application/json"
    connection = UnixConnection(socket_path, timeout)
    try:
        connection.request(method, path, raw, {"Content-Type": kind} if raw is not None else {})
        answer = connection.getresponse()
        return Answer(answer.status, answer.read())
    finally:
        connection.close()


@contextmanager
def following(socket_path: Path, path: str, *, timeout: float = 60.0) -> Iterator[http.client.HTTPResponse]:
    """A GET whose answer has begun and is read at leisure: logs, events. The connection is closed at the end."""
    connection = UnixConnection(socket_path, timeout)
    try:
        connection.request("GET", path)
        with connection.getresponse() as answer:
            yield answer
    finally:
        connection.close()
