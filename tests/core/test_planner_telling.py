"""The line that the log has of a plan: what a person can follow, and nothing twice."""

from __future__ import annotations

import time

from core.builders import Queue, spec
from core.test_forecast import BOB, run
from runners.api import Code
from runnersd import lifecycle
from runnersd.model import Reason
from runnersd.planner import Start, plan
from runnersd.planner.telling import Telling, Told

NOW = time.mktime((2026, 3, 4, 12, 0, 0, 0, 0, -1))


def turn(telling: Telling, queue: Queue, now: float, cards: int = 4) -> Told | None:
    """A turn as the loop makes it."""
    world = queue.world(cards)
    made = plan(world, now)
    for decision in made.decisions:
        if isinstance(decision, Start):
            queue.take(lifecycle.Reserved(decision.job.id, decision.job.attempt + 1, decision.gpus))
            queue.take(lifecycle.Started(decision.job.id, decision.job.attempt + 1, now))
    return telling.tell(made, world, now)


def busy() -> tuple[Queue, int]:
    queue = Queue()
    [id] = queue.add(spec("fit", num_gpus=2, time_limit=3600.0), at=NOW)
    run(queue, id, 0, 1, at=NOW)
    return queue, id


def test_a_line_says_what_starts_past_whom_and_what_is_kept() -> None:
    telling, (queue, _) = Telling(), busy()
    [big] = queue.add(spec("big", num_gpus=4, time_limit=1800.0), at=NOW, user=BOB)
    [short] = queue.add(spec("short", num_gpus=1, time_limit=600.0), at=NOW + 1)
    told = turn(telling, queue, NOW + 1)
    assert told is not None
    assert (
        told.text
        == f"starts {short} short (ann) on card 2 before {big}; keeps cards 0,1,2,3 for {big} big (bob) from 13:00"
    )
    assert (told.started, told.kept, told.passed, told.minor) == ((short,), (big,), (big,), False)


def test_a_thousand_turns_alike_are_told_once() -> None:
    telling, (queue, _) = Telling(), busy()
    queue.add(spec("big", num_gpus=4, time_limit=1800.0), at=NOW)
    told = [turn(telling, queue, NOW + n) for n in range(1000)]
    assert told[0] is not None
    assert told[1:] == [None] * 999


def test_what_moves_for_good_is_told_and_what_starts_forgets_it() -> None:
    telling, (queue, fit) = Telling(), busy()
    [big] = queue.add(spec("big", num_gpus=4, time_limit=1800.0), at=NOW)
    turn(telling, queue, NOW)
    queue.take(lifecycle.Revised(fit, 1, spec("fit", num_gpus=2, time_limit=7200.0), None))
    told = turn(telling, queue, NOW + 10)
    assert told is not None
    assert told.text == f"keeps cards 0,1,2,3 for {big} big (ann) from 14:00 (was 13:00)"
    queue.take(lifecycle.Succeeded(fit, 1, Reason(Code.OK, "ended well"), 0, NOW + 20))
    told = turn(telling, queue, NOW + 20)
    assert told is not None
    assert told.text == f"starts {big} big (ann) on cards 0,1,2,3 as kept for it"
    assert turn(telling, queue, NOW + 21) is None


def test_a_start_that_nobody_can_tell_moves_on_without_a_line_each_time() -> None:
    telling, queue = Telling(), Queue()
    ids = queue.add(spec("a", num_gpus=1), spec("b", num_gpus=1), at=NOW)
    run(queue, ids[0], 0, at=NOW)
    lines = [turn(telling, queue, NOW + 60.0 * n, 1) for n in range(60 * 24 * 2)]
    assert 1 <= sum(told is not None for told in lines) <= 20, "in two days of turns a minute apart"


def test_jobs_without_cards_are_minor_and_many_are_not_all_named() -> None:
    telling, queue = Telling(), Queue()
    queue.add(*(spec(f"n{n}") for n in range(9)), at=NOW)
    told = turn(telling, queue, NOW, 0)
    assert told is not None and told.minor
    assert told.text.endswith("starts 5 n4 (ann); starts 4 more")
    assert len(told.started) == 9


def test_who_is_stopped_for_whom_is_told() -> None:
    telling, queue = Telling(), Queue()
    [low] = queue.add(spec("low", num_gpus=1, preemptible=True), at=NOW)
    run(queue, low, 0, at=NOW)
    [high] = queue.add(spec("high", num_gpus=1, priority=5, time_limit=60.0), at=NOW + 1, user=BOB)
    world = queue.world(1, min_run=10.0)
    made = plan(world, NOW + 20)
    told = telling.tell(made, world, NOW + 20)
    assert told is not None
    assert told.text.startswith(f"stops {low} low (ann) on card 0: makes way for job {high} (bob) of priority 5")
    assert not told.minor


def test_what_is_stopped_at_its_time_limit_is_told() -> None:
    queue = Queue()
    [id] = queue.add(spec("late", time_limit=60.0), at=NOW)
    run(queue, id, at=NOW)
    world = queue.world()
    told = Telling().tell(plan(world, NOW + 61), world, NOW + 61)
    assert told is not None and told.text == f"stops {id} late (ann): over its time limit of 60 s"
