"""Finds processes of ours on the cards that have outlived the attempt they were of.

An attempt is over when its last process is gone, as far as its supervisor can see. What is found here had got out of
sight: its supervisor was killed and it did not die, or the container engine forgot it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from runners.errors import NotFound, Unavailable
from runnersd.inventory import foreign_processes, process_text
from runnersd.model import Gpu, GpuProcess, JobId
from runnersd.planner import World, supervisors_on
from runnersd.store import Store

log = logging.getLogger(__name__)

_INSIDE = re.compile(r"(\d{1,18})\.(\d{1,9})", re.ASCII)


class Leftovers:
    """The processes that are left over. ``change_user``: jobs run as who submitted them, so their processes do too."""

    def __init__(self, store: Store, *, change_user: bool) -> None:
        self._store, self._change_user = store, change_user
        self._name = re.compile(rf"runners-{re.escape(store.database)}-(\d{{1,18}})-(\d{{1,9}})", re.ASCII)
        self._checked: dict[tuple[int, str], tuple[JobId, int] | None] = {}
        self._said: dict[int, JobId] = {}

    @property
    def found(self) -> Mapping[int, JobId]:
        """Their pids, and which job has left them."""
        return {key[0]: of[0] for key, of in self._checked.items() if of is not None and self._over(*of)}

    async def look(self, world: World) -> bool:
        """Find them among what is foreign in ``world``, and say so. Returns whether others are found than before."""
        checked: dict[tuple[int, str], tuple[JobId, int] | None] = {}
        seen: dict[int, tuple[Gpu, GpuProcess]] = {}
        for gpu in world.inventory.gpus:
            for process in foreign_processes(gpu, supervisors_on(gpu, world), world.foreign):
                if not process.run:
                    continue
                key = (process.pid, process.run)
                try:
                    checked[key] = self._checked[key] if key in self._checked else await self._attempt_of(process, gpu)
                except Unavailable:
                    continue  # asked again at the next look
                seen[process.pid] = (gpu, process)
        self._checked = checked
        found = dict(self.found)
        for pid in found.keys() - self._said.keys():
            gpu, process = seen[pid]
            whose = f"{process_text(process)} is on card {gpu.index}, and its job {found[pid]} is over"
            log.warning("%s: the card stays held until it is gone", whose)
        for pid in self._said.keys() - found.keys():
            log.info("process %d, which job %d had left on a card, is gone", pid, self._said[pid])
        changed, self._said = found != self._said, found
        return changed

    async def _attempt_of(self, process: GpuProcess, gpu: Gpu) -> tuple[JobId, int] | None:
        """The attempt that the process says it is of, if that can be true."""
        named, inside = self._name.fullmatch(process.run), _INSIDE.fullmatch(process.run)
        match = named or inside
        if match is None:
            return None
        id, attempt = int(match[1]), int(match[2])
        try:
            job = await self._store.job(id)
        except NotFound:
            return None
        if self._change_user and process.uid not in (None, job.pipeline.submitter.uid):
            return None
        if inside is not None:
            # The name does not say which daemon's job it is: then the job must have had this card.
            tries = await self._store.archive.attempts(id)
            if not any(one["attempt"] == attempt and gpu.uuid in one["gpus"] for one in tries):
                return None
        return id, attempt

    def _over(self, id: JobId, attempt: int) -> bool:
        job = self._store.snapshot.jobs.get(id)
        return job is None or not job.live or job.attempt != attempt
