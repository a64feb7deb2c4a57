"""A proxy before an engine's socket that breaks things to order, while the effect on the engine is real.

    with Proxy(folder / "proxy.sock", engine.socket) as proxy:
        hang = proxy.fault("POST", "/containers/*/start", Hang(after_effect=True), times=1)
        ...                                             # the container runs; whoever started it waits
        hang.lift()                                     # and now gets the answer
        (events,) = proxy.streams("GET", "/events")
        events.inject(b"x" * (1 << 20) + b"\\n")
        events.stall()                                  # dies silently

It runs in a thread of its own, so a blocked test does not hold it up.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self, TypeVar

from engine.http import Head, Stream, chunk, has_no_body

T = TypeVar("T")
PATIENCE = 10.0  # seconds for the proxy itself to do a thing


@dataclass(frozen=True)
class Hang:
    """No answer until the fault is lifted; with ``after_effect`` the engine has done it already."""

    after_effect: bool = False


@dataclass(frozen=True)
class Delay:
    """The answer so many seconds late; with ``after_effect`` the engine does it at once."""

    seconds: float
    after_effect: bool = True


@dataclass(frozen=True)
class Disconnect:
    """The connection closed in place of an answer; with ``after_effect`` the engine has done it."""

    after_effect: bool = True


@dataclass(frozen=True)
class Reply:
    """Another answer; with ``after_effect`` the engine has done it all the same. 304 and 204 have no message."""

    status: int
    message: str = "said the proxy"
    after_effect: bool = False

    @property
    def raw(self) -> bytes:
        """As Docker words an error."""
        body = b"" if has_no_body("", self.status) else json.dumps({"message": self.message}).encode()
        head = f"HTTP/1.1 {self.status} Fault\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return (head if body else f"HTTP/1.1 {self.status} Fault\r\n\r\n").encode() + body


What = Hang | Delay | Disconnect | Reply


@dataclass(eq=False)
class Fault:
    """One order to break calls: how many it has broken, and how to stop it."""

    method: str
    path: str
    what: What
    skip: int
    times: int | None
    lift: Callable[[], None] = lambda: None
    hits: int = 0
    lifted: asyncio.Event = field(default_factory=asyncio.Event)

    def takes(self, exchange: Exchange) -> bool:
        """This call is one to break; counts."""
        if self.lifted.is_set() or not exchange.matches(self.method, self.path):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.times is not None and self.hits >= self.times:
            return False
        self.hits += 1
        return True


@dataclass(eq=False)
class Exchange:
    """One call through the proxy: what was asked (``path`` without the version), and what became of it."""

    method: str
    path: str
    query: str
    status: int | None = None
    fault: What | None = None
    open: bool = True
    stalled: bool = False
    steer: Callable[[str, bytes], None] = lambda order, data: None

    @classmethod
    def of(cls, head: Head) -> Exchange:
        """The call of a request's head."""
        method, target, _ = head.first.split(" ")
        path, _, query = target.partition("?")
        return cls(method, re.sub(r"^/v\d+\.\d+(?=/)", "", path), query)

    def matches(self, method: str, path: str) -> bool:
        """Both are globs."""
        return fnmatchcase(self.method, method) and fnmatchcase(self.path, path)

    def stall(self) -> None:
        """Pass on nothing more, and stay open."""
        self.steer("stall", b"")

    def inject(self, data: bytes) -> None:
        """Put something into the answer, between what the engine says."""
        self.steer("inject", data)

    def cut(self) -> None:
        """Close the connection in the middle of the answer."""
        self.steer("cut", b"")

    def end(self) -> None:
        """Have the answer be over, as if the engine had nothing more to say."""
        self.steer("end", b"")


class Proxy:
    """Listens at ``socket`` for the engine at ``upstream``; with no upstream every call hangs. A context manager."""

    def __init__(self, socket: Path, upstream: Path | None = None) -> None:
        self.socket = socket
        self.upstream = upstream
        #: Every call since the start, in the order they came.
        self.exchanges: list[Exchange] = []
        #: Connections open now, to the engine and from callers.
        self.upstream_open = 0
        self.clients_open = 0
        self._faults: list[Fault] = []
        self._clients: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="docker-proxy", daemon=True)
        self._listener: socket.socket | None = None

    # -- for tests

    def __enter__(self) -> Self:
        self._thread.start()
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    def up(self) -> None:
        """Listen."""
        self._do(self._listen())

    def down(self) -> None:
        """Close the socket and every connection, as an engine that ends does."""
        self._do(self._close())

    def fault(self, method: str, path: str, what: What, *, skip: int = 0, times: int | None = None) -> Fault:
        """Break calls: globs of the method and of the path without version and query.

        The first ``skip`` calls pass, then ``times`` are broken, or all. The earliest order that fits a call breaks it.
        """

        async def order() -> Fault:
            fault = Fault(method, path, what, skip, times)
            fault.lift = lambda: self._do(lift(fault))
            self._faults.append(fault)
            return fault

        async def lift(fault: Fault) -> None:
            fault.lifted.set()

        return self._do(order())

    def clear(self) -> None:
        """Lift every fault."""
        for fault in self._faults:
            fault.lift()

    def calls(self, method: str, path: str) -> list[Exchange]:
        """All calls that match these globs, over or not."""
        return [exchange for exchange in self.exchanges if exchange.matches(method, path)]

    def streams(self, method: str, path: str) -> list[Exchange]:
        """Calls that match and whose answer has begun and is not over."""
        return [call for call in self.calls(method, path) if call.open and call.status is not None]

    # -- the loop's side

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    # Not asyncio's server: closed between a connection's coming and its acceptance, that one loses the socket.
    async def _listen(self) -> None:
        self.socket.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.setblocking(False)
        self._listener.bind(str(self.socket))
        self._listener.listen(1024)
        self._loop.add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError):
            connection, _ = listener.accept()
            task = self._loop.create_task(self._client(connection))
            self._clients.add(task)
            task.add_done_callback(self._clients.discard)

    async def _close(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
            self.socket.unlink(missing_ok=True)
        await asyncio.sleep(0)  # every task has begun, and so closes its connection when cancelled
        clients = list(self._clients)
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    async def _client(self, connection: socket.socket) -> None:
        self.clients_open += 1
        try:
            # Either side may close, or not be there; a task is cancelled when the proxy goes down.
            with suppress(OSError, asyncio.CancelledError):
                async with connected(await asyncio.open_unix_connection(sock=connection)) as client:
                    while (head := await client.head()) is not None and await self._exchange(client, head):
                        pass
        finally:
            self.clients_open -= 1

    async def _exchange(self, client: Stream, head: Head) -> bool:
        """One call. False when the connection cannot be used for another."""
        exchange = Exchange.of(head)
        request = head.raw + await client.body(head)
        self.exchanges.append(exchange)
        try:
            fault = next((fault for fault in self._faults if fault.takes(exchange)), None)
            if fault is None and self.upstream is not None:
                return await self._pass_on(client, exchange, request)
            return await self._break(client, exchange, request, fault)
        finally:
            exchange.open = False

    async def _break(self, client: Stream, exchange: Exchange, request: bytes, fault: Fault | None) -> bool:
        what, held = (fault.what, fault.lifted) if fault is not None else (Hang(), asyncio.Event())
        exchange.fault = what
        # To the end, even if the caller leaves meanwhile: the effect was promised.
        answer = await self._answer(exchange, request) if what.after_effect else None
        if isinstance(what, Disconnect):
            client.abort()
            return False
        if isinstance(what, Reply):
            exchange.status = what.status
            answer = what.raw
        else:
            hold = asyncio.sleep(what.seconds) if isinstance(what, Delay) else held.wait()
            if not await before(hold, client.gone()):
                return False
        if answer is None:
            return await self._pass_on(client, exchange, request)
        client.writer.write(answer)
        await client.writer.drain()
        return True

    async def _answer(self, exchange: Exchange, request: bytes) -> bytes:
        """The engine's whole answer, whether or not somebody still waits for it."""
        async with self._engine() as engine:
            engine.writer.write(request)
            head = await engine.head()
            if head is None:
                raise ConnectionResetError("the engine closed")
            exchange.status = int(head.first.split(" ")[1])
            return head.raw + (b"" if has_no_body(exchange.method, exchange.status) else await engine.body(head))

    async def _pass_on(self, client: Stream, exchange: Exchange, request: bytes) -> bool:
        async with self._engine() as engine:
            engine.writer.write(request)
            answer = asyncio.ensure_future(engine.head())
            if not await before(answer, client.gone()):
                return False  # the caller left, and so the engine is left too
            head = answer.result()
            if head is None:
                raise ConnectionResetError("the engine closed")
            exchange.steer = lambda order, data: self._do(steer(client, exchange, head, order, data))
            exchange.status = int(head.first.split(" ")[1])
            client.writer.write(head.raw)
            await client.writer.drain()
            if exchange.status == 101 or not (head.chunked or head.length is not None or head_only(exchange)):
                await self._join(client, engine)
                return False
            return head_only(exchange) or await before(self._relay(client, engine, exchange, head), client.gone())

    async def _relay(self, client: Stream, engine: Stream, exchange: Exchange, head: Head) -> None:
        async for piece in engine.pieces(head):
            if not exchange.stalled:
                client.writer.write(piece)
                await client.writer.drain()
        if exchange.stalled:
            await asyncio.Event().wait()  # the engine has left; whoever is stalled is not told

    async def _join(self, client: Stream, engine: Stream) -> None:
        """From here on both sides speak when they like: attach and exec."""

        async def there() -> None:
            while data := await client.block():
                engine.writer.write(data)
                await engine.writer.drain()
            engine.writer.write_eof()

        speaking = asyncio.ensure_future(there())
        try:
            while data := await engine.block():
                client.writer.write(data)
                await client.writer.drain()
        finally:
            speaking.cancel()
            await asyncio.gather(speaking, return_exceptions=True)

    @asynccontextmanager
    async def _engine(self) -> AsyncIterator[Stream]:
        if self.upstream is None:
            raise ConnectionRefusedError("no engine")
        self.upstream_open += 1
        try:
            async with connected(await asyncio.open_unix_connection(self.upstream)) as engine:
                yield engine
        finally:
            self.upstream_open -= 1


@asynccontextmanager
async def connected(ends: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> AsyncIterator[Stream]:
    """A connection that is closed at the end: once all is sent, or at once when something went wrong."""
    stream = Stream(*ends)
    try:
        yield stream
        stream.writer.close()
        await stream.writer.wait_closed()
    finally:
        stream.abort()


async def before(wanted: Awaitable[Any], other: Awaitable[Any]) -> bool:
    """``wanted`` was done before ``other``; the later one is called off. What ``wanted`` raises is raised."""
    tasks = [asyncio.ensure_future(wanted), asyncio.ensure_future(other)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            await tasks[0]
        return tasks[0].done()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def steer(client: Stream, exchange: Exchange, head: Head, order: str, data: bytes) -> None:
    """Do to an answer under way what its methods say."""
    if order == "stall":
        exchange.stalled = True
    elif order == "inject":
        client.writer.write(chunk(data) if head.chunked else data)
    elif order == "cut":
        client.abort()
    elif order == "end":
        client.writer.write(chunk(b"") if head.chunked else b"")
        client.writer.close()


def head_only(exchange: Exchange) -> bool:
    """Its answer has no body."""
    return exchange.status is not None and exchange.status != 101 and has_no_body(exchange.method, exchange.status)
