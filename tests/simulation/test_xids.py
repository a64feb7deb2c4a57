"""Errors of cards, as the engine deals with them: on disk, once, and with who had the card."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from core.builders import gpu, spec
from runners.errors import Unavailable
from runnersd import lifecycle
from runnersd.config import XidConfig
from runnersd.engine.xids import ReportedXids
from runnersd.model import Inventory, Xid
from runnersd.store import Store, journal
from simulation.storing import OK, opened, queue, run, start, succeed
from simulation.test_store_failures import limit, recovered

CATALOG = XidConfig()
NOW = 1_000.0


def cards(*xids: Xid, stale: bool = False) -> Inventory:
    return Inventory((gpu(0), gpu(1)), xids=xids, stale=stale)


async def look(store: Store, reported: ReportedXids, *xids: Xid, at: float = NOW, stale: bool = False) -> bool:
    reported.begin()
    return await reported.see(cards(*xids, stale=stale), CATALOG, at)


async def noted(store: Store, job: int) -> list[tuple[int, str, int]]:
    """Attempt, card and number of what is in the job's history."""
    await store.committed()
    events = await store.archive.events_of(job)
    return [(one["xid"]["attempt"], one["xid"]["gpu"], one["xid"]["number"]) for one in events if "xid" in one]


def test_who_had_the_card_has_it_noted_once(tmp_path: Path) -> None:
    async def story() -> None:
        store = await opened(tmp_path)
        await queue(store, spec("one", num_gpus=1), spec("two", num_gpus=1))
        reported = ReportedXids(store)
        start(store, 1, "GPU-0")
        start(store, 2, "GPU-1")
        assert not await look(store, reported, Xid("GPU-0", 31), Xid("GPU-0", 31), Xid("GPU-0", 13))
        assert not await look(store, reported, Xid("GPU-0", 31))
        assert await noted(store, 1) == [(1, "GPU-0", 31), (1, "GPU-0", 13)]
        assert await noted(store, 2) == []
        assert not store.drained
        assert await look(store, reported, Xid("GPU-1", 79))
        assert await noted(store, 2) == [(1, "GPU-1", 79)]
        assert store.drained["GPU-1"].reason.startswith("Xid 79 (GPU has fallen off the bus) at ")
        assert {job.id for job in store.snapshot.live.values()} == {1, 2}, "running jobs go on"
        await store.close()

    run(story)


def test_a_job_that_ended_by_it_before_the_next_look_has_it_noted(tmp_path: Path) -> None:
    async def story() -> None:
        store = await opened(tmp_path)
        await queue(store, *(spec(name, num_gpus=1) for name in ("one", "two", "three")))
        reported = ReportedXids(store)
        start(store, 1, "GPU-0")
        await look(store, reported)
        succeed(store, 1)
        start(store, 2, "GPU-0")
        reported.remember()
        succeed(store, 2)
        await look(store, reported, Xid("GPU-0", 31))
        assert await noted(store, 1) == [(1, "GPU-0", 31)] and await noted(store, 2) == [(1, "GPU-0", 31)]
        await look(store, reported, Xid("GPU-0", 43))
        assert (await noted(store, 1))[1:] == (await noted(store, 2))[1:] == [], "they were gone by then"
        await store.close()

    run(story)


def test_who_left_during_the_look_is_remembered_for_the_next_one(tmp_path: Path) -> None:
    async def story() -> None:
        store = await opened(tmp_path)
        await queue(store, spec("one", num_gpus=1))
        reported = ReportedXids(store)
        start(store, 1, "GPU-0")
        reported.begin()
        succeed(store, 1)
        await reported.see(cards(), CATALOG, NOW)
        await look(store, reported, stale=True)
        await look(store, reported, Xid("GPU-0", 31))
        assert await noted(store, 1) == [(1, "GPU-0", 31)]
        await store.close()

    run(story)


def test_the_next_attempt_is_not_told_of_what_the_first_one_had(tmp_path: Path) -> None:
    async def story() -> None:
        store = await opened(tmp_path)
        await queue(store, spec("one", num_gpus=1, retries=1))
        reported = ReportedXids(store)
        start(store, 1, "GPU-0")
        await look(store, reported, Xid("GPU-0", 31))
        store.record(lifecycle.Requeued(1, 1, OK, None, NOW, NOW), NOW)
        await look(store, reported)
        start(store, 1, "GPU-1")
        await look(store, reported, Xid("GPU-0", 13), Xid("GPU-1", 31))
        assert await noted(store, 1) == [(1, "GPU-0", 31), (2, "GPU-1", 31)]
        await store.close()

    run(story)


def test_what_cannot_be_written_now_is_at_a_later_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "PROBE_EVERY", 0.01)

    async def story() -> None:
        store = await opened(tmp_path)
        await queue(store, spec("one", num_gpus=1))
        reported = ReportedXids(store)
        start(store, 1, "GPU-0")
        await store.committed()
        await limit(store, 0)
        # What is recorded together is written together, and this does not fit.
        too_much = asyncio.create_task(queue(store, *[spec(f"j{n}") for n in range(2000)]))
        await asyncio.sleep(0)
        assert not await look(store, reported, Xid("GPU-0", 48))
        with pytest.raises(Unavailable):
            await too_much
        assert not await look(store, reported)
        await limit(store, 1 << 20)
        await recovered(store)
        assert not store.drained
        assert await look(store, reported, at=NOW + 60)
        assert store.drained["GPU-0"].at == NOW
        assert await noted(store, 1) == [(1, "GPU-0", 48)]
        await store.close()

    run(story)


def test_it_is_told_to_who_listens_and_who_reads_later(tmp_path: Path) -> None:
    async def story() -> None:
        store = await opened(tmp_path)
        await queue(store, spec("one", num_gpus=1))
        reported = ReportedXids(store)
        start(store, 1, "GPU-0")
        reported.remember()
        succeed(store, 1)
        subscription = store.events.subscribe()
        await look(store, reported, Xid("GPU-0", 999))
        wanted: dict[str, Any] = {"attempt": 1, "gpu": "GPU-0", "number": 999, "text": "Xid 999"}
        store.events.close()
        (heard,) = [record async for record in subscription if record.type == "job.xid"]
        (read,) = [record for record in await store.archive.events_after(0, 100) if record.type == "job.xid"]
        for record in (heard, read):
            assert record.job == 1 and record.data["xid"] == wanted and record.data["state"] == "succeeded"
        await store.close()

    run(story)
