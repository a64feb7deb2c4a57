"""The forecast where jobs may be preempted, by hand-made examples and beside what the planner then does."""

from __future__ import annotations

import math
from typing import Any

import pytest

from core.builders import ANN, spec
from core.test_forecast import likely
from core.test_planner import finish
from core.test_preemption import BOB, MIN_RUN, NOW, Machine, high, low, stopped
from runners.api import Code, JobState
from runnersd.config import Quota
from runnersd.forecast import Forecast, forecast
from runnersd.model import Job, Reason
from runnersd.planner.space import Space
from runnersd.quotas import Quotas

HOUR = 3600.0
GRACE = 10.0
FROM = NOW + MIN_RUN


def long(name: str = "low", **keys: Any) -> Any:
    return low(name, **{"time_limit": 10 * HOUR, "grace": GRACE, **keys})


def foretold(machine: Machine) -> Forecast:
    return forecast(machine.world, machine.now)


def victims(made: Forecast, id: int) -> list[int]:
    preempts = made.expected[id].preempts
    return [] if preempts is None else [one.id for one in preempts.jobs]


def comes_to_pass(machine: Machine, id: int) -> float:
    """When the job starts, if all run until their limits and need all of their grace."""
    while True:
        plan = machine.turn()
        live = machine.queue.snapshot.live
        if id in live:
            return machine.now
        ends = {id: _end(one) for id, one in live.items()}
        times = [*ends.values(), *([plan.look_again] if plan.look_again is not None else [])]
        machine.now = min(time for time in times if time > machine.now)
        for ended in [id for id, end in ends.items() if end <= machine.now]:
            if live[ended].state is JobState.STOPPING:
                machine.leaves(ended)
            else:
                finish(machine.queue, ended)


def _end(job: Job) -> float:
    if job.state is JobState.STOPPING:
        return (job.stopping_at or 0.0) + job.spec.grace
    return (job.started_at or 0.0) + (job.spec.time_limit or math.inf)


def test_a_job_is_expected_when_the_one_before_it_may_be_preempted() -> None:
    machine = Machine(1)
    (victim,) = machine.runs(long(), for_=60.0)
    (job,) = machine.adds(high(time_limit=HOUR))
    (behind,) = machine.adds(long("behind"))
    made = foretold(machine)
    found = made.expected[job]
    assert found.likely == FROM + GRACE
    assert found.latest is not None and found.earliest <= FROM and FROM + GRACE <= found.latest < NOW + HOUR
    assert found.preempts is not None and found.preempts.at == FROM
    assert victims(made, job) == [victim] and victims(made, behind) == []
    # Who has made way is first to start again, for as long as it may need: it begins anew. It runs, and is not foretold.
    assert likely(made, behind) == [FROM + GRACE + 11 * HOUR]
    assert set(made.expected) == set(made.in_time) == {job, behind}


def test_that_is_said_as_long_as_it_is_true() -> None:
    machine = Machine(1)
    (victim,) = machine.runs(long(), for_=60.0)
    (job,) = machine.adds(high(time_limit=HOUR))
    found = foretold(machine).expected[job]
    waits = Reason(Code.NO_FREE_GPU, "needs 1 card: 0 free")
    assert found.told(waits, NOW).text.startswith(f"needs 1 card: 0 free; may preempt {victim} (ann) from ")
    assert found.told(waits, FROM) == waits
    soon = Reason(Code.STARTING_SOON, "room is made for it")
    assert found.told(soon, NOW) == soon


@pytest.mark.parametrize(
    ("running", "job", "expected", "stops"),
    [
        ([{}, {"time_limit": 2 * HOUR}], {"num_gpus": 2}, FROM + GRACE, 2),
        ([{}, {"preemptible": False, "time_limit": 2 * HOUR}], {"num_gpus": 2}, NOW + 2 * HOUR + GRACE, 1),
        ([{"grace": 60.0}, {"priority": -1, "grace": 30.0}], {}, FROM + 30.0, 1),  # the least important
        ([{}, {}], {"gpus": ("0",)}, FROM + GRACE, 1),
        ([{"time_limit": 500.0}, {}], {}, NOW + 500.0, 0),  # earlier than anybody may be preempted
        ([{"num_gpus": 2}], {"num_gpus": 2}, FROM + GRACE, 1),
        ([{}, {"preemptible": False}], {"num_gpus": 2, "priority": 1}, NOW + 10 * HOUR, 0),  # all end then
        ([{"time_limit": None}, {"preemptible": False}], {}, FROM + GRACE, 1),
        ([{"priority": 4, "gpus": ("0",)}, {}], {"priority": 3, "gpus": ("0",)}, NOW + 10 * HOUR, 0),
        ([{"num_gpus": 2}], {"gpu_memory": 8 << 30, "gpu_shared": True}, FROM + GRACE, 1),
    ],
)
def test_who_starts_when_is_what_comes_of_it(running: Any, job: Any, expected: float, stops: int) -> None:
    machine = Machine(2)
    machine.runs(*(long(f"low{n}", **keys) for n, keys in enumerate(running)), for_=60.0)
    (id,) = machine.adds(high(time_limit=HOUR, **job))
    made = foretold(machine)
    assert likely(made, id) == [expected]
    assert len(victims(made, id)) == stops
    found, started = made.expected[id], comes_to_pass(machine, id)
    assert started == expected
    assert found.latest is not None and found.earliest <= started <= found.latest


def test_each_of_several_has_its_own_and_all_of_them_wait_again() -> None:
    machine = Machine(2)
    first = machine.runs(long("one"), for_=100.0)
    second = machine.runs(long("two"), for_=100.0)
    ids = machine.adds(*(high(f"high{n}", time_limit=HOUR) for n in range(3)))
    made = foretold(machine)
    assert likely(made, *ids) == [FROM + GRACE, FROM + 100.0 + GRACE, FROM + HOUR + GRACE]
    assert [victims(made, id) for id in ids] == [first, second, []]
    (last,) = machine.adds(low("last", time_limit=60.0))
    assert likely(foretold(machine), last) == [FROM + 100.0 + HOUR + GRACE + 10 * HOUR]


@pytest.mark.parametrize(
    ("victim", "job", "facts"),
    [
        ({}, {}, {"min_run": None}),
        ({"preemptible": False}, {}, {}),
        ({"priority": 5}, {}, {}),
        ({}, {"gpus": ("0",)}, {}),  # the other card
        ({}, {}, {"quotas": Quotas(users={"bob": Quota(running=1)})}),
    ],
)
def test_nobody_is_expected_to_make_way_who_does_not(victim: Any, job: Any, facts: Any) -> None:
    machine = Machine(2, **facts)
    machine.runs(spec("fixed", num_gpus=1, gpus=("0",), time_limit=20 * HOUR), user=BOB, for_=0.0)
    machine.runs(long(gpus=("1",), **victim), for_=60.0)
    (id,) = machine.adds(high(time_limit=HOUR, **job))
    made = foretold(machine)
    assert victims(made, id) == []
    assert made.expected[id].likely in (NOW + 10 * HOUR, NOW + 20 * HOUR)


def test_who_comes_into_line_later_may_preempt_too() -> None:
    machine = Machine(1)
    (victim,) = machine.runs(long(), for_=60.0)
    (job,) = machine.adds(high(time_limit=HOUR, begin=NOW + 2 * HOUR))
    made = foretold(machine)
    assert (likely(made, job), victims(made, job)) == ([NOW + 2 * HOUR + GRACE], [victim])
    (later,) = machine.adds(high("later", priority=0, time_limit=HOUR, begin=NOW + 3 * HOUR))
    assert likely(foretold(machine), later) == [NOW + 13 * HOUR + GRACE], "behind the one that is run again"


def test_who_makes_way_leaves_room_under_a_quota_too() -> None:
    machine = Machine(2, quotas=Quotas(users={"ann": Quota(running=1)}))
    (victim,) = machine.runs(long(gpus=("0",)), for_=60.0)
    (job,) = machine.adds(high(time_limit=HOUR, gpus=("0",)))
    (anns,) = machine.adds(high("anns", priority=3, time_limit=HOUR), user=ANN)
    made = foretold(machine)
    assert victims(made, job) == [victim]
    assert likely(made, job, anns) == [FROM + GRACE, FROM + GRACE]


def test_what_is_only_tried_leaves_the_space_as_it_was() -> None:
    machine = Machine(1)
    (id,) = machine.runs(long(), for_=60.0)
    job = machine.queue.snapshot.jobs[id]
    space = Space(machine.world, machine.now, {id: NOW + HOUR})
    card = space.cards.cards["GPU-0"]

    def seen() -> tuple[float, bool, bool, float]:
        before, after = (card.time.taken(NOW + at) > 0 for at in (299.0, 301.0))
        return card.surely, before, after, space.ends[id]

    before = seen()
    with space.if_ended([job], {id: NOW + 300.0}):
        assert seen() == (NOW + 300.0, True, False, NOW + 300.0)
    assert seen() == before == (NOW + 10 * HOUR, True, True, NOW + HOUR)


def test_for_whom_others_make_way_already_nobody_else_does() -> None:
    machine = Machine(2)
    machine.runs(long("one"), long("two"))
    (job,) = machine.adds(high(time_limit=HOUR))
    assert len(stopped(machine.turn())) == 1
    made = foretold(machine)
    assert (likely(made, job), victims(made, job)) == ([machine.now + GRACE], [])
