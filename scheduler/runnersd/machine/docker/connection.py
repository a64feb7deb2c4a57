"""Calls to the container engine over its socket: each has a deadline, and fails in the words of `errors`.

An engine that hangs over some containers answers for all others. So there are four clients of aiodocker, and none takes
the connections of another: for looks, for changes, for signals, and for streams that stay open. The API version is
agreed on anew at each connect. Some of aiodocker's own ways are left aside for what they do: its event and log readers
lose their streams and their connections, `run` and `create_or_replace` do two things in one.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import tarfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import aiohttp
from aiodocker import Docker
from aiodocker.exceptions import DockerError

from runnersd.machine.docker.errors import (
    Conflict,
    EngineError,
    NotFound,
    Refused,
    Unavailable,
    UnknownOutcome,
    one_line,
)
from runnersd.machine.docker.instance import Instance, who_answers

#: Seconds a call may take: looking, and changing something.
LOOK, CHANGE = 30.0, 120.0
#: Seconds to answer a new connection.
KNOCK = 10.0
#: Connections for looks, for changes, and for signals; each of them may hang. An attempt has one look at a time.
_LOOKS, _CHANGES, _SIGNALS = 256, 32, 64
#: The newest API that was tried, and the oldest that has what is needed.
NEWEST, OLDEST = (1, 51), (1, 40)
#: Bytes that an archive has beside a file's own.
_TAR = 1 << 16
#: aiodocker says this status when nobody answers.
_NOBODY = 900
#: How the engine's message ends when containerd, below it, does not answer.
_NO_CONTAINERD = ": unavailable"


@dataclass(frozen=True, slots=True)
class Engine:
    """The engine as it was at the last connect."""

    version: str
    api: str
    info: Mapping[str, Any]
    instance: Instance | None

    @property
    def live_restore(self) -> bool:
        """Whether containers outlive the engine."""
        return bool(self.info.get("LiveRestoreEnabled"))


class Connection:
    """The engine behind one socket. It may be absent, and come and go; `engine` is None until `connect`."""

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self.engine: Engine | None = None
        self.answered: dict[Instance, float] = {}  #: when (Unix seconds) each engine process last let somebody in
        self._clients: _Clients | None = None

    async def connect(self) -> Engine:
        """Reach the engine, whichever it is now, and agree on a version.

        Raises:
            Unavailable: it does not answer, or is too old.
        """
        if self._clients is None:
            self._clients = _Clients(*(_client(self.socket, limit) for limit in (_LOOKS, _CHANGES, _SIGNALS, 0)))
        async with _calling("reach the engine", LOOK):
            said = await _raw_version(self._clients.signals)
            api = _agreed(said)
            for client in self._clients:
                client.api_version = api
            info = await self._clients.signals.system.info()
        self.engine = Engine(str(said.get("Version", "?")), api, info, await self.instance())
        return self.engine

    async def close(self) -> None:
        """Let go of it."""
        clients, self._clients = self._clients, None
        for client in clients or ():
            await client.session.close()

    async def instance(self) -> Instance | None:
        """The engine process that answers a new connection, now; None when that cannot be told.

        A connection that was kept says less. An engine that ends shuts its door first, then kills its containers, and
        goes on answering those who are still in.

        Raises:
            Unavailable: none does.
        """
        asked = time.time()
        async with _calling("reach the engine", KNOCK):
            found = await who_answers(self.socket)
        if found is not None:
            self.answered[found] = asked
        return found

    # -- short calls ---------------------------------------------------------------------------------------------------

    async def create(self, name: str, body: Mapping[str, Any]) -> str:
        """Make a container; its id."""
        async with _calling(f"create {name}", CHANGE, changes=True):
            return (await self._open.changes.containers.create(dict(body), name=name)).id

    async def start(self, container: str) -> None:
        """Start it; nothing happens to one that runs."""
        async with _calling(f"start {container[:12]}", CHANGE, changes=True):
            await self._open.changes.containers.container(container).start()

    async def inspect(self, container: str) -> dict[str, Any]:
        """Everything the engine says of a container, by id or name."""
        async with _calling(f"look at {container[:64]}", LOOK):
            seen = await self._open.looks.containers.container(container).show()
            if not isinstance(seen, dict) or "Id" not in seen or not isinstance(seen.get("State"), dict):
                raise ValueError("it described no container")
            return seen

    async def kill(self, container: str, signal: int) -> None:
        """Send it a signal."""
        async with _calling(f"signal {container[:12]}", LOOK, changes=True):
            await self._open.signals.containers.container(container).kill(signal=str(signal))

    async def remove(self, container: str, *, force: bool = False) -> None:
        """Remove a container that does not run, with its anonymous volumes; nothing happens when it is gone."""
        async with _calling(f"remove {container[:12]}", CHANGE, changes=True):
            try:
                await self._open.changes.containers.container(container).delete(v=True, force=force)
            except DockerError as error:
                if error.status not in (404, 409) or (error.status == 409 and "in progress" not in error.message):
                    raise

    async def rename(self, container: str, name: str) -> None:
        """Give it another name."""
        async with _calling(f"rename {container[:12]}", LOOK, changes=True):
            await self._open.changes.containers.container(container).rename(name)

    async def containers(self, label: str) -> list[dict[str, Any]]:
        """Every container with the label (`name=value`), the ended ones too, as the engine lists them."""
        async with _calling("list containers", LOOK):
            found = await self._open.looks.containers.list(all=True, filters=json.dumps({"label": [label]}))
            return [dict(one._container) for one in found]

    async def image(self, name: str) -> dict[str, Any]:
        """What the engine says of an image that it has."""
        async with _calling(f"look at the image {name}", LOOK):
            return await self._open.looks.images.inspect(name)

    async def leads_to(self, container: str, path: str) -> str | None:
        """Where ``path`` leads in a container that has not been started: itself, or where its link ends; None if
        there is nothing. Links above its last part are followed.
        """
        async with (
            _calling(f"look into {container[:12]}", LOOK),
            self._open.looks.session.head(self._archive(container), params={"path": path}) as response,
        ):
            if response.status == 404:
                return None
            if response.status != 200:
                raise DockerError(response.status, f"cannot look at {path} in it")
            said = json.loads(base64.b64decode(response.headers["X-Docker-Container-Path-Stat"]))
            return str(said.get("linkTarget") or path)

    async def read_file(self, container: str, path: str, largest: int) -> bytes:
        """A small file of a container that has not been started.

        Raises:
            Refused: it is larger than ``largest`` bytes, or no file.
        """
        async with (
            _calling(f"read {path} in {container[:12]}", LOOK),
            self._open.looks.session.get(self._archive(container), params={"path": path}) as response,
        ):
            if response.status != 200:
                raise DockerError(response.status, f"cannot read {path} in it")
            data = bytearray()
            async for chunk in response.content.iter_any():
                data += chunk
                if len(data) > largest + _TAR:
                    raise Refused(f"cannot read {path} in it: it is larger than {largest} bytes")
            return _only_file(bytes(data))

    def _archive(self, container: str) -> str:
        docker = self._open.looks
        return f"{docker.docker_host}/{docker.api_version}/containers/{container}/archive"

    # -- streams -------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def stream(self, path: str, params: Mapping[str, str], what: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The raw bytes that a GET answers with, for as long as they come; closed for good when left.

        Raises:
            EngineError: it could not be opened, or broke off.
        """
        if self._clients is None:
            raise Unavailable(f"cannot {what}: the engine was not reached yet")
        docker = self._clients.streams
        url = f"{docker.docker_host}/{docker.api_version}/{path}"
        response: aiohttp.ClientResponse | None = None
        try:
            async with _calling(what, LOOK):
                response = await docker.session.get(url, params=params, timeout=aiohttp.ClientTimeout())
                if response.status >= 400:
                    raise DockerError(response.status, (await response.read()).decode(errors="replace")[:500])
            yield _bytes(response, what)
        finally:
            if response is not None:
                response.close()

    async def pull(self, name: str) -> AsyncIterator[dict[str, Any]]:
        """Have the engine pull an image; what it says of its progress, until that is done.

        Raises:
            Refused: the registry said no.
            EngineError: the engine did not answer, or broke off.
        """
        if self._clients is None:
            raise Unavailable(f"cannot pull {name}: the engine was not reached yet")
        try:
            async for said in self._clients.streams.images.pull(name, stream=True, timeout=None):
                yield said
        except DockerError as error:
            if error.status == _NOBODY:
                raise Unavailable(f"cannot pull {name}: {one_line(error.message)}") from error
            raise Refused(one_line(error.message)) from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unavailable(f"cannot pull {name}: the engine broke off ({error or type(error).__name__})") from error

    # -- inside --------------------------------------------------------------------------------------------------------

    @property
    def _open(self) -> _Clients:
        # What is made depends on what the engine can do, so nothing is asked of one that has not said that yet.
        if self._clients is None or self.engine is None:
            raise Unavailable("cannot reach the container engine: not connected yet")
        return self._clients


class _Clients(NamedTuple):
    """Of one engine, each with connections of its own. ``signals`` also asks it who it is."""

    looks: Docker
    changes: Docker
    signals: Docker
    streams: Docker


def _client(socket: str, limit: int) -> Docker:
    """With so many connections; 0: as many as are asked for."""
    connector = aiohttp.UnixConnector(socket, limit=limit)
    timeout = aiohttp.ClientTimeout(connect=5.0)
    return Docker(
        url="unix://localhost",
        connector=connector,
        session=aiohttp.ClientSession(connector=connector, timeout=timeout),
        timeout=timeout,
        api_version="v1.40",
    )


async def _raw_version(docker: Docker) -> dict[str, Any]:
    async with docker.session.get(f"{docker.docker_host}/version") as response:
        if response.status != 200:
            raise DockerError(response.status, (await response.read()).decode(errors="replace")[:500])
        said: dict[str, Any] = await response.json()
        return said


def _only_file(archive: bytes) -> bytes:
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            entry = tar.next()
            file = tar.extractfile(entry) if entry is not None and entry.isfile() else None
            if file is not None:
                return file.read()
    except tarfile.TarError as error:
        raise Refused(f"cannot read it: {error}") from error
    raise Refused("cannot read it: it is no file")


def _agreed(said: Mapping[str, Any]) -> str:
    theirs = _number(str(said.get("ApiVersion", "")))
    least = _number(str(said.get("MinAPIVersion") or "1.12"))
    agreed = min(theirs, NEWEST)
    if agreed < OLDEST or agreed < least:
        raise Unavailable(
            f"cannot use the engine: it speaks API {said.get('MinAPIVersion')} to {said.get('ApiVersion')}, "
            f"runners {OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"
        )
    return f"v{agreed[0]}.{agreed[1]}"


def _number(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)


@asynccontextmanager
async def _calling(what: str, seconds: float, *, changes: bool = False) -> AsyncIterator[None]:
    """Give a call its deadline, and translate how it fails. ``changes``: without an answer, it may have happened."""
    silent: type[EngineError] = UnknownOutcome if changes else Unavailable
    try:
        async with asyncio.timeout(seconds):
            yield
    except EngineError:
        raise
    except DockerError as error:
        raise _translated(what, error, silent) from error
    except TimeoutError as error:
        raise silent(f"cannot {what}: no answer in {seconds:g} s") from error
    except (aiohttp.ClientConnectorError, FileNotFoundError, ConnectionRefusedError, PermissionError) as error:
        raise Unavailable(f"cannot {what}: {error}") from error
    except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError) as error:
        raise silent(f"cannot {what}: the engine broke off ({error or type(error).__name__})") from error


def _translated(what: str, error: DockerError, silent: type[EngineError]) -> EngineError:
    text = f"cannot {what}: {one_line(error.message)}"
    if error.status == _NOBODY:
        never = isinstance(error.__context__, aiohttp.ClientConnectorError)
        return Unavailable(text) if never else silent(text)
    if error.status == 503 or error.message.rstrip().endswith(_NO_CONTAINERD):
        return silent(text)
    return {404: NotFound, 409: Conflict}.get(error.status, Refused)(text)


async def _bytes(response: aiohttp.ClientResponse, what: str) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, OSError) as error:
        raise Unavailable(f"cannot {what}: the engine broke off ({error or type(error).__name__})") from error
