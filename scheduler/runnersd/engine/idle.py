"""Watches running jobs for cards that do nothing, and has it noted when that is for too long, and when it is over.

What is not noted yet is kept here alone: a daemon that starts counts anew.
"""

from __future__ import annotations

from runnersd import lifecycle
from runnersd.model import Inventory
from runnersd.store import Store
from runnersd.telemetry.idleness import Look, look

#: Looks that are this much further apart (seconds) than they should be leave open what was between.
LATE = 30.0


class IdleCards:
    """The spells of the attempts whose cards do nothing now."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._last = Look({})

    def see(self, inventory: Inventory, after: float | None, now: float, *, poll: float) -> bool:
        """Note what the cards as just seen say. ``after``: for how long (seconds) they may do nothing; None: for ever.

        They are looked at every ``poll`` seconds. Returns whether anything was noted.
        """
        if not self._store.healthy:
            return False
        utilization = {} if inventory.stale else {gpu.uuid: gpu.utilization for gpu in inventory.gpus}
        live = list(self._store.snapshot.live.values())
        self._last = seen = look(live, utilization, self._last, after, now, gap=poll + LATE)
        for job, since in seen.idle:
            self._store.record(lifecycle.Idled(job.id, job.attempt, since), now)
        for job in seen.busy:
            self._store.record(lifecycle.Idled(job.id, job.attempt, None), now)
        return bool(seen.idle or seen.busy)
