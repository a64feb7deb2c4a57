"""What attempts teach is kept: with their events, over restarts, and not without bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.builders import ANN, spec
from runnersd import lifecycle
from runnersd.past import experience
from runnersd.past.kinds import kind_of
from simulation.storing import BOB, check, image, opened, queue, run, select, start, succeed


def test_what_was_learned_is_there_after_a_restart_and_before_jobs_are_taken_in(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        jobs = [spec(f"train{n}", command=f"python train.py --seed {n}", num_gpus=1) for n in range(4)]
        ids = await queue(store, *jobs)
        for n, id in enumerate(ids[:2]):
            start(store, id, "GPU-0", at=200.0)
            succeed(store, id, at=300.25 + n, peak=(n + 1) << 30)
        start(store, ids[2], "GPU-0", at=400.0)
        outlook = store.snapshot.outlook[ids[2]]
        assert outlook.ground == "kind" and outlook.likely == (100.0, 101.0) and outlook.peak_memory == 2 << 30
        (bobs,) = await queue(store, spec("other", num_gpus=2), user=BOB)
        start(store, bobs, "GPU-1", "GPU-2")
        succeed(store, bobs, at=210.25)
        await check(store)
        before = image(store)
        await store.close()
        store = await opened(tmp_path)
        assert image(store) == before
        assert store.snapshot.outlook[ids[2]] == outlook
        line = store.snapshot.lines.line(ids[3])
        assert store.snapshot.lines.estimate(line).likely == (100.0, 101.0)
        charges = store.snapshot.usage.charges
        assert charges[ANN.uid].card_seconds == pytest.approx(201.0, rel=1e-3)
        assert charges[BOB.uid].card_seconds == pytest.approx(20.0, rel=1e-3)
        await store.close()

    run(work)


def test_no_more_kinds_and_samples_of_a_user_are_kept_than_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experience, "KINDS", 5)
    kinds = "SELECT count(*) FROM experience WHERE uid = 1000"
    samples = "SELECT count, json_array_length(samples) FROM experience WHERE uid = 1000 AND kind = '\"*\"'"

    async def work() -> None:
        store = await opened(tmp_path)
        jobs = [spec(f"job{n}", command=f"./{'x' * n}") for n in range(60)]
        ids = await queue(store, *jobs, num_jobs=100)
        for n, id in enumerate(ids[:50]):
            start(store, id, at=200.0 + n)
            succeed(store, id, at=300.0 + n)
            if n % 7 == 0:
                await check(store)
        await check(store)
        assert await select(store, kinds) == [(5,)]
        assert await select(store, samples) == [(50, experience.SAMPLES)]
        known = store.snapshot.experience
        assert [known.samples(ANN.uid, kind_of(jobs[n])) is not None for n in (46, 47, 48, 49)] == [
            False,
            True,
            True,
            True,
        ]
        await store.close()
        store = await opened(tmp_path)
        known = store.snapshot.experience
        start(store, ids[50], at=400.0)
        succeed(store, ids[50], at=500.0)
        await check(store)
        # After a restart too it is the kind that was not seen for longest that is forgotten.
        assert [known.samples(ANN.uid, kind_of(jobs[n])) is not None for n in (47, 48, 49, 50)] == [
            False,
            True,
            True,
            True,
        ]
        await store.close()

    run(work)


def test_an_attempt_that_never_ran_teaches_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        (id,) = await queue(store, spec("job", num_gpus=1))
        await store.committed()
        store.record(lifecycle.Reserved(id, 1, ("GPU-0",)), 200.0)
        succeed(store, id)
        await store.committed()
        assert await select(store, "SELECT (SELECT count(*) FROM experience), (SELECT count(*) FROM charge)") == [
            (0, 0)
        ]
        await check(store)
        await store.close()

    run(work)
