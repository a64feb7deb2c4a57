"""One client's connection: who it is, how many it has, and how long it may take to send a request.

aiohttp speaks HTTP; what this adds is what a daemon for many users needs: credentials read once from the kernel, a
bound on connections per user, malformed HTTP answered by a problem document, and streams that end with their client.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from typing import Any, cast

from aiohttp import web

from runnersd.server import problems
from runnersd.server.peer import Peer, peer_of

log = logging.getLogger(__name__)

#: Connections one user may have at once; followers of logs and events keep one each.
MAX_CONNECTIONS = 256
#: Seconds that a client may take to send a request, and that a connection may stay idle.
REQUEST_TIMEOUT = 30.0
#: Seconds that the rest of a refused body is read and thrown away, so that the client can read the answer.
LINGER = 5.0
#: Bytes that the first line of a request may have: `status` names the jobs there, some thousands of them.
LONGEST_LINE = 64 << 10


class Connection(web.RequestHandler):
    """A connection with a known peer."""

    __slots__ = ("_counted", "_per_user", "peer", "stream")

    def __init__(self, manager: Connections, **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self._per_user = manager.per_user
        self.peer: Peer | None = None
        self.stream: asyncio.Task[Any] | None = None  #: what to end when the client goes
        self._counted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Learn who it is; refuse a user with too many connections."""
        stream = cast(asyncio.Transport, transport)
        try:
            peer = peer_of(transport.get_extra_info("socket"))
        except OSError as error:
            log.warning("dropped a connection whose peer the kernel does not name", extra={"error": str(error)})
            stream.abort()
            super().connection_made(transport)
            return
        if self._per_user[peer.uid] >= MAX_CONNECTIONS:
            stream.write(_too_many())
            stream.close()
        else:
            self._counted = True
            self._per_user[peer.uid] += 1
        self.peer = peer
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Read on, unless the connection was refused."""
        if self._counted:
            super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the client, and end what was being streamed to it."""
        if self._counted and self.peer is not None:
            self._counted = False
            self._per_user[self.peer.uid] -= 1
            if not self._per_user[self.peer.uid]:
                del self._per_user[self.peer.uid]
        if self.stream is not None:
            self.stream.cancel()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is not even HTTP, as a problem document; the connection ends with it."""
        if request.writer.output_size > 0:
            raise ConnectionError("cannot answer: a part of another answer is sent already")
        if status >= 500:
            log.error("connection failed", exc_info=exc)
            body = problems.document(status, "internal", "cannot answer: the daemon failed; its log has the traceback")
        else:
            log.debug("malformed request", extra={"error": message or str(exc)})
            first = (message or "malformed HTTP").strip().splitlines()[0][:200]
            body = problems.document(status, "invalid-request", f"cannot read the request: {first}")
        answer = problems.answer(body)
        answer.force_close()
        return answer


class Connections(web.Server):
    """Makes a :class:`Connection` for every client, and counts them per user."""

    def __init__(self, handler: Any) -> None:
        super().__init__(handler)
        self.per_user: Counter[int] = Counter()

    def __call__(self) -> web.RequestHandler:
        """The protocol of a new connection."""
        return Connection(
            self,
            loop=asyncio.get_running_loop(),
            access_log=None,
            keepalive_timeout=REQUEST_TIMEOUT,
            tcp_keepalive=False,
            lingering_time=LINGER,
            max_line_size=LONGEST_LINE,
            auto_decompress=False,
            logger=log,
        )


def _too_many() -> bytes:
    detail = f"cannot connect: you have {MAX_CONNECTIONS} connections open; close some"
    body = json.dumps(problems.document(429, "quota-exceeded", detail)).encode()
    head = (
        "HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\n"
        f"Content-Type: {problems.CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
