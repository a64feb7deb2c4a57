"""What a store has promised up to a place of its recording, and whether another one keeps it."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

from core.builders import ANN
from runners.api import SETTLED
from runnersd.store import Store
from simulation.storing import check, queue, submission

#: An attempt only goes this way; a job that is queued again has had its attempt.
RANK = {"starting": 1, "running": 2, "queued": 3, "held": 3, **{state.value: 3 for state in SETTLED}}
_OVER = {state.value for state in SETTLED}
#: What must find nothing, in the rows of jobs from an id on: each batch is there whole, or not at all.
_BROKEN = {
    "a pipeline is not whole": "SELECT id FROM pipeline WHERE size <> (SELECT count(*) FROM job WHERE pipeline = pipeline.id)",
    "a job without its last event": (
        "SELECT id FROM job WHERE id >= ?1 AND 'job.' || state <> "
        "(SELECT type FROM event WHERE job = job.id ORDER BY id DESC LIMIT 1)"
    ),
    "a job without its attempts": (
        "SELECT id FROM job WHERE id >= ?1 AND "
        "(attempt <> (SELECT count(*) FROM event WHERE job = job.id AND type = 'job.starting') "
        "OR attempt <> (SELECT count(*) FROM attempt WHERE job = job.id))"
    ),
    "an end without its notice": (
        "SELECT id FROM event WHERE job >= ?1 AND type = 'job.succeeded' "
        "AND NOT EXISTS (SELECT 1 FROM notice WHERE event = event.id)"
    ),
    "an end without its summary": (
        "SELECT job FROM attempt WHERE job >= ?1 AND state = 'succeeded' "
        "AND NOT EXISTS (SELECT 1 FROM telemetry WHERE job = attempt.job AND attempt = attempt.attempt)"
    ),
}


@dataclass(slots=True)
class Promises:
    """Told line by line. Of a job the latest is kept; ``doomed`` may be pruned just now, ``gone`` are."""

    database: str | None = None
    keys: dict[str, tuple[int, ...]] = field(default_factory=dict)
    reached: dict[int, tuple[int, str]] = field(default_factory=dict)
    doomed: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)
    paused: int = -1
    since: int = 1  #: the first job that was not there from the beginning
    count: int = 0  #: lines heard

    def hear(self, line: str) -> None:
        """The next line."""
        what, *words = line.split()
        self.count += 1
        if what == "open":
            assert self.database in (None, words[0]), "another database was begun"
            self.database = words[0]
            self.paused = -1
        elif what == "submitted":
            self.keys[words[0]] = tuple(map(int, words[1:]))
            self.reached |= {id: (0, "queued") for id in self.keys[words[0]] if id not in self.reached}
        elif what == "found":
            for id, attempt, state in (word.split(":") for word in words):
                self.reached[int(id)] = (int(attempt), state)
        elif what == "job":
            self.reached[int(words[0])] = (int(words[1]), words[2])
        elif what == "paused":
            self.paused = int(words[0])
        elif what == "pruning":
            self.doomed |= set(map(int, words))
        elif what == "pruned":
            self.gone |= set(map(int, words))

    async def check(self, store: Store) -> None:
        """Everything is in the rows of that store, which has just been opened, or is further on; and it can go on.

        Raises:
            AssertionError: it is not; says what.
        """
        await check(store)
        found = await store._journal.read(self._rows)
        assert self.database in (None, store.database), "lost: the database"
        for id, (attempt, state) in self.reached.items():
            if id not in found:
                assert id in self.doomed, f"lost: job {id} ({state})"
                continue
            assert id not in self.gone, f"back: job {id} was forgotten"
            now = found[id]
            assert (now[0], RANK[now[1]]) >= (attempt, RANK[state]), f"lost: job {id} was {state}, is {now[1]}"
            assert state not in _OVER or now == (attempt, state), f"changed: job {id} was {state}, is {now[1]}"
        paused = int((store.paused or "pause -1").split()[-1]) if store.paused != "maintenance" else -1
        assert paused >= self.paused, f"lost: pause {self.paused}, is {paused}"
        await self._go_on(store)

    def _rows(self, rows: sqlite3.Connection) -> dict[int, tuple[int, str]]:
        """Every job's attempt and state, when all rows make sense."""
        for what, query in _BROKEN.items():
            assert not rows.execute(query, [self.since] if "?1" in query else []).fetchall(), what
        return {id: (attempt, state) for id, attempt, state in rows.execute("SELECT id, attempt, state FROM job")}

    async def _go_on(self, store: Store) -> None:
        """The keys are known, and ids are new ones."""
        for key, ids in list(self.keys.items())[-1:]:
            if self.doomed.isdisjoint(ids):
                accepted = await store.submit([submission()], ANN, key, 9.0)
                assert tuple(id for _, jobs in accepted for id, _ in jobs) == ids, f"lost: what key {key} made"
        (new,) = await queue(store)
        assert new > max(self.reached, default=0), f"given twice: job {new}"
