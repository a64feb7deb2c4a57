"""The server: finds a request's route, checks who asks, reads what it says, and answers; errors become problems here.

connection (who) --> route (what, who may) --> query, body, job --> handler --> engine
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Coroutine, Mapping
from typing import Any

from aiohttp import web

from runners.errors import InvalidRequest, NotAllowed, NotFound
from runnersd.config import Config
from runnersd.engine import Engine
from runnersd.in_thread import in_thread
from runnersd.server import problems
from runnersd.server.call import Call, as_object, read_body
from runnersd.server.connection import Connection, Connections
from runnersd.server.feed import Feed
from runnersd.server.listen import BACKLOG, Listener, listeners
from runnersd.server.parameters import target
from runnersd.server.peer import Access, Names, Peer, group_id
from runnersd.server.problems import MethodNotAllowed
from runnersd.server.routes import ROUTES, May, Route

log = logging.getLogger(__name__)

#: Seconds that requests under way have to end when the server closes; streams are ended at once.
CLOSE_TIMEOUT = 5.0
#: The longest path of a request that is looked at.
MAX_PATH = 1000


async def serve(engine: Engine, config: Config, *, sockets: Mapping[str, int]) -> Server:
    """Listen and answer. ``sockets`` are the listening ones that systemd passed; with none, one is made as ``config``
    says. Call it with the state directory locked.

    Raises:
        InvalidConfig, Unavailable: there is no way to listen; see `listen.listeners`.
    """
    server = Server(engine, listeners(config, sockets))
    await server.start()
    return server


class Server:
    """Answers on its sockets until closed."""

    def __init__(self, engine: Engine, listening: list[Listener]) -> None:
        self._engine = engine
        self._listening = listening
        self._connections = Connections(self._handle)
        self._accepting: list[asyncio.Server] = []
        self._feed = Feed(engine.store)
        self._names = Names()
        self._tasks: set[asyncio.Task[None]] = set()
        self._config: Config | None = None
        self._access = Access(False, os.geteuid())

    async def start(self) -> None:
        """Begin to accept."""
        loop = asyncio.get_running_loop()
        for listener in self._listening:
            self._accepting.append(
                await loop.create_unix_server(self._connections, sock=listener.sock, backlog=BACKLOG)
            )

    async def close(self) -> None:
        """Accept no more, end streams, let other requests end, and take our own socket files away."""
        for listener in self._listening:
            listener.remove()
        for accepting in self._accepting:
            accepting.close()
        for connection in self._connections.connections:
            if isinstance(connection, Connection) and connection.stream is not None:
                connection.stream.cancel()
        self._connections.pre_shutdown()
        await self._connections.shutdown(CLOSE_TIMEOUT)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._feed.close()

    @property
    def access(self) -> Access:
        """Who may do what, by the configuration in force."""
        if self._config is not self._engine.config:
            self._config = config = self._engine.config
            operators = group_id(config.operators) if config.system else None
            self._access = Access(config.system, os.geteuid(), operators)
        return self._access

    # -- one request -------------------------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection), "Connections makes no other"
        assert connection.peer is not None, "a connection without a peer is dropped before it can ask"
        began = time.monotonic()
        try:
            answer = await self._answer(request, connection.peer)
        except ConnectionError:
            raise
        except Exception as error:
            if request.writer.output_size > 0:
                # The head is sent: all that can be done is to break off, which the client sees as such.
                log.error("stream failed", exc_info=error, extra={"path": request.path})
                raise ConnectionError("the answer broke off") from error
            answer = problems.response(error, method=request.method, path=request.path)
        finally:
            connection.stream = None
        if log.isEnabledFor(logging.DEBUG):
            taken = round((time.monotonic() - began) * 1000, 1)
            log.debug(
                "request",
                extra={
                    "method": request.method,
                    "path": request.path,
                    "status": answer.status,
                    "ms": taken,
                    "uid": connection.peer.uid,
                    "pid": connection.peer.pid,
                },
            )
        return answer

    async def _answer(self, request: web.BaseRequest, peer: Peer) -> web.StreamResponse:
        access = self.access
        if not access.admits(peer):
            raise NotAllowed("cannot use this daemon: it is another user's; start your own with `runners-client up`")
        route, arguments = find(request.method, request.path)
        if route.may is May.OPERATOR:
            access.check_operator(peer, route.act)
        call = Call(
            request=request,
            engine=self._engine,
            feed=self._feed,
            access=access,
            peer=peer,
            user=await self._user(peer.uid),
            background=self._background,
            arguments=arguments,
            query=route.query.read(_query(request), "query"),
        )
        if "id" in arguments:
            await self._find_jobs(call, route)
        if route.document is not None or route.body is not None:
            call.body = await read_body(request)
            if route.body is not None:
                call.body = route.body.read(as_object(call.body), "body")
        return await route.handler(call)

    async def _user(self, uid: int) -> str:
        known = self._names.known.get(uid)
        # Users may be kept on the network: the loop does not wait for them.
        return known if known is not None else await in_thread(self._names.of, uid)

    async def _find_jobs(self, call: Call, route: Route) -> None:
        """What the ID names, if the caller may have it."""
        store = self._engine.store
        call.target = named = target(call.arguments["id"])
        if named.kind == "pipeline":
            call.pipeline, call.jobs = await store.pipeline(named.number)
        else:
            call.jobs = [await store.job(named.number)]
        if route.may is May.OWNER:
            for job in call.jobs[:1]:
                call.access.check_owner(call.peer, job, route.act)

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        async def told() -> None:
            try:
                await work
            except Exception:
                log.exception("a request's work failed after its answer")

        task = asyncio.create_task(told())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


# -- routes ------------------------------------------------------------------------------------------------------------

_BY_SHAPE: dict[tuple[str, ...], list[tuple[tuple[str, ...], Route]]] = {}


def _shape(parts: tuple[str, ...]) -> tuple[str, ...]:
    """A path with its variable parts left open."""
    return tuple("*" if part.startswith("{") else part for part in parts)


for _route in ROUTES:
    _parts = tuple(_route.path.split("/"))
    _BY_SHAPE.setdefault(_shape(_parts), []).append((_parts, _route))


def find(method: str, path: str) -> tuple[Route, dict[str, str]]:
    """The route of a request, and the variable parts of its path.

    Raises:
        NotFound: there is no such path.
        MethodNotAllowed: there is, for other methods.
    """
    parts = tuple(path.split("/")) if len(path) <= MAX_PATH else ()
    for shape in _shapes_of(parts):
        routes = _BY_SHAPE.get(shape)
        if routes is None:
            continue
        for names, route in routes:
            if route.method == method or (method == "HEAD" and route.method == "GET"):
                variable = {name[1:-1]: part for name, part in zip(names, parts, strict=True) if name.startswith("{")}
                return route, variable
        raise MethodNotAllowed(method[:20], path, sorted({route.method for _, route in routes}))
    raise NotFound(f"cannot find {path[:100]!a}: GET /v1/openapi.json lists what there is")


def _shapes_of(parts: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The shapes a path may have: as it is, and with its fourth part (`/v1/jobs/{id}`) left open."""
    return [parts, (*parts[:3], "*", *parts[4:])] if len(parts) > 3 and parts[3] else [parts]


def _query(request: web.BaseRequest) -> list[tuple[str, str]]:
    try:
        return list(request.rel_url.query.items())
    except ValueError as error:
        raise InvalidRequest(f"cannot read the query: {error}") from error
