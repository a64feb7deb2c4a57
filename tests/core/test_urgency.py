"""What urgency and use are measured by."""

from __future__ import annotations

from dataclasses import replace

from core.builders import GIB, cards, gpu
from runnersd.lines import Shape
from runnersd.model import Inventory
from runnersd.past.estimates import Estimate
from runnersd.urgency import SHORTEST_DELAY, Measures, due, measures_of

DAY = 86_400.0
#: What a job for one card asks for.
WHOLE = Shape(1, None, False, None, None, (), None, None, None)


def measured(inventory: Inventory, before: Measures | None = None, **given: float) -> Measures:
    return measures_of(inventory, before or Measures(), **{"max_delay": 3600.0, "half_life": DAY, **given})


def test_cards_are_counted_and_measured_by_the_one_in_the_middle() -> None:
    sizes = (24, 40, 80, 80, None)
    inventory = Inventory(
        tuple(gpu(n, memory_total=size and size * GIB, memory_used=0) for n, size in enumerate(sizes))
    )
    assert measured(inventory) == Measures(5, 40 * GIB, DAY, 3600.0)


def test_a_lost_card_does_not_count() -> None:
    lost = Inventory((gpu(0), gpu(1, lost=True, memory_total=24 * GIB)))
    assert measured(lost).cards == 1 and measured(lost).card_memory == 80 * GIB


def test_a_driver_that_does_not_answer_and_a_machine_without_cards_change_nothing() -> None:
    before = Measures(3, 24 * GIB)
    for inventory in (Inventory(), replace(cards(8), stale=True), Inventory((gpu(0, lost=True),))):
        assert measured(inventory, before) == Measures(3, 24 * GIB, DAY, 3600.0)


def test_cards_whose_memory_is_not_known_keep_the_size_from_before() -> None:
    inventory = Inventory((gpu(0, memory_total=None, memory_used=None),))
    assert measured(inventory, Measures(3, 24 * GIB)) == Measures(1, 24 * GIB, DAY, 3600.0)


def test_no_delay_is_none_at_all() -> None:
    assert measured(cards(1), max_delay=0.0).max_delay == SHORTEST_DELAY > 0


def test_what_a_limit_tells_puts_a_long_job_further_back_than_a_guess() -> None:
    limited, guessed = Estimate("limit", (), 3600.0), Estimate("kind", (3600.0,))
    assert due(0.0, WHOLE, limited, Measures()) > due(0.0, WHOLE, guessed, Measures()) > 3600.0


def test_a_limit_far_beyond_what_such_jobs_take_tells_nothing() -> None:
    guessed = due(0.0, WHOLE, Estimate("kind", (3600.0,)), Measures())
    assert due(0.0, WHOLE, Estimate("kind", (3600.0,), 4 * 3600.0), Measures()) == guessed
    assert due(0.0, WHOLE, Estimate("kind", (3600.0,), 2 * 3600.0), Measures()) > guessed
