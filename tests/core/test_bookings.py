"""Advance bookings: which cards, for whom, what the queue does round them, and who may."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.builders import ANN, Queue, cards, gpu, spec
from core.test_planner import BOB, NOW, finish, run_plan, starts, why
from core.test_planner_closest import topology_of
from runners.api import Code
from runners.errors import AlreadyTaken, InvalidRequest, NoSuchCard, NotAllowed
from runnersd import lifecycle
from runnersd.booking_rules import BOOKINGS, cards_at_once, check_allowed, check_times
from runnersd.model import Booking, Drain, GpuProcess, Inventory, Submitter
from runnersd.planner import Start, plan
from runnersd.planner.bookings import Wish, check_limit, choose
from runnersd.planner.words import clock_text
from runnersd.views import booking_view, gpu_view

HOUR = 3600.0
CAT = Submitter(1002, 1002, (1002,), "cat")


def booked(id: int, *cards: int, start: float = 0.0, hours: float = 1.0, who: Submitter = ANN) -> Booking:
    """A booking that begins so many hours from now."""
    begin = NOW + start * HOUR
    return Booking(id, who.uid, who.user, tuple(f"GPU-{n}" for n in cards), begin, begin + hours * HOUR, NOW)


def wish(count: int = 1, start: float = 0.0, hours: float = 1.0, who: Submitter = ANN, **keys: Any) -> Wish:
    return Wish(who.uid, NOW + start * HOUR, NOW + (start + hours) * HOUR, count, **keys)


def running(queue: Queue, card: int, who: Submitter = BOB, limit: float | None = None) -> int:
    """A job of somebody's that runs on that card since now."""
    [id] = queue.add(spec(num_gpus=1, gpus=(str(card),), time_limit=limit), user=who)
    run_plan(queue, queue.world(4))
    assert queue.snapshot.jobs[id].gpus == (f"GPU-{card}",)
    return id


# -- the queue flows round it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "starts_it"), [(HOUR, True), (HOUR + 1, False), (None, False)])
def test_a_job_that_could_still_run_then_does_not_start_on_a_booked_card(limit: float | None, starts_it: bool) -> None:
    queue = Queue()
    [id] = queue.add(spec(num_gpus=1, time_limit=limit), user=BOB)
    world = queue.world(1, bookings=(booked(7, 0, start=1.0),))
    made = plan(world, NOW)
    assert (id in starts(made)) is starts_it
    if not starts_it:
        reason = why(queue, id, world, made)
        times = f"from {clock_text(NOW + HOUR, NOW)} to {clock_text(NOW + 2 * HOUR, NOW)}"
        assert reason.code is Code.BEHIND_RESERVATION
        assert reason.text.startswith(f"ann has booked card 0 {times} (booking 7): this job")
        assert made.look_again == NOW + HOUR
        after = plan(world, NOW + 2 * HOUR)
        assert list(starts(after)) == [id]


@pytest.mark.parametrize("keys", [{}, {"gpu_shared": True, "gpu_memory": 1 << 30}])
@pytest.mark.parametrize(("limit", "card"), [(None, "GPU-2"), (HOUR, "GPU-0")])
def test_who_has_no_time_limit_takes_a_booked_card_last_of_all(
    limit: float | None, card: str, keys: dict[str, Any]
) -> None:
    queue = Queue()
    [id] = queue.add(spec(num_gpus=1, time_limit=limit, **keys), user=BOB)
    world = queue.world(3, bookings=(booked(1, 0, 1, start=13.0),))
    assert starts(plan(world, NOW)) == {id: (card,)}
    assert id in starts(plan(queue.world(2, bookings=(booked(1, 0, 1, start=13.0),)), NOW)), "where there is no other"


def test_a_job_of_which_nothing_is_known_starts_if_the_booking_is_far_away() -> None:
    queue = Queue()
    [id] = queue.add(spec(num_gpus=1), user=BOB)
    assert not starts(plan(queue.world(1, bookings=(booked(1, 0, start=12.0),)), NOW))
    assert list(starts(plan(queue.world(1, bookings=(booked(1, 0, start=12.1),)), NOW))) == [id]


def test_a_job_with_a_history_passes_a_booking_by_it() -> None:
    queue = Queue()
    for _ in range(20):
        [id] = queue.add(spec(num_gpus=1), user=BOB)
        run_plan(queue, queue.world(1))
        before = queue.snapshot.jobs[id]
        event = lifecycle.Succeeded(id, 1, before.reason or lifecycle.Reason(Code.OK, ""), 0, NOW + 600)
        queue.snapshot.learn(before, event, NOW + 600)
        queue.take(event)
    [id] = queue.add(spec(num_gpus=1), user=BOB)
    assert list(starts(plan(queue.world(1, bookings=(booked(1, 0, start=0.2),)), NOW))) == [id]
    assert not starts(plan(queue.world(1, bookings=(booked(1, 0, start=0.1),)), NOW))


def test_while_it_lasts_the_cards_are_its_owners_and_the_owners_jobs_go_there_first() -> None:
    queue = Queue()
    [other] = queue.add(spec(num_gpus=1), user=BOB)
    first, second, third = queue.add(*[spec(f"a{n}", num_gpus=1) for n in range(3)])
    world = queue.world(3, bookings=(booked(7, 1, 2, start=-1.0, hours=2.0),))
    made = run_plan(queue, world)
    given_out = starts(made)
    assert given_out[other] == ("GPU-0",)
    assert {given_out[first], given_out[second]} == {("GPU-1",), ("GPU-2",)}
    assert why(queue, third, world, made).code is Code.NO_FREE_GPU
    [more] = queue.add(spec("b", num_gpus=1), user=BOB)
    finish(queue, first)
    queue.take(lifecycle.Held(third, 0, lifecycle.Reason(Code.HELD, "")))
    made = plan(world, NOW)
    assert starts(made) == {}
    text = f"ann has booked card {given_out[first][0][-1]} until {clock_text(NOW + HOUR, NOW)} (booking 7)"
    assert why(queue, more, world, made) == lifecycle.Reason(Code.BEHIND_RESERVATION, text)


def test_people_who_wait_for_the_same_are_each_told_their_own_reason() -> None:
    queue = Queue()
    running(queue, 0, who=CAT)
    [bobs] = queue.add(spec("b", num_gpus=1, gpus=("1",)), user=BOB)
    anns = queue.add(*[spec(f"a{n}", num_gpus=1, gpus=("1",)) for n in range(2)])
    world = queue.world(2, bookings=(booked(7, 1),))
    made = run_plan(queue, world)
    assert list(starts(made)) == [anns[0]]
    made = plan(world, NOW)
    assert "held by" in why(queue, anns[1], world, made).text
    assert "held by" in why(queue, bobs, world, made).text
    finish(queue, anns[0])
    queue.take(lifecycle.Held(anns[1], 0, lifecycle.Reason(Code.HELD, "")))
    made = plan(world, NOW)
    assert why(queue, bobs, world, made).code is Code.BEHIND_RESERVATION


def test_of_one_users_jobs_each_is_told_what_is_true_of_its_own_time_limit() -> None:
    queue = Queue()
    limited, unlimited = queue.add(spec("a", num_gpus=1, time_limit=8 * HOUR), spec("b", num_gpus=1), user=BOB)
    world = queue.world(1, bookings=(booked(7, 0, start=1.0),))
    made = plan(world, NOW)
    assert "this job's time limit reaches into that" in why(queue, limited, world, made).text
    assert "this job may still run then" in why(queue, unlimited, world, made).text


def test_the_owner_need_not_heed_what_is_kept_for_others_on_booked_cards() -> None:
    queue = Queue()
    [wide] = queue.add(spec("wide", num_gpus=2, time_limit=HOUR), user=BOB)
    [mine] = queue.add(spec("mine", num_gpus=1))
    world = queue.world(2, bookings=(booked(7, 1),))
    made = plan(world, NOW)
    assert starts(made) == {mine: ("GPU-1",)}
    [kept] = made.reservations
    assert (kept.job.id, kept.at) == (wide, NOW + HOUR)


def test_a_reservation_in_time_goes_round_a_booking() -> None:
    queue = Queue()
    running(queue, 0, limit=HOUR)
    [wide] = queue.add(spec("wide", num_gpus=2, time_limit=HOUR), user=BOB)
    world = queue.world(2, bookings=(booked(1, 1, start=1.5, hours=2.0),))
    [kept] = plan(world, NOW).reservations
    assert (kept.job.id, kept.at) == (wide, NOW + 3.5 * HOUR)
    world = queue.world(2, bookings=(booked(1, 1, start=2.0, hours=2.0),))
    assert plan(world, NOW).reservations[0].at == NOW + HOUR


@st.composite
def booked_machines(draw: st.DrawFn) -> tuple[Queue, tuple[Booking, ...]]:
    """Jobs of three people on four cards, some of them running, and bookings that do not overlap."""
    queue = Queue()
    people = (ANN, BOB, CAT)
    bookings = []
    for card in range(4):
        at = draw(st.floats(-2.0, 3.0))
        for _ in range(draw(st.integers(0, 2))):
            hours = draw(st.floats(0.1, 4.0))
            who = draw(st.sampled_from(people))
            bookings.append(booked(len(bookings) + 1, card, start=at, hours=hours, who=who))
            at += hours + draw(st.sampled_from([0.0, 0.0, 1.0]))
    limits = st.none() | st.floats(60.0, 8 * HOUR)
    for _ in range(draw(st.integers(1, 10))):
        one = spec(
            num_gpus=draw(st.integers(1, 3)), time_limit=draw(limits), priority=draw(st.sampled_from([0, 0, -5]))
        )
        queue.add(one, user=draw(st.sampled_from(people)), at=NOW - draw(st.floats(0.0, 48 * HOUR)))
        if draw(st.booleans()):
            run_plan(queue, queue.world(4, bookings=tuple(bookings)), NOW - draw(st.floats(0.0, HOUR)))
    bookings.sort(key=lambda booking: (booking.starts_at, booking.id))
    return queue, tuple(bookings)


@settings(max_examples=300, deadline=None)
@given(booked_machines())
def test_no_job_is_started_into_a_booking_of_somebody_else(machine: tuple[Queue, tuple[Booking, ...]]) -> None:
    queue, bookings = machine
    world = queue.world(4, bookings=bookings)
    made = plan(world, NOW)
    assert made == plan(world, NOW)
    taken = set(queue.snapshot.holders)
    for one in made.decisions:
        if not isinstance(one, Start):
            continue
        assert taken.isdisjoint(one.gpus)
        taken.update(one.gpus)
        uid, limit = one.job.pipeline.submitter.uid, one.job.spec.time_limit
        for booking in bookings:
            if booking.uid != uid and booking.ends_at > NOW and not set(booking.gpus).isdisjoint(one.gpus):
                assert booking.starts_at > NOW, "a card that is somebody's now"
                assert booking.starts_at >= NOW + (limit or 12 * HOUR), "a job that may run into a booking"
    # Who has booked a card need not heed what is kept for others there, which may let others start in the next turn.
    turns = 0
    while (made := run_plan(queue, world)).decisions:
        turns += 1
        assert turns < 10, "it comes to rest"
    for job in queue.snapshot.in_order():
        assert why(queue, job.id, world, made).code is not Code.STARTING_SOON, "who does not start is told why"
    after = NOW + 30 * HOUR
    for id in list(queue.snapshot.live):
        finish(queue, id, now=after)
    for _ in range(40):
        run_plan(queue, world, after)
        for id in list(queue.snapshot.live):
            finish(queue, id, now=after)
    assert not queue.snapshot.jobs, "once they are over nothing is left waiting"


# -- which cards -------------------------------------------------------------------------------------------------------


def test_cards_are_chosen_that_will_be_free_and_lie_together() -> None:
    queue = Queue()
    running(queue, 1)
    process = GpuProcess(77, "compute", 1 << 30, "python", 1001)
    seen = [gpu(n) for n in range(4)]
    assert choose(wish(2), queue.world(4), NOW) == ("GPU-2", "GPU-3")
    assert choose(wish(3), queue.world(4), NOW) == ("GPU-0", "GPU-2", "GPU-3")
    seen[3] = gpu(3, processes=(process,))
    assert choose(wish(2), queue.world(Inventory(tuple(seen))), NOW) == ("GPU-0", "GPU-2")
    assert choose(wish(4), queue.world(4), NOW) == tuple(f"GPU-{n}" for n in range(4))


def test_cards_that_are_linked_are_booked_together() -> None:
    queue = Queue()
    linked = Inventory(cards(4).gpus, topology=topology_of({(0, 2): 4, (1, 3): 4}, 4))
    assert choose(wish(2), queue.world(linked), NOW) == ("GPU-0", "GPU-2")
    running(queue, 0)
    assert choose(wish(2), queue.world(linked), NOW) == ("GPU-1", "GPU-3")
    assert choose(wish(3), queue.world(linked), NOW) == ("GPU-1", "GPU-2", "GPU-3")


def test_cards_of_a_model_and_cards_by_name() -> None:
    queue = Queue()
    mixed = Inventory((gpu(0, name="NVIDIA A100"), gpu(1), gpu(2, name="NVIDIA A100"), gpu(3, lost=True)))
    world = queue.world(mixed)
    assert choose(wish(2, model="*a100*"), world, NOW) == ("GPU-0", "GPU-2")
    assert choose(wish(1, model="*H100*"), world, NOW) == ("GPU-1",)
    assert choose(wish(2, cards=("2", "GPU-1")), world, NOW) == ("GPU-1", "GPU-2")
    with pytest.raises(InvalidRequest, match=r"cannot book 3 cards like \*a100\*: this machine has 2"):
        choose(wish(3, model="*a100*"), world, NOW)
    with pytest.raises(AlreadyTaken, match=r"cannot book 2 cards like \*H100\*: 1 can be used; card 3 is lost"):
        choose(wish(2, model="*H100*"), world, NOW)
    with pytest.raises(AlreadyTaken, match="cannot book card 3: it is lost"):
        choose(wish(1, cards=("3",)), world, NOW)
    with pytest.raises(AlreadyTaken, match="cannot book card 0: it is drained: fan"):
        choose(wish(1, cards=("0",)), queue.world(mixed, drained={"GPU-0": Drain("fan")}), NOW)
    with pytest.raises(InvalidRequest, match="named twice"):
        choose(wish(2, cards=("0", "GPU-0")), world, NOW)
    with pytest.raises(NoSuchCard):
        choose(wish(1, cards=("9",)), world, NOW)


def test_what_is_booked_already_is_refused_with_who_and_when_it_would_be_possible() -> None:
    queue = Queue()
    world = queue.world(2, bookings=(booked(1, 0, hours=2.0), booked(2, 1, start=1.0, who=BOB)))
    assert choose(wish(who=CAT, hours=1.0), world, NOW) == ("GPU-1",)
    with pytest.raises(AlreadyTaken) as refused:
        choose(wish(who=CAT, hours=1.5), world, NOW)
    at = [clock_text(NOW + hours * HOUR, NOW) for hours in (0.0, 1.0, 1.5, 2.0)]
    assert str(refused.value) == (
        f"cannot book 1 card from {at[0]} to {at[2]}: 0 can be had. card 0: ann has booked it from {at[0]} to {at[3]} "
        f"(booking 1); card 1: bob has booked it from {at[1]} to {at[3]} (booking 2). "
        f"For so long it is possible from {at[3]} on"
    )
    assert choose(wish(who=CAT, start=2.0, hours=1.5), world, NOW) == ("GPU-0",)
    with pytest.raises(AlreadyTaken, match="you have booked it"):
        choose(wish(2, who=ANN), world, NOW)


def test_a_job_that_may_run_into_it_by_its_limit_is_in_the_way_and_one_without_a_limit_is_waited_for() -> None:
    queue = Queue()
    limited = running(queue, 0, limit=2 * HOUR)
    endless = running(queue, 1)
    world = queue.world(2)
    with pytest.raises(AlreadyTaken) as refused:
        choose(wish(2, start=1.0), world, NOW)
    until = clock_text(NOW + 2 * HOUR, NOW)
    assert f"card 0: job {limited} (bob) may run until {until}. For so long it is possible from {until} on" in str(
        refused.value
    )
    assert choose(wish(2, start=2.0), world, NOW) == ("GPU-0", "GPU-1")
    assert choose(wish(2, start=1.0, who=BOB), world, NOW) == ("GPU-0", "GPU-1"), "their own jobs are not in the way"
    soon, now = booked(5, 1, start=1.0), booked(6, 1)
    assert booking_view(soon, world, NOW)["text"] == f"may wait for job {endless} (bob), without a time limit"
    view = booking_view(now, world, NOW)
    assert (view["text"], view["waits_for"], view["active"]) == (f"waits for job {endless} (bob)", [endless], True)
    assert booking_view(booked(7, 1, who=BOB), world, NOW)["text"] == ""


def longer(limit: float | None, *bookings: Booking, had: float | None = HOUR, after: float = 0.0) -> str | None:
    """What is said of a job on card 1, running since now, that wants that limit some hours later; None if nothing."""
    queue = Queue()
    id = running(queue, 1, limit=had)
    try:
        check_limit(queue.snapshot.jobs[id], limit, queue.world(4, bookings=bookings), NOW + after * HOUR)
    except AlreadyTaken as refused:
        return str(refused)
    return None


def test_a_running_job_gets_no_limit_that_reaches_into_somebody_elses_booking() -> None:
    one = booked(7, 0, 1, start=3.0)
    begin = clock_text(NOW + 3 * HOUR, NOW)
    assert longer(3 * HOUR, one) is None
    assert longer(4 * HOUR, one) == (
        f"cannot give job 1 a time limit of 4h: ann has booked card 1 from {begin} on (booking 7); it may have 3h"
    )
    assert longer(None, one) == (
        f"cannot give job 1 no time limit: ann has booked card 1 from {begin} on (booking 7); it may have 3h"
    )


def test_what_may_be_had_is_not_said_longer_than_it_is() -> None:
    refused = longer(9 * HOUR, booked(7, 1, start=2.0 + 59 / 3600))
    assert refused is not None and refused.endswith("; it may have 2h")
    refused = longer(90 * HOUR, booked(7, 1, start=49.9))
    assert refused is not None and refused.endswith("; it may have 2d 1h")


@pytest.mark.parametrize(
    ("limit", "booking", "had", "after"),
    [
        (4 * HOUR, booked(7, 0, 2, start=3.0), HOUR, 0.0),  # other cards
        (4 * HOUR, booked(7, 1, start=3.0, who=BOB), HOUR, 0.0),  # its own user's
        (4 * HOUR, booked(7, 1, start=3.0), 6 * HOUR, 0.0),  # it is less than before
        (4 * HOUR, booked(7, 1, start=3.0), None, 0.0),
        (9 * HOUR, booked(7, 1, start=1.0), 2 * HOUR, 2.5),  # that is over
    ],
)
def test_whatever_makes_no_booking_wait_longer_is_allowed(
    limit: float, booking: Booking, had: float | None, after: float
) -> None:
    assert longer(limit, booking, had=had, after=after) is None


def test_a_job_that_a_booking_waits_for_gets_no_more() -> None:
    refused = longer(3 * HOUR, booked(7, 1, start=1.0, hours=5.0), had=2 * HOUR, after=1.5)
    assert refused is not None and refused.endswith("(booking 7)"), "nothing longer may be had"


def test_a_job_that_waits_may_have_any_limit() -> None:
    queue = Queue()
    running(queue, 1)
    [id] = queue.add(spec(num_gpus=1, gpus=("1",), time_limit=HOUR), user=BOB)
    check_limit(queue.snapshot.jobs[id], None, queue.world(4, bookings=(booked(7, 1, start=1.0),)), NOW)


def test_a_card_shows_its_booking_and_a_booking_what_is_wrong_with_its_cards() -> None:
    queue = Queue()
    bookings = (booked(3, 0, 1), booked(4, 0, start=5.0))
    world = queue.world(
        Inventory((gpu(0), gpu(1, lost=True), gpu(2))), bookings=bookings, drained={"GPU-0": Drain("fan")}
    )
    assert [gpu_view(card, world).get("booking") for card in world.inventory.gpus] == [3, 3, None]
    assert booking_view(bookings[0], world, NOW)["text"] == "card 0 is drained: fan; card 1 is lost"


# -- who may -----------------------------------------------------------------------------------------------------------


def test_a_time_that_is_over_and_one_that_is_too_short_are_refused() -> None:
    check_times(NOW, NOW + 60, NOW)
    with pytest.raises(InvalidRequest, match="a time that is over"):
        check_times(NOW - 1, NOW + 60, NOW)
    with pytest.raises(InvalidRequest, match="less than 60 s"):
        check_times(NOW, NOW + 59, NOW)


def test_who_is_no_operator_books_so_many_cards_for_so_long_and_no_more() -> None:
    assert [cards_at_once(8, None), cards_at_once(1, None), cards_at_once(8, 3)] == [4, 1, 3]
    mine = (booked(1, 0, 1, start=2.0), booked(2, 2, start=3.5), booked(3, 3, who=BOB, start=2.0))
    check_allowed(wish(2, start=2.5, hours=1.0), 4, mine, NOW)
    check_allowed(wish(4, start=4.5, hours=1.0), 4, mine, NOW)
    with pytest.raises(NotAllowed, match="you may book 4 at a time, and you have 2 booked at that time"):
        check_allowed(wish(3, start=1.0, hours=2.0), 4, mine, NOW)
    with pytest.raises(NotAllowed, match="cannot book 5 cards: you may book 4 at a time; more take an operator"):
        check_allowed(wish(5), 4, mine, NOW)
    check_allowed(wish(1, hours=7 * 24), 4, (), NOW)
    with pytest.raises(NotAllowed, match="beyond the next 7 days"):
        check_allowed(wish(1, start=1.0, hours=7 * 24), 4, (), NOW)
    many = tuple(booked(n, 0, start=float(n)) for n in range(BOOKINGS))
    with pytest.raises(NotAllowed, match=f"you have {BOOKINGS} bookings"):
        check_allowed(wish(1, start=100.0), 4, many, NOW)
    check_allowed(wish(1, start=100.0), 4, many[1:], NOW)
