"""What an image holds where our mounts will lie: symbolic links, its groups, a shell. Asked once for each image.

An engine makes the place of a mount where it is missing, as root, after the mounts above it are there. A link in the
image leads that astray: with `/storage` pointing to `/workspace`, root makes a folder in the submitter's directory, or
in any other that they may only read. So before a container is made it is known where each of its places really is. It
is asked of a container of the image that has no mounts and is never started: an image itself cannot be looked into.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from runnersd.machine.docker.body import DATABASE, PROBE
from runnersd.machine.docker.connection import Connection
from runnersd.machine.docker.errors import EngineError
from runnersd.model import Image

#: Images that are remembered; with more, those that were asked about first are forgotten.
_KNOWN = 256
#: Bytes that are read of an image's list of groups.
_LARGEST = 1 << 20


_Step = Callable[[str], Awaitable[str | None]]


@dataclass(slots=True)
class _Interior:
    """What is known of one image. ``steps`` has, for a path, where it leads: None where there is nothing."""

    steps: dict[str, str | None] = field(default_factory=dict)
    groups: frozenset[str] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Interiors:
    """Looks into images. ``database`` is whose containers it makes for that."""

    def __init__(self, connection: Connection, database: str) -> None:
        self._connection, self._database = connection, database
        self._known: dict[str, _Interior] = {}
        self._numbers = itertools.count(1)
        self.open: set[str] = set()  #: names of the containers that are being looked into

    async def holds(self, image: Image, path: str) -> bool:
        """Whether the image has something at ``path``.

        Raises:
            EngineError: it could not be asked.
        """
        return await self._existing(image, path) is not None

    async def places(self, image: Image, paths: Iterable[str]) -> dict[str, str]:
        """Where in the image each path really leads, through its links. What is missing lies where it is named.

        Raises:
            EngineError: it could not be asked.
        """
        async with self._looking(image) as step:
            return {path: await _place(path, step) for path in paths}

    async def groups(self, image: Image) -> frozenset[str]:
        """The names in the image's list of groups.

        Raises:
            Refused: the list is too large to be one.
            EngineError: it could not be asked.
        """
        interior = self._of(image)
        if interior.groups is None:
            text, place = b"", await self._existing(image, "/etc/group")
            if place is not None:
                async with self._probe(image) as container:
                    text = await self._connection.read_file(container, place, _LARGEST)
            lines = text.decode(errors="replace").splitlines()
            interior.groups = frozenset(line.strip().partition(":")[0] for line in lines)
        return interior.groups

    # -- inside --------------------------------------------------------------------------------------------------------

    def _of(self, image: Image) -> _Interior:
        while image.id not in self._known and len(self._known) >= _KNOWN:
            del self._known[next(iter(self._known))]
        return self._known.setdefault(image.id, _Interior())

    async def _existing(self, image: Image, path: str) -> str | None:
        """Where the path leads, when there is something."""
        async with self._looking(image) as step:
            place = await _place(path, step)
            return place if place == "/" or await step(place) is not None else None

    @asynccontextmanager
    async def _looking(self, image: Image) -> AsyncIterator[_Step]:
        """What says where a path leads whose folder is no link. The engine is asked about each once."""
        interior = self._of(image)
        async with interior.lock, contextlib.AsyncExitStack() as stack:
            containers: list[str] = []

            async def step(path: str) -> str | None:
                if path not in interior.steps:
                    if not containers:
                        containers.append(await stack.enter_async_context(self._probe(image)))
                    interior.steps[path] = await self._connection.leads_to(containers[0], path)
                return interior.steps[path]

            yield step

    @asynccontextmanager
    async def _probe(self, image: Image) -> AsyncIterator[str]:
        """A container of the image to look into; gone at the end, or at the launcher's next sweep."""
        name = f"runners-look-{self._database}-{next(self._numbers)}"
        asked = {
            "Image": image.id,
            "Entrypoint": ["/"],
            "Labels": {DATABASE: self._database, PROBE: "yes"},
            "HostConfig": {"NetworkMode": "none", "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges"]},
        }
        self.open.add(name)
        try:
            container = await self._connection.create(name, asked)
            try:
                yield container
            finally:
                with contextlib.suppress(EngineError):
                    await self._connection.remove(container)
        finally:
            self.open.discard(name)


async def _place(path: str, step: _Step) -> str:
    place, rest = "", [part for part in path.split("/") if part]
    while rest:
        to = await step(f"{place}/{rest[0]}")
        if to is None:
            return "/".join([place, *rest])
        place, rest = to.rstrip("/"), rest[1:]
    return place or "/"
