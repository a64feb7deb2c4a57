"""A real store on a real disk, and ways to compare what it remembers with what its rows say."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from core.builders import ANN, spec
from runners.api import WAITING, Code
from runners.spec import JobSpec, PipelineSpec, Submission
from runnersd import lifecycle
from runnersd.model import Intrusion, Job, Reason, Submitter
from runnersd.notices.notice import Notice, Receiver
from runnersd.store import Store
from runnersd.store.memory import Memory
from runnersd.store.reading import load

T = TypeVar("T")
OK = Reason(Code.OK, "ended well")
BOB = Submitter(1001, 1001, (1001, 7), "bob")
ENVIRONMENT = {"PATH": "/usr/bin", "SECRET": "hush"}


class Clock:
    """Time that moves when told, in Unix seconds."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.123456

    def __call__(self) -> float:
        return self.now


def run(work: Callable[[], Awaitable[T]], seconds: float = 60.0) -> T:
    """Run the coroutine function in a loop of its own, and not for ever."""

    async def timed() -> T:
        async with asyncio.timeout(seconds):
            return await work()

    return asyncio.run(timed())


class Asking:
    """Ann, who wants a mail of events of one type."""

    def __init__(self, type: str) -> None:
        self.type = type
        self.on_disk: list[Notice] = []
        self.restorations = 0

    def notices(self, type: str, job: Job, before: Job, event: int, at: float, by: Intrusion | None) -> list[Notice]:
        receiver = Receiver("mail", "ann@lab")
        return [Notice(event, at, "end", 1000, receiver, {"job": job.id})] if type == self.type else []

    def committed(self, notices: Sequence[Notice]) -> None:
        self.on_disk += notices

    def restored(self) -> None:
        self.restorations += 1


async def opened(path: Path, **more: Any) -> Store:
    """The store in that folder."""
    return await Store.open(path / "runnersd.db", clock=Clock(), **more)


def submission(*specs: JobSpec, name: str = "demo", **more: Any) -> Submission:
    """A pipeline of those jobs (one that runs `true` if none are said), from ann's project."""
    pipeline = {key: more.pop(key) for key in ("num_jobs", "barriers", "items") if key in more}
    given: dict[str, Any] = {"cwd": "/home/ann/project", "env": ENVIRONMENT, **more}
    return Submission(PipelineSpec(name, tuple(specs) or (spec(),), **pipeline), **given)


async def queue(store: Store, *specs: JobSpec, user: Submitter = ANN, key: str | None = None, **more: Any) -> list[int]:
    """Submit one pipeline; its jobs' ids."""
    accepted = await store.submit([submission(*specs, **more)], user, key, 100.0)
    return [id for id, _ in accepted[0][1]]


def start(store: Store, id: int, *gpus: str, at: float = 200.0) -> Job:
    """Record that the job was reserved those cards and runs."""
    attempt = store.snapshot.jobs[id].attempt + 1
    store.record(lifecycle.Reserved(id, attempt, gpus), at)
    return store.record(lifecycle.Started(id, attempt, at + 0.25), at + 0.5)


def succeed(store: Store, id: int, at: float = 300.0, peak: int | None = None) -> Job:
    """Record that the job ended well, with so many bytes of memory at most."""
    return store.record(lifecycle.Succeeded(id, store.snapshot.jobs[id].attempt, OK, 0, at, peak), at)


def image(memory: Memory | Store) -> dict[str, Any]:
    """All that is remembered, as values to compare."""
    snapshot = memory.snapshot
    counts: Mapping[Any, int] = memory.counts() if isinstance(memory, Store) else memory.counts
    return {
        "jobs": dict(snapshot.jobs),
        "pipelines": {id: progress.pipeline for id, progress in snapshot.progress.items()},
        "why": {
            job.id: snapshot.progress[job.pipeline.id].why(job.position)
            for job in snapshot.jobs.values()
            if job.state in WAITING
        },
        "live": dict(snapshot.live),
        "holders": {gpu: dict(jobs) for gpu, jobs in snapshot.holders.items()},
        "waiting": list(snapshot.waiting),
        "doomed": set(snapshot.doomed),
        "recent": list(memory.recent),
        "counts": {str(state): count for state, count in counts.items() if count},
        "drained": dict(memory.drained),
        "paused": memory.paused,
        "experience": {
            (uid, kind): (samples.count, list(samples.latest)) for uid, kind, samples in snapshot.experience.all()
        },
        "charges": dict(snapshot.usage.charges),
        "outlook": dict(snapshot.outlook),
        "bookings": dict(memory._memory.bookings if isinstance(memory, Store) else memory.bookings),
    }


async def rows_image(store: Store) -> dict[str, Any]:
    """What would be remembered if the store were opened now."""
    fresh = Memory()
    fresh.install(await store._journal.read(load))
    return image(fresh)


async def check(store: Store) -> None:
    """Memory says what the rows say, and the cards are booked as memory says."""
    assert image(store) == await rows_image(store)
    booked = await select(store, "SELECT gpu, job FROM reservation ORDER BY gpu, job")
    assert booked == sorted((gpu, id) for gpu, jobs in store.snapshot.holders.items() for id in jobs)
    waiting = [store.snapshot.jobs[id].pipeline.submitter.uid for _, id in store.snapshot.waiting]
    assert store.queued_by() == len(waiting)
    assert all(store.queued_by(uid) == waiting.count(uid) for uid in (ANN.uid, BOB.uid))


async def select(store: Store, query: str, values: Sequence[Any] = ()) -> list[Any]:
    """Rows as they are, everything recorded included."""
    return await store._journal.read(lambda rows: rows.execute(query, values).fetchall())


def rows_of(path: Path, query: str) -> list[Any]:
    """Rows of a store that is closed."""
    connection = sqlite3.connect(path / "runnersd.db")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()
