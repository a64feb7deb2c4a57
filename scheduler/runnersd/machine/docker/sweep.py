"""Clears away containers and gates that an earlier daemon left, or that came too late to be wanted."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from runnersd.in_thread import in_thread
from runnersd.machine import Row
from runnersd.machine.docker import body, kernel
from runnersd.machine.docker.connection import Connection
from runnersd.machine.docker.errors import EngineError, Unavailable, UnknownOutcome
from runnersd.machine.docker.gate import Gate
from runnersd.machine.docker.interior import Interiors
from runnersd.machine.docker.record import RecordFile
from runnersd.machine.docker.staging import Staging
from runnersd.machine.host import record as files
from runnersd.model import RunName

log = logging.getLogger(__name__)

#: What the engine says of a container that has no process, or should have none.
_STILL = ("created", "exited", "dead")
#: Seconds for killed processes to be gone; those that are not are looked at again with the next sweep.
_DYING = 2.0
_GATE = re.compile(r"runners-(staged-)?(.+?)-(\d+)-(\d+)(?(1)-\d+)")


class Sweep:
    """Of one database. ``gates`` is where gates are. Of a run, ``names`` says where its record and logs are, ``known``
    whether it is seen through here, ``row`` what the rows say."""

    def __init__(
        self,
        connection: Connection,
        staging: Staging,
        interiors: Interiors,
        database: str,
        gates: Path,
        *,
        names: Callable[[RunName], tuple[str, str, str]],
        known: Callable[[RunName], bool],
        row: Callable[[RunName], Awaitable[Row]],
    ) -> None:
        self._connection, self._staging, self._interiors = connection, staging, interiors
        self._database, self._gates = database, gates
        self._names, self._known, self._row = names, known, row
        self._quarantined: set[str] = set()

    async def sweep(self) -> None:
        """Once through everything.

        Raises:
            EngineError: the engine does not answer.
        """
        used: set[str] = set()
        for seen in await self._connection.containers(f"{body.DATABASE}={self._database}"):
            try:
                if not await self._container(seen):
                    used |= {str(mount.get("Source")) for mount in seen.get("Mounts") or ()}
            except (Unavailable, UnknownOutcome):
                raise
            except EngineError as error:
                log.warning("container %s: %s; trying again later", str(seen["Id"])[:12], error)
        for folder in await in_thread(_folders, self._gates):
            if folder not in used:
                await self._gate(Path(folder))

    async def _container(self, seen: Mapping[str, Any]) -> bool:
        """Clear it away if nobody wants it; whether it is gone."""
        container, labels = str(seen["Id"]), seen.get("Labels") or {}
        if body.PROBE in labels:
            if not self._interiors.open.isdisjoint(str(name).strip("/") for name in seen.get("Names") or ()):
                return False
            await self._connection.remove(container)
            return True
        try:
            run = RunName(self._database, int(labels[body.JOB]), int(labels[body.ATTEMPT]))
        except (KeyError, ValueError):
            return False  # somebody copied our label
        if container in self._quarantined or self._known(run):
            return False
        still = seen.get("State") in _STILL
        row = await self._row(run)
        if body.STAGED in labels:
            record = RecordFile.find(self._names(run)[0])
            taken = record is not None and record.said.container == container
            if self._staging.has(container) or (taken and row == "live"):
                return False
        elif row == "live":
            return False  # not taken up yet
        elif row == "unknown" and not still:
            # A database that was lost or put back: this may be somebody's training. Never kill what is not remembered.
            self._quarantined.add(container)
            log.warning("container %s says that it is %s, which this daemon does not know; it is left alone",
                        container[:12], run)  # fmt: skip
            return False
        elif not still:
            log.warning("container %s of %s runs though that is over; ending it", container[:12], run)
        try:
            async with asyncio.timeout(_DYING):
                await kernel.end(container)
        except TimeoutError:
            return False
        await self._connection.remove(container, force=True)
        if row == "over":
            await self.clear(run)
        return True

    async def _gate(self, folder: Path) -> None:
        found = _GATE.fullmatch(folder.name)
        if found is None or found[2] != self._database:
            return
        run = RunName(self._database, int(found[3]), int(found[4]))
        row = "live" if self._known(run) or self._staging.busy else await self._row(run)
        if row == "over":
            await self.clear(run)
        if row == "over" or (found[1] and row == "unknown" and not self._staging.keeps(folder)):
            await in_thread(Gate(folder).remove)

    async def clear(self, run: RunName) -> None:
        """Remove what is kept of a run that is over, but for its logs."""
        path, out, _ = self._names(run)
        await in_thread(Gate(self._gates / str(run)).remove)
        await in_thread(files.remove, [path, f"{out.removesuffix('.out')}.pos"])


def _folders(gates: Path) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(gates)]
    except FileNotFoundError:
        return []
