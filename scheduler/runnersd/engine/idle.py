"""Watches running jobs for cards that do nothing, and has it noted when that is for too long, and when it is over.

What is not noted yet is kept here alone: a daemon that starts counts anew.
"""

from __future__ import annotations

from runnersd import lifecycle
from runnersd.model import Inventory
from runnersd.store import Store
from runnersd.telemetry.idleness import Spells, look


class IdleCards:
    """The spells of the attempts whose cards do nothing now."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._spells: Spells = {}

    def see(self, inventory: Inventory, after: float | None, now: float) -> bool:
        """Note what the cards as just seen say. ``after``: for how long (seconds) they may do nothing; None: for ever.

        Returns whether anything was noted.
        """
        if not self._store.healthy:
            return False
        utilization = {} if inventory.stale else {gpu.uuid: gpu.utilization for gpu in inventory.gpus}
        seen = look(list(self._store.snapshot.live.values()), utilization, self._spells, after, now)
        self._spells = seen.spells
        for job, since in seen.idle:
            self._store.record(lifecycle.Idled(job.id, job.attempt, since), now)
        for job in seen.busy:
            self._store.record(lifecycle.Idled(job.id, job.attempt, None), now)
        return bool(seen.idle or seen.busy)
