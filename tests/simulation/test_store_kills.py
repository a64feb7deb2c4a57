"""`kill -9` at any moment: every promise is in the rows, and the rows make sense."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.builders import ANN
from simulation.storing import check, opened, run, select, submission

#: An attempt only goes this way; a job that is queued again has had its attempt.
RANK = {"starting": 1, "running": 2, "queued": 3, "succeeded": 3}


def kill_at(folder: Path, seconds: float, seed: int) -> list[list[str]]:
    """Start the victim, kill it that long after it has opened the store; the promises it made."""
    victim = subprocess.Popen(
        [sys.executable, "-m", "simulation.store_victim", str(folder), str(seed)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert victim.stdout is not None
    try:
        assert victim.stdout.readline() == "open\n"
        time.sleep(seconds)
    finally:
        victim.kill()
    # A line without its end was on its way: whether it was promised nobody knows.
    lines = [line.split() for line in victim.stdout if line.endswith("\n")]
    victim.wait()
    victim.stdout.close()
    return lines


def rounds(folder: Path, count: int, seed: int) -> None:
    chance = random.Random(seed)
    keys: dict[str, list[int]] = {}
    reached: dict[int, tuple[int, int]] = {}
    for number in range(count):
        for what, *words in kill_at(folder, chance.uniform(0.0, 0.25), seed + number):
            if what == "submitted":
                keys[words[0]] = [int(id) for id in words[1:]]
            else:
                reached[int(words[0])] = (int(words[1]), RANK[words[2]])

        async def look() -> None:
            store = await opened(folder)
            await check(store)
            for key, ids in keys.items():
                accepted = await store.submit([submission()], ANN, key, 9.0)
                assert [id for _, jobs in accepted for id, _ in jobs] == ids
            for id, (attempt, at) in reached.items():
                job = await store.job(id)
                assert (job.attempt, RANK[job.state.value]) >= (attempt, at), f"job {id} had been further on: {job}"
                told = [event["type"] for event in await store.archive.events_of(id)]
                assert told[-1] == f"job.{job.state.value}"
                assert told.count("job.starting") == job.attempt == len(await store.archive.attempts(id))
            # Every pipeline is whole, and the history counts up with nothing missing.
            sizes = (
                "SELECT count(*) FROM pipeline WHERE size <> (SELECT count(*) FROM job WHERE pipeline = pipeline.id)"
            )
            assert await select(store, sizes) == [(0,)]
            assert await select(store, "SELECT count(*) = max(id), max(id) FROM event") == [(1, store.events.last)]
            # What was learned is in step with the events: each attempt counts once.
            learned = "SELECT (SELECT coalesce(sum(count), 0) FROM experience WHERE kind = '\"*\"'), (SELECT count(*) FROM attempt WHERE state = 'succeeded')"
            ((samples, ends),) = await select(store, learned)
            assert samples == ends
            used = "SELECT (SELECT coalesce(sum(card_seconds), 0) FROM charge), (SELECT count(*) FROM attempt WHERE gpus <> '[]' AND finished_at IS NOT NULL)"
            ((card_seconds, ran),) = await select(store, used)
            assert card_seconds == pytest.approx(ran, rel=1e-3)  # each had one card for a second
            assert await select(store, "PRAGMA integrity_check") == [("ok",)]
            await store.close()

        run(look)
    assert keys and reached


def test_every_promise_outlives_a_kill_at_any_moment(tmp_path: Path) -> None:
    rounds(tmp_path, 6, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_promise_outlives_fifty_kills(tmp_path: Path) -> None:
    rounds(tmp_path, 50, seed=1000)
