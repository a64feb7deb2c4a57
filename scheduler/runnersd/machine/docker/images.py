"""Which image a name means, whether it will do, and pulls of those that are not there. No card is held meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from runners.pipeline.quantities import format_size
from runnersd.machine import LaunchFailed
from runnersd.machine.docker.body import OURS
from runnersd.machine.docker.connection import Connection
from runnersd.machine.docker.errors import EngineError, NotFound, Refused, one_line
from runnersd.model import Image, ImageState

log = logging.getLogger(__name__)

#: Seconds between pieces of news about one pull.
_NEWS = 0.5
#: Characters that all labels, or all variables, of an image may have.
MOST_TEXT = 64 << 10
MOST_VOLUMES = 32
#: Names that are remembered; with more, what was asked about first is found out again when it is wanted.
MOST_KNOWN = 10_000
_AGAIN = 2.0  # seconds before an engine that did not answer is asked again


class Images:
    """What is known of the images that jobs ask for. ``changed`` is called when that changes."""

    def __init__(self, connection: Connection, clock: Callable[[], float], changed: Callable[[], None]) -> None:
        self.known: dict[str, ImageState] = {}
        self._connection, self._clock, self._changed = connection, clock, changed
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def resolve(self, name: str) -> None:
        """Find out what the name means now, and pull it if the engine does not have it. Returns at once."""
        if name not in self._tasks:
            task = self._tasks[name] = asyncio.get_running_loop().create_task(self._resolve(name))
            task.add_done_callback(lambda _: self._tasks.pop(name, None))

    async def get(self, name: str) -> Image:
        """The image that the name means, as soon as that is known.

        Raises:
            LaunchFailed: it cannot be had.
        """
        known = self.known.get(name)
        while known is None or known.image is None:
            self.resolve(name)
            await asyncio.wait([self._tasks[name]])
            known = self.known.get(name)
            if known is not None and known.failure is not None:
                raise LaunchFailed(known.failure)
        return known.image

    def forget(self) -> None:
        """The engine is another: what it has is to be found out."""
        self.known = {name: state for name, state in self.known.items() if state.progress is not None}

    async def close(self) -> None:
        """Stop asking. A pull that the engine has begun goes on there."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _resolve(self, name: str) -> None:
        while True:
            try:
                try:
                    found = await self._connection.image(name)
                except NotFound:
                    await self._pull(name)
                    found = await self._connection.image(name)
                unfit = unfitness(found)
                if unfit is not None:
                    raise Refused(unfit)
                self._say(name, image=_image(name, found))
                return
            except (NotFound, Refused) as error:
                self._say(name, failure=f"cannot have the image {name}: {_plain(error)}")
                return
            except EngineError as error:
                log.warning("%s; trying again", error)
            await asyncio.sleep(_AGAIN)

    async def _pull(self, name: str) -> None:
        log.info("pulling the image %s", name)
        self._say(name, progress=f"pulling the image {name}")
        layers: dict[str, tuple[int, int]] = {}
        told = asyncio.get_running_loop().time()
        reference = name if "@" in name or ":" in name.rpartition("/")[2] else f"{name}:latest"
        async for said in self._connection.pull(reference):
            if "error" in said:
                raise Refused(one_line(str(said["error"])))
            _count(layers, said)
            now = asyncio.get_running_loop().time()
            if now - told >= _NEWS:
                told = now
                self._say(name, progress=progress(name, layers))
        log.info("pulled the image %s", name)

    def _say(self, name: str, **what: Any) -> None:
        self.known[name] = ImageState(self._clock(), **what)
        while len(self.known) > MOST_KNOWN:
            del self.known[next(iter(self.known))]
        self._changed()


def progress(name: str, layers: Mapping[str, tuple[int, int]]) -> str:
    """How far a pull is, in a sentence. ``layers`` has for each how many bytes are here and how many it has."""
    total = sum(size for _, size in layers.values())
    if not total:
        return f"pulling the image {name}"
    here = sum(done for done, _ in layers.values())
    whole = sum(size > 0 and done >= size for done, size in layers.values())
    return (
        f"pulling the image {name}: {format_size(here)} of {format_size(total)}, "
        f"{whole} of {len(layers)} layers complete"
    )


def unfitness(found: Mapping[str, Any]) -> str | None:
    """Why no job gets an image of which inspect says this, in a sentence; None when nothing is wrong with it.

    Each container repeats its image's labels and variables in every list and event that the engine gives.
    """
    config = found.get("Config") or {}
    labels = sum(len(name) + len(str(value)) for name, value in (config.get("Labels") or {}).items())
    variables = sum(len(one) for one in config.get("Env") or ())
    for what, size in (("labels", labels), ("variables", variables)):
        if size > MOST_TEXT:
            return f"its {what} take {format_size(size)}, and at most {format_size(MOST_TEXT)} are let in"
    volumes = len(config.get("Volumes") or {})
    if volumes > MOST_VOLUMES:
        return f"it has {volumes} volumes, and at most {MOST_VOLUMES} are let in"
    ours = [name for name in config.get("Labels") or {} if name.startswith(OURS)]
    if ours:
        return f"it has the label {one_line(min(ours))}, which only containers of runners have"
    return None


def _count(layers: dict[str, tuple[int, int]], said: Mapping[str, Any]) -> None:
    layer, status = said.get("id"), str(said.get("status", ""))
    if not layer:
        return
    detail = said.get("progressDetail") or {}
    done, size = layers.get(layer, (0, 0))
    if status == "Downloading":
        layers[layer] = (int(detail.get("current") or done), int(detail.get("total") or size))
    elif status in ("Download complete", "Pull complete"):
        layers[layer] = (size, size)


def _image(name: str, found: Mapping[str, Any]) -> Image:
    config = found.get("Config") or {}
    environment = tuple((key, value) for key, _, value in (one.partition("=") for one in config.get("Env") or ()))
    volumes = tuple(sorted(config.get("Volumes") or {}))
    return Image(str(found["Id"]), name, environment, int(found.get("Size") or 0), volumes)


def _plain(error: EngineError) -> str:
    """The registry's own words, without the engine's preamble."""
    return str(error).removeprefix("Error response from daemon: ").strip() or type(error).__name__
