"""Watches who is on the cards of our attempts and does not belong there, and has it noted.

A note costs a commit, and a look comes every second: so what was last seen when is kept here, and noted when somebody
is first seen, has gone, is still there after a while, and when the attempt is over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from runners.api import AttemptView
from runnersd.inventory import foreign_processes
from runnersd.model import GpuId, GpuProcess, Intrusion, JobId
from runnersd.planner import World, supervisors_on
from runnersd.store import Store

#: Seconds after which it is noted that somebody still is there.
EVERY = 60.0
#: Seconds out of sight after which somebody has gone; the driver's lists may flicker.
GONE_AFTER = 10.0

_Place = tuple[JobId, int, GpuId, int]  # job, attempt, card, pid


@dataclass(slots=True)
class _Seen:
    """Somebody on a card, and until when that is noted."""

    now: Intrusion
    noted: float | None = None


class Intruders:
    """Those who are or were on the cards of live attempts."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._present: dict[_Place, _Seen] = {}
        self._told: set[tuple[_Place, int | None, str]] = set()  # there is an event of these
        self._generation = -1

    def see(self, world: World, now: float) -> None:
        """Note what is to be noted of ``world``, as it is now (Unix seconds)."""
        if not self._store.healthy:
            return
        if self._generation != self._store.generation:
            self._take_over()
        looked, found = _look(world)
        live = world.snapshot.live
        for place, process in found.items():
            self._meet(place, process, now)
        for place, seen in list(self._present.items()):
            id, attempt, gpu, _ = place
            over = id not in live or live[id].attempt != attempt
            gone = gpu in looked and place not in found and now - seen.now.until >= GONE_AFTER
            if over or gone:
                self._note(seen, now)
                del self._present[place]
            elif seen.noted is None or now - seen.noted >= EVERY:
                self._note(seen, now)
        self._told = {told for told in self._told if told[0][0] in live and live[told[0][0]].attempt == told[0][1]}

    def tell(self, job: JobId, attempts: list[AttemptView]) -> None:
        """Say of whoever is on the cards of a job's live attempt what was seen last, which is seldom noted."""
        seen = {
            (one.now.attempt, one.now.gpu, one.now.pid, one.now.since): one.now
            for place, one in self._present.items()
            if place[0] == job
        }
        for attempt in attempts:
            for other in attempt.get("contaminated", ()):
                now = seen.get((attempt["attempt"], other["gpu"], other["pid"], other["since"]))
                if now is not None:
                    other["until"], other["memory"] = max(other["until"], now.until), now.memory

    def _take_over(self) -> None:
        """Begin with what the rows say: at first, and when the store went back to them."""
        self._generation = self._store.generation
        self._told.clear()
        for seen in self._present.values():
            seen.noted = None
        for one in self._store.intrusions:
            place = (one.job, one.attempt, one.gpu, one.pid)
            self._told.add((place, one.uid, one.program))
            known = self._present.get(place)
            if known is None or known.now.since < one.since:
                self._present[place] = _Seen(one, one.until)
            elif known.now.since == one.since:
                known.noted = one.until

    def _meet(self, place: _Place, process: GpuProcess, now: float) -> None:
        seen = self._present.get(place)
        if seen is not None and (seen.now.uid, seen.now.program) == (process.uid, process.name):
            most = max((size for size in (seen.now.memory, process.memory) if size is not None), default=None)
            seen.now = replace(seen.now, until=max(now, seen.now.until), memory=most)
            return
        if seen is not None:
            self._note(seen, now)
        about = (process.uid, process.user, process.name, process.memory)
        self._present[place] = _Seen(Intrusion(*place, now, now, *about))

    def _note(self, seen: _Seen, now: float) -> None:
        """Have it noted, if anything is new."""
        one = seen.now
        if seen.noted == one.until:
            return
        told = ((one.job, one.attempt, one.gpu, one.pid), one.uid, one.program)
        self._store.intrude(one, now, news=told not in self._told)
        self._told.add(told)
        seen.noted = one.until


def _look(world: World) -> tuple[set[GpuId], dict[_Place, GpuProcess]]:
    """The cards of which it can be told who does not belong there, and who that is, for each attempt on the card.

    A supervisor that is not known yet may be above any process.
    """
    looked: set[GpuId] = set()
    found: dict[_Place, GpuProcess] = {}
    if world.inventory.stale:
        return looked, found
    for gpu in world.inventory.gpus:
        holders = world.snapshot.holders.get(gpu.uuid, {})
        if gpu.lost or not holders or any(id not in world.supervisors for id in holders):
            continue
        looked.add(gpu.uuid)
        for process in foreign_processes(gpu, supervisors_on(gpu, world), world.foreign):
            for job in holders.values():
                found[job.id, job.attempt, gpu.uuid, process.pid] = process
    return looked, found
