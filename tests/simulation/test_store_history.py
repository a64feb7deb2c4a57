"""What jobs did since a time, read from the rows page by page: attempts, cards, intruders; and the cards' own changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.builders import ANN, spec
from runners.api import Code
from runnersd import lifecycle
from runnersd.model import Intrusion, Reason
from runnersd.store import Store, history
from simulation.storing import Clock, opened, queue, run, start, submission, succeed


async def pages(store: Store, since: float, limit: int) -> list[list[Any]]:
    """Every page of that size."""
    found, after = [], 0
    while True:
        page, follows = await store.archive.history(since, after, limit)
        found.append(page)
        if follows is None:
            return found
        after = follows


def test_jobs_with_cards_are_told_with_their_attempts(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        twice, plain, waits, early = await queue(
            store,
            spec("twice \udfff", num_gpus=2, retries=1, begin=150.0),
            spec("plain"),
            spec("waits", num_gpus=1),
            spec("early", num_gpus=1),
            name="work",
        )
        for id in (early, plain):
            start(store, id, *(("GPU-0",) if id == early else ()), at=110.0)
            store.record(lifecycle.Succeeded(id, 1, Reason(Code.OK, "ok"), 0, 120.0), 120.0)
        start(store, twice, "GPU-0", "GPU-1", at=200.0)
        store.intrude(Intrusion(twice, 1, "GPU-1", 7, 201.0, 205.0, 1, "eve", "x", 5), 205.0, news=True)
        store.record(lifecycle.Requeued(twice, 1, Reason(Code.EXIT_CODE, "no"), 1, 210.0, 210.0), 210.0)
        start(store, twice, "GPU-2", "GPU-1", at=220.0)

        [page] = await pages(store, 150.0, 1000)
        assert [job["id"] for job in page] == [twice, waits], "no card wanted, or over before: not told"
        first, second = page
        assert (first["name"], first["user"], first["uid"]) == ("twice \\udfff", "ann", ANN.uid)
        assert (first["state"], first["submitted_at"], first["finished_at"]) == ("running", 150.0, None)
        assert [(one["gpus"], one["reserved_at"], one["finished_at"]) for one in first["attempts"]] == [
            (["GPU-0", "GPU-1"], 200.0, 210.0),
            (["GPU-2", "GPU-1"], 220.0, None),
        ]
        assert first["attempts"][0]["intruders"] == [{"gpu": "GPU-1", "since": 201.0, "until": 205.0, "user": "eve"}]
        assert (second["submitted_at"], second["attempts"]) == (100.0, [])
        assert [job["id"] for job in (await pages(store, 0.0, 1000))[0]] == [twice, waits, early]
        await store.close()

    run(work)


@pytest.mark.parametrize("stride", [2, 1000])
@pytest.mark.parametrize("limit", [1, 3, 100])
def test_pages_have_every_job_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stride: int, limit: int) -> None:
    monkeypatch.setattr(history, "STRIDE", stride)

    async def work() -> None:
        store = await opened(tmp_path)
        ids = await queue(store, *[spec(f"job{n}", num_gpus=n % 2) for n in range(12)])
        for n, id in enumerate(ids[:6]):
            start(store, id, *([f"GPU-{n}"] if n % 2 else []), at=200.0)
            succeed(store, id, at=210.0)
        found = await pages(store, 0.0, limit)
        assert [job["id"] for page in found for job in page] == [id for n, id in enumerate(ids) if n % 2]
        assert all(len(page) <= limit for page in found)
        assert [len(job["attempts"]) for page in found for job in page] == [1, 1, 1, 0, 0, 0]
        await store.close()

    run(work)


def test_changes_of_cards_are_told_from_a_time_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_EVENTS", 3)

    async def work() -> None:
        clock = Clock()
        store = await Store.open(tmp_path / "runnersd.db", clock=clock)
        for n in range(12):
            clock.now = 1000.0 + n
            await store.submit([submission()], ANN, None, clock.now)
            if n % 3 == 0:
                store.announce(
                    "gpu.drained" if n % 2 else "gpu.free", {"uuid": f"GPU-{n}", "state": "drained", "reason": "x"}
                )
        await store.committed()
        found = await store.archive.card_changes(1003.0)
        assert [(one["at"], one["uuid"], one["state"], one["reason"]) for one in found] == [
            (1003.0, "GPU-3", "drained", "x"),
            (1006.0, "GPU-6", "drained", "x"),
            (1009.0, "GPU-9", "drained", "x"),
        ]
        assert len(await store.archive.card_changes(0.0)) == 4
        assert await store.archive.card_changes(2000.0) == []
        await store.close()

    run(work)
