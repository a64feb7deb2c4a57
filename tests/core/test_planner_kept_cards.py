"""Jobs for several cards get all of them or none, whatever the cards' memory looks like and however times are rounded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from core.builders import ANN, GIB, Queue, gpu, spec
from core.test_planner import NOW, OK, finish, run_plan, starts, why
from runners.api import Code
from runnersd import lifecycle
from runnersd.model import Inventory, Submitter
from runnersd.planner import World
from runnersd.planner.order import DEPTH
from runnersd.urgency import Measures
from runnersd.views import gpu_views

BOB, CID = (Submitter(uid, uid, (uid,), name) for uid, name in ((1001, "bob"), (1002, "cid")))


def world_of(queue: Queue, used: Iterable[int], **facts: object) -> World:
    """Cards on which so many bytes were in use when they were seen."""
    seen = tuple(gpu(index, memory_used=amount) for index, amount in enumerate(used))
    return queue.world(Inventory(seen), **facts)


@pytest.mark.parametrize("limit", [600.0, 7200.0, None])
def test_two_cards_without_the_memory_are_neither_given_nor_kept(limit: float | None) -> None:
    queue = Queue()
    (big,) = queue.add(spec("big", num_gpus=2, gpu_memory=70 * GIB, time_limit=limit))
    (small,) = queue.add(spec("small", num_gpus=1))
    world = world_of(queue, [40 * GIB, 40 * GIB])
    made = run_plan(queue, world)
    assert starts(made).keys() == {small}
    assert not made.reservations
    reason = why(queue, big, world, made)
    assert reason.code is Code.NO_GPU_MEMORY or "held by" in reason.text


def test_what_ended_just_now_is_waited_for_and_nobody_slips_in() -> None:
    queue = Queue()
    (first,) = queue.add(spec("first", num_gpus=2, time_limit=60.0))
    run_plan(queue, queue.world(2))
    (big,) = queue.add(spec("big", num_gpus=2, gpu_memory=70 * GIB, time_limit=600.0))
    (small,) = queue.add(spec("small", num_gpus=1, time_limit=700.0), user=BOB)
    finish(queue, first)
    made = run_plan(queue, world_of(queue, [40 * GIB, 40 * GIB], ended=frozenset({17})))
    assert not starts(made)
    assert [one.job.id for one in made.reservations] == [big]
    assert starts(run_plan(queue, world_of(queue, [0, 0]))).keys() == {big}
    assert small in queue.snapshot.jobs


def test_cards_that_have_the_memory_are_the_ones_that_are_kept() -> None:
    queue = Queue()
    (first,) = queue.add(spec("first", num_gpus=1, gpus=("2",), time_limit=60.0))
    run_plan(queue, queue.world(4))
    (big,) = queue.add(spec("big", num_gpus=2, gpu_memory=70 * GIB, time_limit=600.0))
    made = run_plan(queue, world_of(queue, [40 * GIB, 40 * GIB, 40 * GIB, 0]))
    assert {one.job.id: one.gpus for one in made.reservations} == {big: ("GPU-2", "GPU-3")}
    finish(queue, first)
    assert starts(run_plan(queue, world_of(queue, [40 * GIB, 40 * GIB, 0, 0]))) == {big: ("GPU-2", "GPU-3")}


@pytest.mark.parametrize("number", range(40))
def test_a_job_that_just_fits_before_another_gets_its_cards(number: int) -> None:
    queue = Queue()
    now, limit = 1_700_000_000 + number * 0.37, 3700 + number / 7
    (one,) = queue.add(spec("one", num_gpus=4, time_limit=limit), user=ANN, at=0.0)
    queue.add(spec("all", num_gpus=8, time_limit=limit), user=BOB, at=10_000.0)
    (other,) = queue.add(spec("other", num_gpus=4, time_limit=limit), user=CID, at=20_000.0)
    given = starts(run_plan(queue, queue.world(8), now))
    assert {id: len(gpus) for id, gpus in given.items()} == {one: 4, other: 4}
    assert len({uuid for gpus in given.values() for uuid in gpus}) == 8, "no card is given twice"


def test_a_free_card_says_for_whom_it_is_kept() -> None:
    queue = Queue()
    queue.add(spec("first", num_gpus=1, gpus=("0",), time_limit=60.0))
    run_plan(queue, queue.world(3))
    (wide,) = queue.add(spec("wide", num_gpus=2, gpus=("0", "1"), time_limit=600.0), user=BOB)
    world = queue.world(3)
    views = gpu_views(world, run_plan(queue, world))
    assert [view["state"] for view in views] == ["reserved", "free", "free"]
    assert [view.get("kept") for view in views] == [None, {"job": wide, "user": "bob", "at": NOW + 60.0}, None]


def test_a_card_that_is_only_owed_is_free_for_others() -> None:
    queue = Queue()
    queue.add(spec("first", num_gpus=1, gpus=("0",), time_limit=60.0))
    run_plan(queue, queue.world(2))
    (wide,) = queue.add(spec("wide", num_gpus=2, time_limit=600.0))
    world = queue.world(2)
    made = run_plan(queue, world)
    owed = replace(made, reservations=tuple(replace(one, owed=True) for one in made.reservations))
    assert [one.job.id for one in owed.reservations] == [wide]
    assert not any("kept" in view for view in gpu_views(world, owed))


def test_a_job_for_which_cards_are_kept_starts_on_an_idle_machine_behind_however_many_lines() -> None:
    queue, hour = Queue(), 3600.0
    (long,) = queue.add(spec("long", command="long", num_gpus=8, time_limit=10 * hour))
    for number in range(DEPTH + 10):
        command = f"short {chr(97 + number % 26)} {chr(97 + number // 26)}"
        queue.add(spec("short", command=command, num_gpus=8, time_limit=hour + 100 + number), at=20 * hour)
    made = run_plan(queue, queue.world(8), 28.9 * hour)
    assert starts(made).keys() == {long}


def test_a_stream_of_short_jobs_without_limits_lets_a_wide_one_through_when_it_has_waited_long_enough() -> None:
    queue, now, most = Queue(), NOW, 600.0
    queue.snapshot.measure(Measures(cards=4, max_delay=most))
    (wide,) = queue.add(spec("wide", command="wide", num_gpus=4), at=NOW, user=BOB)
    ends: dict[int, float] = {}
    while wide not in queue.snapshot.live:
        assert now < NOW + 1.5 * most, "it is delayed for longer than it may be"
        for id in [id for id, end in ends.items() if end <= now]:
            before, end = queue.snapshot.jobs[id], ends.pop(id)
            event = lifecycle.Succeeded(id, 1, OK, 0, end)
            queue.take(event)
            queue.snapshot.learn(before, event, end)
        while len(queue.snapshot.jobs) < 20:
            queue.add(spec("short", command="short", num_gpus=1), at=now)
        for id in starts(run_plan(queue, queue.world(4), now)):
            ends[id] = now + 20 + id % 7 / 2
        now += 1.0


def test_a_job_that_is_known_to_take_no_time_at_all_has_its_cards_too() -> None:
    """As a clock that is set back while jobs end makes them seem."""
    queue, at = Queue(), NOW
    queue.snapshot.measure(Measures(cards=2, max_delay=600.0))
    for _ in range(8):
        (id,) = queue.add(spec("wide", command="wide", num_gpus=2), at=at)
        assert starts(run_plan(queue, queue.world(2), at)).keys() == {id}
        before, event = queue.snapshot.jobs[id], lifecycle.Succeeded(id, 1, OK, 0, at)
        queue.take(event)
        queue.snapshot.learn(before, event, at)
    (long,) = queue.add(spec("long", command="long", num_gpus=1, time_limit=9000.0), at=at)
    run_plan(queue, queue.world(2), at)
    (wide,) = queue.add(spec("wide", command="wide", num_gpus=2), at=at)
    for now in (at, at + 100.0, at + 4000.0):
        assert starts(run_plan(queue, queue.world(2), now)) == {}
    finish(queue, long, now=at + 5000.0)
    assert starts(run_plan(queue, queue.world(2), at + 5000.0)) == {wide: ("GPU-0", "GPU-1")}
