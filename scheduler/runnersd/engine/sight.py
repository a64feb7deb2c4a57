"""What the engine sees of the machine between turns: the cards, who owns them, and the disk."""

from __future__ import annotations

import logging
import pwd
import shutil
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase

from runners.pipeline.quantities import format_size
from runnersd.config import Config
from runnersd.machine import Cards, Gpus
from runnersd.model import Gpu, GpuProcess, Inventory
from runnersd.store.opening import RESERVE

log = logging.getLogger(__name__)


class Sight:
    """The latest inventory, with the owner of each card, as the config lets us see it."""

    def __init__(self, gpus: Gpus, cards: Cards, free_disk: Callable[[], int]) -> None:
        self._gpus, self._cards, self._free_disk = gpus, cards, free_disk
        self.inventory = Inventory()
        self._said: str | None = None
        self._users: dict[int, str] = {}

    async def look(self, config: Config) -> bool:
        """Look at the cards. Returns whether anything a plan depends on has changed."""
        seen = await self._gpus.observe()
        listed = [gpu for gpu in seen.gpus if _listed(gpu, config)]
        owners = self._cards.claim([gpu.uuid for gpu in listed])
        inventory = replace(
            seen,
            gpus=tuple(
                replace(gpu, owner=owners.get(gpu.uuid), processes=tuple(map(self._named, gpu.processes)))
                for gpu in listed
            ),
            unlisted=frozenset(gpu.uuid for gpu in seen.gpus if not _listed(gpu, config) and not gpu.lost),
        )
        if inventory.problem != self._said:
            self._said = inventory.problem
            if inventory.problem:
                log.warning("%s", inventory.problem)
            else:
                log.info("the driver answers again: %d cards", len(inventory.gpus))
        changed = _material(inventory) != _material(self.inventory)
        self.inventory = inventory
        return changed

    def _named(self, process: GpuProcess) -> GpuProcess:
        """The process with its user's name."""
        uid = process.uid
        if uid is None:
            return process
        if uid not in self._users:
            try:
                self._users[uid] = pwd.getpwuid(uid).pw_name
            except KeyError:
                self._users[uid] = ""
        return replace(process, user=self._users[uid])

    def low_disk(self, config: Config) -> str | None:
        """Why nothing may start for want of disk space, in a sentence; None when there is enough."""
        return _too_little(self._free_disk(), config, "the daemon keeps its state")

    def no_room(self) -> str | None:
        """Why nothing more may be taken in, in a sentence: what is left is for the ends of what is there already."""
        free = self._free_disk()
        return None if free >= RESERVE else f"{format_size(free)} left where the daemon keeps its state; free some"

    def engine_low_disk(self, config: Config, root: str) -> str | None:
        """The same of ``root``, where the container engine keeps its containers: without room none can be made, and
        each job would fail as soon as its turn came. None also where it cannot be seen.
        """
        try:
            free = shutil.disk_usage(root).free if root else None
        except OSError:
            return None
        return None if free is None else _too_little(free, config, "the container engine keeps its containers")


def _too_little(free: int, config: Config, where: str) -> str | None:
    least = config.jobs.min_free_disk
    if free >= least:
        return None
    return (
        f"{format_size(free)} left where {where}, {format_size(least)} must stay free (jobs.min_free_disk); free some"
    )


def _listed(gpu: Gpu, config: Config) -> bool:
    names = (str(gpu.index), gpu.uuid, gpu.name)
    only, exclude = config.gpus.only, config.gpus.exclude
    if only and not any(fnmatchcase(name, str(pattern)) for pattern in only for name in names):
        return False
    return not any(fnmatchcase(name, str(pattern)) for pattern in exclude for name in names)


def _material(inventory: Inventory) -> object:
    """What a plan depends on: not utilisation, temperature or power, which change at every look."""
    return (
        inventory.stale,
        inventory.topology,
        [(gpu.uuid, gpu.lost, gpu.owner, gpu.processes, (gpu.memory_used or 0) >> 28) for gpu in inventory.gpus],
    )
