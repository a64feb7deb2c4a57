"""When samples are taken, what they hold, and when what they add up to is on disk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.builders import GIB, gpu, spec
from runnersd.config import Config, GpusConfig, TelemetryConfig
from runnersd.engine.measuring import Measuring
from runnersd.model import Inventory, JobId
from runnersd.store import Store
from runnersd.telemetry.sample import CardSample, ProcessSample, Sample
from simulation.storing import Clock, opened, queue, run, select, start, succeed

CARD = gpu(0, uuid="GPU-0", utilization=50, memory_used=8 * GIB, power=200.0, temperature=60)
SEEN = Inventory((gpu(1), CARD))


class Heard:
    """A recorder that a test reads."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.samples: list[Sample] = []

    def began(self, job: JobId, attempt: int, started_at: float, cards: Sequence[str]) -> None:
        self.calls.append(("began", job, attempt, started_at, tuple(cards)))

    def add(self, job: JobId, attempt: int, sample: Sample) -> None:
        self.samples.append(sample)

    def ended(self, job: JobId, attempt: int) -> None:
        self.calls.append(("ended", job, attempt))


class Looking:
    """A daemon's measuring, whose looks a test takes."""

    def __init__(self, store: Store, every: float = 1.0, poll: float = 1.0) -> None:
        self.store, self.heard, self.clock = store, Heard(), Clock()
        self.clock.now = 1000.0
        self.config = Config(gpus=GpusConfig(poll=poll), telemetry=TelemetryConfig(every=every))
        self.measuring = Measuring(store, None, self.heard, self.clock)
        self.task = asyncio.get_running_loop().create_task(self.measuring.run(lambda job: None))

    async def look(self, at: float, inventory: Inventory = SEEN) -> None:
        """A look at the cards at that time; what comes of it has come when this returns."""
        self.clock.now = at
        self.measuring.looked(inventory, self.config)
        for _ in range(5):
            await asyncio.sleep(0)

    def times(self) -> list[float]:
        """When the samples were taken."""
        return [sample.at for sample in self.heard.samples]

    async def kept(self) -> int:
        """How many samples the row of job 1 knows of."""
        rows = await select(self.store, "SELECT summary FROM telemetry WHERE job = 1")
        return json.loads(rows[0][0])["samples"] if rows else 0


def story(work: Callable[[Store], Any], folder: Path) -> None:
    """A store in which job 1 runs on the card."""

    async def told() -> None:
        store = await opened(folder)
        await queue(store, spec("one", num_gpus=1))
        start(store, 1, "GPU-0", at=900.0)
        await work(store)
        await store.close()

    run(told)


def test_a_sample_is_taken_with_a_look_at_the_cards_as_often_as_was_asked_for(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        often, seldom = Looking(store, every=0.1), Looking(store, every=2.5)
        for second in range(11):
            for looking in (often, seldom):
                await looking.look(1000.0 + second * 1.02)
        assert len(often.times()) == 11, "no oftener than the cards are looked at"
        assert [round(at) for at in seldom.times()] == [1000, 1002, 1005, 1007, 1010]
        await seldom.look(500.0)
        await seldom.look(502.6)
        assert seldom.times()[-1] == 502.6, "a clock that goes back stops nothing"

    story(work, tmp_path)


def test_a_sample_has_the_jobs_own_cards_and_what_the_driver_says_of_them_now(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        looking = Looking(store)
        await looking.look(1000.0)
        lost = Inventory((replace(CARD, lost=True),))
        await looking.look(1001.0, replace(SEEN, stale=True))
        await looking.look(1002.0, lost)
        name, total = "NVIDIA H100 80GB HBM3", 80 * GIB
        unknown = (CardSample("GPU-0", 0, name, total),)
        assert looking.heard.samples == [
            Sample(1000.0, (CardSample("GPU-0", 0, name, total, 8 * GIB, 50, 200.0, 60),), ProcessSample()),
            Sample(1001.0, unknown),
            Sample(1002.0, unknown),
        ]
        assert looking.heard.calls == [("began", 1, 1, 900.25, ("GPU-0",))]

    story(work, tmp_path)


def test_what_is_known_is_on_disk_soon_while_it_is_little_and_each_minute_then(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        looking, behind = Looking(store), []
        for second in range(400):
            await looking.look(1000.0 + second)
            behind.append(second + 1 - await looking.kept())
        assert behind[0] == 1 and behind[1] == 0, "the first sample says nothing yet"
        assert all(late <= max(seen / 2, 1) for seen, late in enumerate(behind, 1))
        assert max(behind) == 59 and behind[-61:].count(0) <= 2

    story(work, tmp_path)


def test_the_next_daemon_goes_on_and_the_end_is_on_disk_with_all_that_was_seen(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        first = Looking(store)
        for second in range(10):
            await first.look(1000.0 + second)
        first.measuring.close()
        await store.close()
        store = await opened(tmp_path)
        second_life = Looking(store)
        assert (second_life.measuring.summary(1, 1) or {})["samples"] == 10
        await second_life.look(1500.0, Inventory((replace(CARD, power=100.0),)))
        await second_life.look(1501.0, Inventory((replace(CARD, power=100.0),)))
        job = store.snapshot.jobs[1]
        second_life.measuring.keep(job)
        succeed(store, 1)
        second_life.measuring.forget(job)
        (attempt,) = await store.archive.attempts(1)
        summary = attempt["telemetry"]
        assert summary is not None and (summary["samples"], summary["seconds"]) == (12, 10.0)
        assert summary["energy"] == 9 * 200.0 + 100.0 and summary["gpus"][0]["power"]["peak"] == 200.0
        assert second_life.measuring.summary(1, 1) is None
        await second_life.look(1502.0)
        assert [call[0] for call in second_life.heard.calls] == ["began", "ended"], "nothing follows the end"
        await store.close()

    story(work, tmp_path)
