"""The forecast: when jobs will start, by hand-made examples."""

from __future__ import annotations

import pytest

from core.builders import ANN, Queue, spec
from runners.api import Code
from runnersd import lifecycle
from runnersd.config import Quota
from runnersd.forecast import Forecast, forecast
from runnersd.forecast.queue import DEPTH
from runnersd.model import Booking, Drain, Reason, Submitter
from runnersd.planner import World
from runnersd.planner.lengths import SEEN
from runnersd.quotas import Quotas

BOB, CAT = Submitter(1001, 1001, (1001,), "bob"), Submitter(1002, 1002, (1002,), "cat")
OK = Reason(Code.OK, "ended well")


def run(queue: Queue, id: int, *gpus: int, at: float = 0.0) -> None:
    """Have the job run on these cards."""
    queue.take(lifecycle.Reserved(id, 1, tuple(f"GPU-{index}" for index in gpus)))
    queue.take(lifecycle.Started(id, 1, at))


def taught(queue: Queue, *durations: float, user: Submitter = ANN, **keys: object) -> None:
    """Somebody's jobs have run for so long."""
    for duration in durations:
        [id] = queue.add(spec(**keys), user=user)
        run(queue, id, 0)
        before = queue.snapshot.jobs[id]
        event = lifecycle.Succeeded(id, 1, OK, 0, duration)
        queue.take(event)
        queue.snapshot.learn(before, event, duration)


def likely(made: Forecast, *ids: int) -> list[float | None]:
    return [made.expected[id].likely if id in made.expected else None for id in ids]


@pytest.mark.parametrize("by", [-86_400.0, 86_400.0])
def test_a_start_is_foretold_by_the_time_that_passes_whatever_the_clock_was_set_to(by: float) -> None:
    queue = Queue()
    first, second = queue.add(*(spec(f"{n}", num_gpus=1, time_limit=600.0) for n in range(2)))
    run(queue, first, 0)
    made = forecast(queue.world(1, clock_set={(first, 1): by}), by + 100.0)
    assert likely(made, second) == [by + 600.0]


def test_a_job_starts_when_the_one_before_it_reaches_its_limit() -> None:
    queue = Queue()
    first, second, third = queue.add(*(spec(f"{n}", num_gpus=1, time_limit=600.0) for n in range(3)))
    run(queue, first, 0)
    made = forecast(queue.world(1), 100.0)
    assert first not in made.expected
    assert likely(made, second, third) == [600.0, 1200.0]
    assert made.expected[second].gpus == ("GPU-0",)
    assert list(made.in_time) == [second, third]


def test_a_job_that_fits_now_is_expected_now() -> None:
    queue = Queue()
    [id] = queue.add(spec(num_gpus=1))
    assert likely(forecast(queue.world(1), 7.0), id) == [7.0]


def test_a_range_holds_what_is_likely_and_is_wider_where_durations_differ() -> None:
    queue = Queue()
    for name, durations in (("even", (600.0, 610.0, 620.0, 630.0)), ("odd", (10.0, 300.0, 900.0, 4000.0))):
        taught(queue, *durations, command=name, num_gpus=1)
    wide = []
    for index, command in enumerate(("even", "odd")):
        running, waiting = queue.add(*(spec(f"{command}{n}", command=command, num_gpus=1, gpus=(str(index),)) for n in range(2)))  # fmt: skip
        run(queue, running, index)
        found = forecast(queue.world(2), 5.0).expected[waiting]
        assert found.likely is not None and found.latest is not None
        assert 5.0 <= found.earliest <= found.likely <= found.latest
        wide.append(found.latest - found.earliest)
    assert wide[1] > 4 * wide[0]


def test_nobody_can_say_when_a_job_ends_of_which_nothing_is_known() -> None:
    queue = Queue()
    running, waiting = queue.add(spec("a", num_gpus=1), spec("b", num_gpus=1))
    run(queue, running, 0)
    found = forecast(queue.world(1), 50.0).expected[waiting]
    assert (found.likely, found.latest) == (None, None)
    assert 50.0 <= found.earliest < 51.0


def test_a_limit_alone_says_at_the_latest() -> None:
    queue = Queue()
    running, waiting = queue.add(spec("a", num_gpus=1, time_limit=1000.0), spec("b", num_gpus=1))
    run(queue, running, 0)
    found = forecast(queue.world(1), 0.0).expected[waiting]
    assert found.likely == 1000.0
    assert found.earliest < 500.0
    assert found.latest is not None and found.latest >= 1000.0


def test_a_wide_job_is_not_passed_for_ever_and_short_ones_go_before_it() -> None:
    queue = Queue()
    [running] = queue.add(spec("a", num_gpus=1, time_limit=1000.0))
    run(queue, running, 0)
    [wide] = queue.add(spec("wide", num_gpus=2, time_limit=3000.0))
    [short] = queue.add(spec("short", num_gpus=1, time_limit=500.0))
    [long] = queue.add(spec("long", num_gpus=1, time_limit=2000.0))
    assert likely(forecast(queue.world(2), 0.0), short, wide, long) == [0.0, 1000.0, 4000.0]


def test_the_user_who_has_had_little_comes_first() -> None:
    queue = Queue()
    taught(queue, 5000.0, command="x", num_gpus=1)
    [running] = queue.add(spec("r", num_gpus=1, time_limit=100.0))
    run(queue, running, 0)
    anns = queue.add(spec("a", num_gpus=1, time_limit=100.0), at=1.0)
    bobs = queue.add(spec("b", num_gpus=1, time_limit=100.0), user=BOB, at=2.0)
    made = forecast(queue.world(1), 10.0)
    assert likely(made, *bobs, *anns) == [100.0, 200.0]


def test_a_pipeline_never_has_more_at_once_than_it_may() -> None:
    queue = Queue()
    ids = queue.add(*(spec(f"{n}", num_gpus=1, time_limit=100.0) for n in range(4)), num_jobs=2)
    run(queue, ids[0], 0)
    assert likely(forecast(queue.world(8), 0.0), *ids[1:]) == [0.0, 100.0, 100.0]
    run(queue, ids[1], 1)  # now it is at its limit, and shows none of its jobs
    assert likely(forecast(queue.world(8), 0.0), *ids[2:]) == [100.0, 100.0]


def test_a_job_comes_after_those_it_needs_and_after_its_time() -> None:
    queue = Queue()
    ids = queue.add(
        spec("prepare", blocking=True, time_limit=50.0),
        spec("train", num_gpus=1, time_limit=100.0),
        spec("report", needs=["train"], time_limit=10.0),
        spec("later", begin=1000.0),
    )
    made = forecast(queue.world(1), 0.0)
    assert likely(made, *ids) == [0.0, 50.0, 150.0, 1000.0]
    assert made.expected[ids[3]].earliest == 1000.0, "it cannot start before, whatever ends sooner"


def test_what_is_held_paused_or_impossible_is_not_foretold() -> None:
    queue = Queue()
    held, after, drained, free = queue.add(
        spec("held"), spec("after", needs=["held"]), spec("drained", num_gpus=1), spec("free")
    )
    queue.take(lifecycle.Held(held, 0, Reason(Code.HELD, "held")))
    made = forecast(queue.world(1, drained={"GPU-0": Drain()}), 0.0)
    assert set(made.expected) == {free}
    assert after not in made.expected and drained not in made.expected
    assert forecast(queue.world(1, paused="x"), 0.0).expected == {}


def test_a_long_queue_costs_no_more_than_its_head() -> None:
    queue = Queue()
    for user in (ANN, BOB):
        queue.add(*(spec(f"{n}", num_gpus=1, time_limit=60.0) for n in range(3000)), user=user)
    made = forecast(queue.world(1), 0.0)
    assert DEPTH <= len(made.expected) <= 2 * DEPTH
    assert len(set(made.in_time)) == len(made.expected)


def test_the_same_world_gives_the_same_forecast_and_is_left_as_it_was() -> None:
    queue = Queue()
    queue.add(*(spec(f"{n}", num_gpus=1 + n % 3, time_limit=60.0 + n) for n in range(30)))
    world: World = queue.world(4)
    assert forecast(world, 3.0) == forecast(world, 3.0)


def test_what_a_wide_job_does_not_need_after_all_is_free_for_others() -> None:
    queue = Queue()
    for index, id in enumerate(queue.add(*(spec(f"r{n}", num_gpus=1, time_limit=3600.0) for n in range(2)))):
        run(queue, id, index)
    [wide] = queue.add(spec("wide", num_gpus=2, time_limit=7200.0))  # its cards are kept from a later time on
    [narrow] = queue.add(spec("narrow", num_gpus=1, time_limit=3600.0))
    assert likely(forecast(queue.world(2), 0.0), wide, narrow) == [3600.0, 10_800.0]


def test_users_take_turns() -> None:
    queue = Queue()
    anns = queue.add(*(spec(f"a{n}", num_gpus=1, time_limit=100.0) for n in range(2)))
    bobs = queue.add(*(spec(f"b{n}", num_gpus=1, time_limit=100.0) for n in range(2)), user=BOB)
    made = forecast(queue.world(1), 0.0)
    assert list(made.in_time) == [anns[0], bobs[0], anns[1], bobs[1]]


@pytest.mark.parametrize(
    "quotas",
    [
        Quotas(users={"ann": Quota(running=1)}),
        Quotas(users={"ann": Quota(gpus=2)}),
        Quotas(groups={1000: ("lab", Quota(gpus=3)), 1001: ("other", Quota(running=9))}),
    ],
)
def test_a_quota_is_waited_for_and_only_by_those_whose_it_is(quotas: Quotas) -> None:
    queue = Queue()
    first, second, third = queue.add(*(spec(f"{n}", num_gpus=2, time_limit=600.0) for n in range(3)))
    [bobs] = queue.add(spec(num_gpus=2, time_limit=600.0), user=BOB)
    run(queue, first, 0, 1)
    assert likely(forecast(queue.world(8, quotas=quotas), 100.0), second, third, bobs) == [600.0, 1200.0, 100.0]


def test_who_has_more_than_a_quota_allows_waits_until_less_is_had() -> None:
    queue = Queue()
    running = queue.add(*(spec(f"{n}", num_gpus=1, time_limit=600.0 + n) for n in range(3)))
    for place, id in enumerate(running):
        run(queue, id, place)
    [next_one] = queue.add(spec("next", num_gpus=1, time_limit=10.0))
    [never] = queue.add(spec("never", num_gpus=3, time_limit=10.0))
    [without] = queue.add(spec("without", time_limit=10.0))
    made = forecast(queue.world(8, quotas=Quotas(default=Quota(gpus=2))), 100.0)
    assert likely(made, next_one, never, without) == [601.0, None, 100.0]


@pytest.mark.parametrize(("seen", "expected"), [(SEEN - 1, 4000.0), (SEEN, 0.0)])
def test_who_may_not_pass_kept_cards_is_expected_after_them(seen: int, expected: float) -> None:
    queue = Queue()
    taught(queue, *[100.0] * seen, command="brief", num_gpus=1)
    [running] = queue.add(spec("a", num_gpus=1, time_limit=1000.0))
    run(queue, running, 0)
    [wide] = queue.add(spec("wide", num_gpus=2, time_limit=3000.0))
    brief, *others = queue.add(*(spec("brief", command="brief", num_gpus=1) for _ in range(3)))
    made = forecast(queue.world(2), 0.0)
    assert likely(made, wide, brief) == [1000.0, expected]
    if expected:
        assert likely(made, *others) == [4000.0, 4100.0], "it has its card for as long as it is likely to need it"
    assert made.expected[brief].earliest == 0.0, "the one that is kept may be cancelled, or the holder end"


def test_what_runs_may_end_somewhat_sooner_than_any_of_its_kind_did() -> None:
    queue = Queue()
    taught(queue, 600.0, 610.0, 620.0, command="even", num_gpus=1)
    running, waiting = queue.add(*(spec("even", command="even", num_gpus=1) for _ in range(2)))
    run(queue, running, 0, at=1000.0)
    found = forecast(queue.world(1), 1000.0).expected[waiting]
    assert 1500.0 < found.earliest < 1600.0


@pytest.mark.parametrize(
    ("command", "lower", "expected"), [("hour", 0, 1500.0), ("hour", -1, 600.0), ("few", 0, 600.0), ("few", -1, 600.0)]
)
def test_what_is_kept_holds_up_nobody_above_it_and_nobody_for_longer_than_it_is(
    command: str, lower: int, expected: float
) -> None:
    """Behind all of them a job is placed that has nothing kept for it yet, but is promised cards some time later."""
    queue = Queue()
    taught(queue, *[3600.0] * 4, 5 * 3600.0, command="hour", num_gpus=1)
    taught(queue, *[60.0] * (SEEN - 1), command="few", num_gpus=1)
    taught(queue, *[600.0] * 4, command="brief", num_gpus=2)
    taught(queue, *[5 * 3600.0] * 4, command="long", num_gpus=2, user=BOB)
    for index, limit in enumerate((600.0, 900.0)):
        [running] = queue.add(spec("a", num_gpus=1, time_limit=limit))
        run(queue, running, index)
    queue.add(spec("kept", command="brief", num_gpus=2, priority=lower))
    queue.add(spec("promised", command="long", num_gpus=2), user=BOB)
    [waiting] = queue.add(spec("waiting", command=command, num_gpus=1))
    assert likely(forecast(queue.world(2), 0.0), waiting) == [expected]


def test_a_booking_far_away_does_not_hold_up_who_may_start_before_it() -> None:
    queue = Queue()
    taught(queue, *[600.0] * 4, command="brief", num_gpus=2)
    for index, limit in enumerate((600.0, 3600.0)):
        [running] = queue.add(spec("a", num_gpus=1, time_limit=limit))
        run(queue, running, index)
    queue.add(spec("kept", command="brief", num_gpus=2, gpus=("1", "2")))
    [waiting] = queue.add(spec("new", command="new", num_gpus=1, gpus=("0",)), user=CAT)
    far = Booking(1, BOB.uid, "bob", ("GPU-0",), 864_000.0, 867_600.0, 0.0)
    assert likely(forecast(queue.world(3, bookings=(far,)), 0.0), waiting) == [600.0]


def test_a_job_that_needs_longer_than_it_runs_may_find_no_such_time_before_those_without_an_end() -> None:
    queue = Queue()
    taught(queue, 1.0, command="eval", num_gpus=1)
    [training] = queue.add(spec("training", num_gpus=1, time_limit=3600.0), user=BOB)
    run(queue, training, 1, at=5000.0)
    [short] = queue.add(spec("short", command="eval", num_gpus=1))
    ever, wide = queue.add(*(spec(f"{at}", num_gpus=2, time_limit=at) for at in (None, 3600.0)), user=BOB)
    made = forecast(queue.world(2), 5010.0)
    assert likely(made, wide) == [8600.0]
    assert set(made.expected) == {short, ever, wide}
