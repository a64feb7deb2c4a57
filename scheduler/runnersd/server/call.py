"""One request, read and checked: what a handler is given, and how it answers."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

from runners.errors import InvalidRequest, TooLarge, Unavailable
from runnersd.engine import Engine
from runnersd.in_thread import in_thread
from runnersd.model import Job, Pipeline, Submitter
from runnersd.server.feed import Feed
from runnersd.server.parameters import Target, is_line
from runnersd.server.peer import Access, Peer
from runnersd.server.problems import TooSlow

if TYPE_CHECKING:
    from runnersd.server.connection import Connection

#: The most that a body may hold, in bytes.
MAX_BODY = 8 << 20
#: Bodies from this size on are read by a thread, so that the loop goes on meanwhile; in bytes.
LARGE = 128 << 10
#: Seconds that a body may take to arrive.
BODY_TIMEOUT = 30.0
#: The longest Idempotency-Key.
MAX_KEY = 255


@dataclass(slots=True)
class Call:
    """A request that was found to be allowed. ``jobs`` are those its ID names, ``pipeline`` when it names one."""

    request: web.BaseRequest
    engine: Engine
    feed: Feed
    access: Access
    peer: Peer
    user: str
    background: Callable[[Coroutine[Any, Any, None]], None]  #: runs on when the answer is sent
    arguments: Mapping[str, str] = field(default_factory=dict)  #: parts of the path
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    target: Target | None = None
    pipeline: Pipeline | None = None
    jobs: list[Job] = field(default_factory=list)

    @property
    def operator(self) -> bool:
        """Whether the caller is root or one of the operators."""
        return self.access.is_operator(self.peer)

    @property
    def submitter(self) -> Submitter:
        """The caller as the owner of what is submitted."""
        return Submitter(self.peer.uid, self.peer.gid, self.peer.groups, self.user)

    @property
    def connection(self) -> Connection:
        """The connection the request came by."""
        connection: Connection = self.request.protocol  # type: ignore[assignment]  # Connections makes no other
        return connection

    def header(self, name: str) -> str | None:
        """A header's value; None where there is none."""
        return self.request.headers.get(name)

    def idempotency_key(self) -> str | None:
        """The caller's own name for this submission, so that sending it again queues nothing twice.

        Raises:
            InvalidRequest: it cannot be stored.
        """
        key = self.header("Idempotency-Key")
        if key is not None and (not 0 < len(key) <= MAX_KEY or not is_line(key)):
            raise InvalidRequest(f"cannot take the Idempotency-Key: it must be 1 to {MAX_KEY} printable characters")
        return key

    async def saved(self) -> None:
        """Wait until what is about to be said is on disk, where the disk takes anything at all: looking must go on
        when it is full."""
        try:
            await self.engine.store.committed()
        except Unavailable:
            return


def reply(data: Any, status: int = 200) -> web.Response:
    """JSON."""
    return web.Response(body=encode(data), status=status, content_type="application/json")


def encode(data: Any) -> bytes:
    """Compact JSON, ASCII only."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).encode()


async def read_body(request: web.BaseRequest) -> Any:
    """The request's JSON; an empty body is an empty object.

    Raises:
        TooLarge, TooSlow, InvalidRequest: it will not do.
    """
    length = request.content_length
    if length is not None and length > MAX_BODY:
        raise _too_large()
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    raw = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            while chunk := await request.content.readany():
                raw += chunk
                if len(raw) > MAX_BODY:
                    raise _too_large()
    except TimeoutError as error:
        raise TooSlow(f"cannot read the request: it did not arrive within {BODY_TIMEOUT:.0f}s") from error
    except web.RequestPayloadError as error:
        raise InvalidRequest(f"cannot read the request's body: {error}") from error
    if not raw:
        return {}
    return await in_thread(parse, raw) if len(raw) > LARGE else parse(raw)


def parse(raw: bytes | bytearray) -> Any:
    """The JSON in a body.

    Raises:
        InvalidRequest: it is none, or holds what JSON does not have (NaN, numbers out of range, endless nesting).
    """
    try:
        return json.loads(raw.decode(), parse_constant=_no_constant, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"cannot read the body: it is not UTF-8 (byte {error.start})") from error
    except RecursionError as error:
        raise InvalidRequest("cannot read the body: it is nested too deeply") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidRequest(f"cannot read the body: not JSON: {error.msg} ({where})") from error
    except ValueError as error:
        raise InvalidRequest(f"cannot read the body: {error}") from error


def as_object(body: Any) -> dict[str, Any]:
    """The body as an object.

    Raises:
        InvalidRequest: it is something else.
    """
    if not isinstance(body, dict):
        raise InvalidRequest("cannot read the body: it must be a JSON object")
    return body


def _too_large() -> TooLarge:
    return TooLarge(f"cannot take the request: its body is over {MAX_BODY >> 20} MiB; split it")


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is out of range")
    return number
