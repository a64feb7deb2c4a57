"""When cards are kept for a job that needs several, when they are only owed to it, and who goes before it meanwhile."""

from __future__ import annotations

import pytest

from core.builders import Queue, gpu, spec
from core.test_planner import NOW, OK, run_plan, starts, why
from runners.api import Code
from runnersd import lifecycle
from runnersd.forecast.advice import advice
from runnersd.model import Inventory, Reason
from runnersd.planner import Stop
from runnersd.planner.lengths import SEEN
from runnersd.planner.promises import AFTER, AT_LAST, KEPT
from runnersd.planner.space import Space
from runnersd.planner.telling import Telling
from runnersd.planner.walk import Walk
from runnersd.urgency import Measures

HOUR = 3600.0
#: The longest delay (seconds).
MOST = 12 * HOUR


class Scene:
    """Four cards; jobs for all of them that are known to be short; and who held them at the beginning."""

    def __init__(self, *, known: int = SEEN) -> None:
        self.queue = Queue()
        self.queue.snapshot.measure(Measures(cards=4, max_delay=MOST))
        self.past(known, "wide", 4, 300.0)
        self.past(known, "brief", 1, 100.0)
        self.past(known, "day", 1, 10 * HOUR)

    def past(self, times: int, command: str, cards: int, seconds: float) -> None:
        """So many jobs of a kind took so long."""
        for _ in range(times):
            (id,) = self.queue.add(spec("past", command=command, num_gpus=cards), at=NOW - seconds)
            assert id in starts(run_plan(self.queue, self.queue.world(4), NOW - seconds))
            before, event = self.queue.snapshot.jobs[id], lifecycle.Succeeded(id, 1, OK, 0, NOW)
            self.queue.take(event)
            self.queue.snapshot.learn(before, event, NOW)

    def holds(self, cards: int = 1, *, since: float = 0.0, limit: float | None = None, command: str = "hold") -> int:
        """Somebody has so many cards, for so long already."""
        (id,) = self.queue.add(spec("hold", command=command, num_gpus=cards, time_limit=limit), at=NOW - since)
        assert id in starts(run_plan(self.queue, self.queue.world(4), NOW - since))
        return id

    def end(self, command: str, now: float) -> None:
        """What runs of that kind is over, and teaches nothing."""
        for job in [job for job in self.queue.snapshot.live.values() if job.spec.command == command]:
            self.queue.take(lifecycle.Succeeded(job.id, 1, OK, 0, now))

    def waits(self, command: str = "wide", at: float = NOW, *, cards: int = 4, limit: float | None = None) -> int:
        """A job that comes and cannot start."""
        (id,) = self.queue.add(spec(command, command=command, num_gpus=cards, time_limit=limit), at=at)
        assert id not in starts(run_plan(self.queue, self.queue.world(4), at))
        return id

    def passes(self, command: str, at: float = NOW, *, limit: float | None = None) -> bool:
        """Whether a job for one card that comes then starts at once."""
        (id,) = self.queue.add(spec(command, command=command, num_gpus=1, time_limit=limit), at=at)
        made = run_plan(self.queue, self.queue.world(4), at)
        if id not in starts(made):
            assert why(self.queue, id, self.queue.world(4), made, at).code is Code.BEHIND_RESERVATION
            return False
        return True


def test_before_its_promise_a_job_for_all_cards_only_holds_back_limits_that_reach_beyond_it() -> None:
    scene = Scene()
    scene.holds(limit=30 * HOUR)
    scene.waits()
    assert scene.passes("day"), "it has no limit, and nothing is kept yet"
    assert scene.passes("limited", limit=29 * HOUR), "done before the cards can all be had"
    assert not scene.passes("limited", limit=31 * HOUR)


def test_until_its_promise_a_short_job_for_all_cards_may_be_made_later_but_not_for_long() -> None:
    scene = Scene()
    scene.holds(limit=10 * HOUR)
    scene.waits()
    bound = (0.75 + AFTER) * MOST  # after it came
    assert scene.passes("limited", NOW + HOUR, limit=bound - HOUR)
    assert not scene.passes("limited", NOW + HOUR, limit=bound - 0.8 * HOUR)
    assert not scene.passes("limited", NOW + 0.76 * MOST, limit=bound - 0.75 * MOST), "from then on cards are kept"


def test_a_long_job_for_all_cards_is_not_made_later_than_its_promise() -> None:
    scene = Scene()
    scene.holds(limit=10 * HOUR)
    scene.waits("long", limit=5 * HOUR)
    promise = 0.75 * MOST + 1.35 * 5 * HOUR
    assert scene.passes("limited", limit=promise)
    assert not scene.passes("limited", limit=promise + HOUR)


def test_who_is_owed_cards_is_named_to_those_who_heed_that() -> None:
    scene = Scene()
    scene.holds(limit=30 * HOUR)
    wide = scene.waits()
    (late,) = scene.queue.add(spec("late", num_gpus=1, time_limit=31 * HOUR), at=NOW)
    world = scene.queue.world(4)
    made = run_plan(scene.queue, world)
    assert [(one.job.id, one.at) for one in made.reservations] == [(wide, NOW + 30 * HOUR)]
    text = why(scene.queue, late, world, made).text
    assert f"job {wide} (ann) is ahead and needs 4 cards, owed to it from about" in text
    told = Telling().tell(made, world, NOW)
    assert told is not None and f"owes cards 0,1,2,3 to {wide} wide (ann)" in told.text


def test_cards_are_kept_at_once_that_are_all_free_soon() -> None:
    scene = Scene()
    scene.holds(limit=1.5 * HOUR)
    scene.waits()
    assert not scene.passes("day"), "all of its kind took longer than until then"
    assert not scene.passes("unheard of")
    assert scene.passes("brief")
    assert scene.passes("limited", limit=HOUR)
    assert not scene.passes("limited", limit=2 * HOUR)


def test_a_few_of_a_kind_are_no_proof_that_the_next_is_brief() -> None:
    scene = Scene(known=SEEN - 1)
    scene.holds(limit=1.5 * HOUR)
    scene.waits()
    assert not scene.passes("brief")


@pytest.mark.parametrize(
    ("waiting", "hours", "kept"), [(1, 4.0, False), (1, 6.0, True), (2, 3.0, False), (2, 4.0, True)]
)
def test_cards_wait_for_the_last_one_as_long_as_the_jobs_that_need_them_have_waited_together(
    waiting: int, hours: float, kept: bool
) -> None:
    scene = Scene()
    scene.holds(limit=10 * HOUR)
    for _ in range(waiting):
        scene.waits()
    assert scene.passes("day", NOW + hours * HOUR) is not kept


@pytest.mark.parametrize(("ran", "kept"), [(0.5, True), (1.5, False)])
def test_nothing_is_kept_beside_two_that_have_run_for_long_and_may_go_on(ran: float, kept: bool) -> None:
    scene = Scene()
    scene.holds(2, since=ran * HOUR, command="one")
    scene.holds(1, since=ran * HOUR, command="two")
    scene.waits()
    assert scene.passes("unheard of") is not kept


def test_one_that_has_run_for_long_is_waited_for() -> None:
    scene = Scene()
    scene.holds(since=9 * HOUR)
    scene.waits()
    assert not scene.passes("unheard of")


def test_what_takes_hours_passes_no_kept_card_on_a_guess_that_its_holder_takes_longer_still() -> None:
    scene = Scene()
    scene.past(SEEN, "short", 1, 3 * HOUR)
    scene.past(SEEN, "middling", 1, 5 * HOUR)
    scene.holds(since=1.5 * HOUR, command="day")  # for 8.5 hours more, as far as is known
    scene.waits()
    assert scene.passes("short")
    assert not scene.passes("middling")


def test_who_is_late_by_the_longest_delay_is_passed_by_brief_kinds_alone() -> None:
    scene = Scene()
    scene.holds(2, since=2 * HOUR, command="one")
    scene.holds(1, since=2 * HOUR, command="two")
    scene.waits()
    late = NOW + 2 * MOST + HOUR
    assert scene.passes("day", NOW + 1.5 * MOST)
    scene.end("day", late)
    assert not scene.passes("day", late)
    assert scene.passes("brief", late)


def test_nobody_of_whom_nothing_is_known_passes_after_the_promise() -> None:
    scene = Scene(known=0)
    scene.holds(2, command="one")
    scene.holds(1, command="two")
    scene.waits(limit=300.0)
    assert scene.passes("new", NOW + 0.5 * MOST)
    scene.end("new", NOW + 0.6 * MOST)
    assert not scene.passes("newer", NOW + MOST)


def test_in_the_end_cards_are_kept_whoever_has_them() -> None:
    scene = Scene()
    scene.past(SEEN, "middling", 1, 5 * HOUR)
    scene.holds(2, since=2 * HOUR, command="one")
    scene.holds(1, since=2 * HOUR, command="two")
    scene.waits()
    assert scene.passes("middling", NOW + 3.5 * MOST)
    scene.end("middling", NOW + 3.5 * MOST)
    assert not scene.passes("middling", NOW + 4 * MOST)


def test_from_its_promise_on_cards_are_kept_for_a_job_however_long_that_takes() -> None:
    scene = Scene()
    scene.holds(limit=40 * HOUR)
    scene.waits()
    assert scene.passes("day", NOW + 0.5 * MOST)
    scene.end("day", NOW + 0.5 * MOST)
    assert not scene.passes("day", NOW + 0.8 * MOST)


def test_nothing_is_kept_for_a_long_job_before_its_promise() -> None:
    scene = Scene()
    scene.holds(limit=HOUR)
    scene.waits("long", limit=10 * HOUR)
    assert scene.passes("day")
    assert not scene.passes("limited", limit=23 * HOUR)


def models(layout: str) -> Inventory:
    """A card of each of these models."""
    return Inventory(tuple(gpu(index, name=name) for index, name in enumerate(layout)))


def two_of_four(limit: float) -> tuple[Queue, int, int]:
    """A queue in which somebody has both cards of model A, and a job for both waits that is not short."""
    queue = Queue()
    queue.snapshot.measure(Measures(cards=4, max_delay=MOST))
    (hold,) = queue.add(spec("hold", num_gpus=2, gpu_model="A"), at=NOW)
    (wide,) = queue.add(spec("wide", num_gpus=2, gpu_model="A", time_limit=limit), at=NOW)
    assert starts(run_plan(queue, queue.world(models("AABB")))).keys() == {hold}
    return queue, hold, wide


def test_what_a_job_is_owed_itself_does_not_stand_in_its_way() -> None:
    queue, hold, wide = two_of_four(40 * HOUR)  # longer than until its promise
    queue.take(lifecycle.Succeeded(hold, 1, OK, 0, NOW))
    assert starts(run_plan(queue, queue.world(models("AABB")))) == {wide: ("GPU-0", "GPU-1")}


def test_the_first_alone_is_owed_cards() -> None:
    scene = Scene()
    scene.holds(limit=20 * HOUR)
    first = scene.waits()
    scene.waits("another", limit=400.0)
    made = run_plan(scene.queue, scene.queue.world(4))
    assert [one.job.id for one in made.reservations] == [first]


@pytest.mark.parametrize("limit", [21 * HOUR, None])
@pytest.mark.parametrize(("layout", "other"), [("AAB", "GPU-2"), ("BAA", "GPU-0")])
def test_who_passes_what_is_owed_has_another_card_where_one_is_free(
    limit: float | None, layout: str, other: str
) -> None:
    queue, world = Queue(), lambda: queue.world(models(layout))
    queue.snapshot.measure(Measures(cards=3, max_delay=MOST))
    queue.add(spec("hold", num_gpus=1, gpu_model="A", time_limit=8 * HOUR), at=NOW)
    run_plan(queue, world())
    queue.add(spec("wide", num_gpus=2, gpu_model="A", time_limit=300.0), at=NOW)
    assert starts(run_plan(queue, world())) == {}
    (one,) = queue.add(spec("one", num_gpus=1, time_limit=limit), at=NOW)
    assert starts(run_plan(queue, world())) == {one: (other,)}


@pytest.mark.parametrize("limit", [30 * HOUR, None])
def test_a_later_job_for_several_cards_does_not_go_before_one_that_is_late(limit: float | None) -> None:
    scene = Scene(known=0)
    scene.holds(since=2 * HOUR, command="one")
    scene.holds(since=2 * HOUR, command="two")
    scene.waits(limit=300.0)
    scene.waits("other", NOW + 10 * HOUR, cards=2, limit=limit)
    for hours in (20, 35, 44):
        made = run_plan(scene.queue, scene.queue.world(4), NOW + hours * HOUR)
        assert starts(made) == {}, hours


def test_nobody_is_stopped_for_cards_that_are_owed_to_others() -> None:
    queue, world = Queue(), lambda: queue.world(2, min_run=0.0)
    queue.snapshot.measure(Measures(cards=2, max_delay=MOST))
    queue.add(spec("victim", num_gpus=1, preemptible=True), spec("hold", num_gpus=1, time_limit=7 * HOUR), at=NOW)
    assert len(starts(run_plan(queue, world()))) == 2
    queue.add(spec("wide", num_gpus=2, time_limit=300.0, priority=5), at=NOW)
    assert run_plan(queue, world(), NOW + 60).decisions == ()
    queue.add(spec("long", num_gpus=1, time_limit=200 * HOUR, priority=5), at=NOW + 60)
    assert run_plan(queue, world(), NOW + 60).decisions == ()


def test_who_may_not_have_a_free_card_that_is_owed_has_another_by_preemption() -> None:
    queue, seen = Queue(), models("AAB")
    queue.snapshot.measure(Measures(cards=3, max_delay=MOST))
    (_, victim) = queue.add(
        spec("hold", num_gpus=1, gpu_model="A", time_limit=7 * HOUR),
        spec("victim", num_gpus=1, gpu_model="B", preemptible=True),
        at=NOW,
    )
    assert len(starts(run_plan(queue, queue.world(seen, min_run=0.0)))) == 2
    queue.add(spec("wide", num_gpus=2, gpu_model="A", time_limit=300.0, priority=5), at=NOW)
    queue.add(spec("long", num_gpus=1, time_limit=200 * HOUR, priority=5), at=NOW)
    made = run_plan(queue, queue.world(seen, min_run=0.0), NOW + 60)
    assert [one.job.id for one in made.decisions if isinstance(one, Stop)] == [victim]


def test_many_that_heed_what_is_owed_cost_no_search_each(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, searches = Scene(), []
    scene.holds(limit=20 * HOUR)
    scene.waits()
    for number in range(30):
        scene.queue.add(
            spec("long", command=f"long {chr(97 + number)}", num_gpus=1, time_limit=40 * HOUR + number), at=NOW
        )
    reserve = Space.reserve
    monkeypatch.setattr(Space, "reserve", lambda *given: searches.append(given) or reserve(*given))
    run_plan(scene.queue, scene.queue.world(4))
    assert len(searches) < 5


def test_one_that_others_preempted_has_not_waited_for_all_time() -> None:
    scene = Scene()
    (stopped,) = scene.queue.add(spec("wide", command="wide", num_gpus=4), at=NOW - 60)
    assert starts(run_plan(scene.queue, scene.queue.world(4), NOW - 60)).keys() == {stopped}
    scene.queue.take(lifecycle.Requeued(stopped, 1, Reason(Code.PREEMPTED, "makes way"), None, NOW))
    (hold,) = scene.queue.add(spec("hold", num_gpus=1, time_limit=30 * HOUR, priority=9), at=NOW)
    scene.queue.add(spec("other", command="other", num_gpus=4, time_limit=500.0), at=NOW)
    made = run_plan(scene.queue, scene.queue.world(4))
    assert starts(made).keys() == {hold}
    assert [(one.job.spec.name, one.owed) for one in made.reservations] == [("wide", False), ("other", True)]


def test_no_more_promises_are_looked_at_than_are_and_the_next_has_nothing_kept_for_that() -> None:
    scene = Scene()
    scene.holds(limit=20 * HOUR)
    for number in range(KEPT + 2):
        scene.queue.add(spec("wide", num_gpus=4, time_limit=300.0, cpus=1.0 + number), at=NOW)
    made = run_plan(scene.queue, scene.queue.world(4))
    assert [one.owed for one in made.reservations] == [True]


def test_it_is_looked_again_when_a_promise_comes_and_when_cards_are_kept_at_last() -> None:
    scene = Scene()
    scene.holds(2, since=2 * HOUR, command="one")
    scene.holds(1, since=2 * HOUR, command="two")
    scene.waits(limit=300.0)
    promise = NOW + 0.75 * MOST + 1.35 * 300
    for at, following in ((NOW, promise), (promise + 1, promise + AT_LAST * MOST)):
        walk = Walk(scene.queue.world(4), at)
        walk.run()
        assert min(walk.keeping.later) == pytest.approx(following)


def test_a_short_job_for_several_cards_heeds_what_is_owed_too() -> None:
    scene = Scene()
    for _ in range(2):
        scene.holds(command="day")
    scene.waits(limit=300.0)
    at = NOW + 9.5 * HOUR  # in half an hour they leave, as far as is known
    scene.waits("other", at, cards=2, limit=3 * HOUR)
    (brief,) = scene.queue.add(spec("brief", command="brief", num_gpus=2, time_limit=0.4 * HOUR), at=at)
    assert starts(run_plan(scene.queue, scene.queue.world(4), at)).keys() == {brief}


def test_those_of_a_brief_kind_are_waited_for_however_many_they_are() -> None:
    scene = Scene()
    scene.past(SEEN, "brief enough", 1, 1.9 * HOUR)
    for _ in range(3):
        scene.holds(since=1.5 * HOUR, command="brief enough")
    scene.waits()
    assert not scene.passes("unheard of")


def test_a_plan_is_made_again_when_a_promise_comes() -> None:
    scene = Scene()
    scene.holds(limit=40 * HOUR)
    scene.queue.add(spec("wide", num_gpus=4, time_limit=300.0), at=NOW)
    made = run_plan(scene.queue, scene.queue.world(4))
    assert made.look_again == pytest.approx(NOW + 0.75 * MOST + 1.35 * 300)


def test_with_what_limit_a_job_could_have_cards_that_are_owed_is_said() -> None:
    scene = Scene()
    scene.holds(limit=20 * HOUR)
    scene.waits(limit=300.0)
    (long,) = scene.queue.add(spec("long", num_gpus=1, time_limit=30 * HOUR), at=NOW)
    world = scene.queue.world(4)
    run_plan(scene.queue, world)
    said = [one for one in advice(scene.queue.snapshot.jobs[long], lambda: world, lambda: NOW) if one]
    assert [(one.key, one.value) for one in said] == [("time_limit", 20 * HOUR)]
