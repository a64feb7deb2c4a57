"""Who is made to wait for a forecast, and how often one is made."""

from __future__ import annotations

import asyncio

import pytest

from core.builders import Queue, spec
from runnersd.engine import foretelling
from runnersd.engine.foretelling import Foretelling
from runnersd.planner import Plan, World


class Asked:
    """A queue, how often it was looked at, and the plan of the moment."""

    def __init__(self, jobs: int) -> None:
        self.queue = Queue()
        self.ids = self.queue.add(*(spec(f"{n}", num_gpus=1, time_limit=60.0) for n in range(jobs)))
        self.looks = 0
        self.plan = Plan()
        self.foretelling = Foretelling(self.world, lambda: self.plan, lambda: 0.0)

    def world(self) -> World:
        self.looks += 1
        return self.queue.world(2)


def test_the_impatient_are_told_the_last_forecast_and_the_next_one_is_made_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(foretelling, "_SLICE", 0.0)  # it gives way at each step, however fast the machine

    async def story() -> None:
        asked = Asked(80)
        assert (await asked.foretelling.now(0.0)).expected == {}
        made = await asked.foretelling.now()
        assert set(made.expected) == set(asked.ids)
        assert asked.looks == 1, "the second one waited for the first one's"
        assert await asked.foretelling.now(0.0) is made
        await asked.foretelling.close()

    asyncio.run(story())


def test_a_forecast_is_made_once_a_turn_and_for_many_who_ask_together() -> None:
    async def story() -> None:
        asked = Asked(80)
        first = await asyncio.gather(*(asked.foretelling.now() for _ in range(5)))
        assert all(one is first[0] for one in first)
        assert asked.looks == 1
        asked.plan = Plan(look_again=1.0)
        assert await asked.foretelling.now() is first[0], "the next turn comes sooner than it is worth another one"
        assert asked.looks == 1
        await asked.foretelling.close()

    asyncio.run(story())
