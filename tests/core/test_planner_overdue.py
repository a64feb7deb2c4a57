"""Jobs for all cards that come one after another do not keep those for one from the machine for ever."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from core.builders import ANN, spec
from core.machine import Machine
from runners.api import Code
from runnersd import lifecycle
from runnersd.config import Quota
from runnersd.lines import Line
from runnersd.model import Job, Reason, Submitter
from runnersd.planner import Resolve, Start, plan
from runnersd.planner.grants import Grants
from runnersd.planner.overdue import LOOKED_AT, overdue
from runnersd.planner.promises import AT_LAST, KEPT
from runnersd.quotas import Quotas
from runnersd.urgency import PATIENCE

BOB = Submitter(1001, 1001, (1001,), "bob")
MINUTE = 60.0
#: How long a reservation may be delayed, and how long a job for all cards takes (seconds).
MOST, TAKES = 30 * MINUTE, 10 * MINUTE
#: When a job for one card has waited too long, at the latest that is tried here; and what else may be before it.
TOO_LONG, ELSE = (1 + AT_LAST) * MOST + 20 * MINUTE, 6 * TAKES


class Stream:
    """Four cards, and jobs for all of them, known to be short: there are always some that wait."""

    def __init__(self, users: tuple[Submitter, ...] = (ANN,), waiting: int = 3, **asks: Any) -> None:
        self.machine = Machine(4, max_delay=MOST)
        self.users, self.asks, self.came = users, asks, 0
        for _ in range(4):
            for user in users:
                self.machine.submit(self._all(), lasts=[TAKES], user=user)
        self.machine.pass_time(8 * TAKES)
        for _ in range(waiting):
            self.comes()

    def comes(self) -> int:
        """One more."""
        self.came += 1
        user = self.users[self.came % len(self.users)]
        return self.machine.submit(self._all(), lasts=[TAKES], user=user)[0]

    def lasts(self, seconds: float) -> list[int]:
        """As many come meanwhile as can be done; returns them."""
        came = []
        for _ in range(round(seconds / TAKES)):
            came.append(self.comes())
            self.machine.pass_time(TAKES)
        return came

    def _all(self) -> Any:
        return spec("all", **{"command": "all", "num_gpus": 4, **self.asks})


@pytest.mark.parametrize("users", [(ANN,), (ANN, BOB)], ids=["own", "two users"])
@pytest.mark.parametrize(
    ("asks", "known"),
    [({}, False), ({}, True), ({"time_limit": 60 * MINUTE}, False), ({"num_gpus": 0, "cpus": 12.0}, False)],
    ids=["unknown", "known", "limited", "without cards"],
)
def test_a_job_that_has_waited_too_long_goes_before_those_for_all_cards_that_came_since(
    users: tuple[Submitter, ...], asks: dict[str, Any], known: bool
) -> None:
    stream = Stream(users, cpus=8.0)
    if known:
        stream.machine.pass_time(6 * TAKES)
        for _ in range(3):
            stream.machine.submit(spec("day", command="day", num_gpus=1), lasts=[60 * MINUTE])
        stream.machine.pass_time(200 * MINUTE)
        stream.lasts(2 * TAKES)
        stream.comes()
    (one,) = stream.machine.submit(spec("one", **{"command": "day", "num_gpus": 1, **asks}), lasts=[60 * MINUTE])
    asked = stream.machine.now
    stream.lasts(MOST)
    assert one not in stream.machine.started, "the others are there first, and short"
    stream.lasts(TOO_LONG + ELSE - MOST)
    assert stream.machine.started[one] - asked <= TOO_LONG + ELSE


def test_those_that_came_before_it_had_waited_too_long_stay_before_it() -> None:
    stream = Stream()
    machine = stream.machine
    (one,) = machine.submit(spec("one", command="one", num_gpus=1), lasts=[60 * MINUTE])
    too_late = machine.now + (PATIENCE + AT_LAST) * MOST
    came: dict[int, float] = {}
    for _ in range(30):
        came[stream.comes()] = machine.now
        machine.pass_time(TAKES)
    before = [id for id in came if machine.started.get(id, math.inf) < machine.started[one]]
    assert before == [id for id, at in came.items() if at <= too_late]
    assert len(before) < len(machine.started.keys() & came.keys()), "and those after it go on when it is over"


def test_one_whose_card_is_not_there_keeps_nothing() -> None:
    stream = Stream()
    stream.machine.submit(spec("one", command="one", num_gpus=1, gpu_model="H100*"), lasts=[MINUTE])
    assert _in_a_row(stream)


@pytest.mark.parametrize(("where", "kept"), [({}, True), ({"run_in": "container", "image": "big"}, False)])
def test_one_that_waits_for_its_image_keeps_nothing(where: dict[str, Any], kept: bool) -> None:
    stream = Stream(waiting=1)
    machine = stream.machine
    (one,) = machine.queue.add(spec("one", num_gpus=1, **where), at=machine.now - 2 * TOO_LONG)
    stream.comes()
    assert (one in [made.job.id for made in machine.last.reservations]) is kept


def test_not_more_are_kept_for_than_are_looked_at() -> None:
    stream = Stream(waiting=1)
    queue, at = stream.machine.queue, stream.machine.now
    for n in range(3 * KEPT):  # each a shape of its own
        queue.add(spec("one", command="one", num_gpus=1, cpus=1.0 + n / 32), at=at - 2 * TOO_LONG)
    stream.comes()
    kept = [made.job for made in stream.machine.last.reservations]
    assert sum(job.spec.num_gpus == 1 for job in kept) == KEPT


def _in_a_row(stream: Stream) -> bool:
    """Whether one job for all cards follows the other, for as long as it takes somebody to have waited too long."""
    came = stream.lasts(TOO_LONG + ELSE)
    started = [stream.machine.started[id] for id in came if id in stream.machine.started]
    return all(b - a == TAKES for a, b in pairwise(started))


def test_a_job_for_all_cards_does_not_wait_for_all_who_came_together_long_before_it() -> None:
    machine = Machine(4, max_delay=MOST)
    for _ in range(30):
        machine.submit(*[spec("one", num_gpus=1)] * 10, lasts=[60 * MINUTE + n for n in range(10)], plans=False)
    machine.pass_time(4 * 60 * MINUTE)
    for _ in range(2):
        asked = machine.now
        (wide,) = machine.submit(spec("all", num_gpus=4), lasts=[TAKES])
        machine.pass_time(240 * MINUTE)
        assert machine.started[wide] - asked < 240 * MINUTE, "of 75 hours"


def test_who_made_way_for_others_has_not_waited_since_long_ago() -> None:
    machine = Machine(4, max_delay=MOST)
    queue = machine.queue
    (one,) = queue.add(spec("one", command="one", num_gpus=1), at=machine.now)
    for event in (
        lifecycle.Reserved(one, 1, ("GPU-0",)),
        lifecycle.Started(one, 1, machine.now),
        lifecycle.Requeued(one, 1, Reason(Code.PREEMPTED, "made way", 99)),
    ):
        queue.take(event)
    assert queue.snapshot.jobs[one].preempted
    since = machine.now + (PATIENCE + AT_LAST) * MOST
    assert [late.job for late in overdue(0, machine.world, since + 1.0)] == [one]
    assert list(overdue(0, machine.world, since - 1.0)) == []


def test_one_that_came_in_time_keeps_its_place_whoever_is_promised_an_earlier_start() -> None:
    """The one for all cards came first; the one for one card was overdue then not yet, but when the short one came."""
    starts = []
    for short in (False, True):
        machine = Machine(4, max_delay=2 * 60 * MINUTE)
        known = {"s": TAKES, "l": 7 * 60 * MINUTE}
        for command, seconds in known.items():
            for _ in range(3):
                machine.submit(spec(command, command=command, num_gpus=4), lasts=[seconds])
                machine.pass_time(seconds)
        now = machine.now
        (one,) = machine.queue.add(spec("one", command="one", num_gpus=1), at=now - 24 * 60 * MINUTE)
        (long,) = machine.queue.add(spec("l", command="l", num_gpus=4), at=now - 18 * 60 * MINUTE)
        if short:
            (brief,) = machine.queue.add(spec("s", command="s", num_gpus=4), at=now - 10 * 60 * MINUTE)
            machine.lasts[brief] = TAKES
        machine.lasts |= {one: 60 * MINUTE, long: 7 * 60 * MINUTE}
        machine.turn()
        starts.append([id for id in (one, long) if id in machine.started])
    assert starts == [[long], [long]]


@pytest.mark.parametrize("pins", [KEPT + 1, 3 * KEPT])
def test_those_that_wait_for_somebody_who_does_not_end_hide_nobody(pins: int) -> None:
    stream = Stream(num_gpus=3)
    machine = stream.machine
    machine.submit(spec("hold", command="hold", num_gpus=1, gpus=("0",)), lasts=[1e9])
    for n in range(pins):
        machine.submit(spec("pin", command=chr(ord("a") + n), num_gpus=1, gpus=("0",)), lasts=[TAKES])
    (one,) = machine.submit(spec("one", command="zz", num_gpus=1), lasts=[TAKES])
    asked = machine.now
    stream.lasts(TOO_LONG + ELSE)
    assert machine.started[one] - asked <= TOO_LONG + ELSE


def test_ones_own_jobs_for_several_cards_do_not_use_ones_quota_up_for_ever() -> None:
    stream = Stream(waiting=1)
    machine = stream.machine
    (one,) = machine.queue.add(spec("one", command="one", num_gpus=1), at=machine.now - 2 * TOO_LONG)
    wide = stream.comes()
    machine.pass_time(TAKES - 1.0)
    for job in list(machine.queue.snapshot.live.values()):
        machine.queue.take(lifecycle.Succeeded(job.id, job.attempt, Reason(Code.OK, "ok"), 0, machine.now))
    world = replace(machine.queue.world(8), quotas=Quotas(users={"ann": Quota(gpus=4)}))
    assert [made.job.id for made in plan(world, machine.now).decisions if isinstance(made, Start)] == [one]
    assert wide in machine.queue.snapshot.jobs


def test_very_short_jobs_do_not_pass_it_one_after_another() -> None:
    machine = Machine(4, max_delay=MOST)
    brief = spec("brief", command="brief", num_gpus=2, cpus=8.0)
    for _ in range(4):
        machine.submit(brief, lasts=[20.0])
    machine.pass_time(160.0)
    machine.submit(brief, lasts=[20.0])
    machine.pass_time(10.0)
    for _ in range(4):
        machine.submit(brief, lasts=[20.0])
    (one,) = machine.submit(spec("one", command="one", num_gpus=0, cpus=16.0), lasts=[MINUTE])
    asked = machine.now
    while one not in machine.started and machine.now - asked < TOO_LONG + ELSE:
        machine.pass_time(10.0)
        machine.submit(brief, lasts=[20.0])
    assert one in machine.started


@pytest.mark.parametrize(
    "asks", [{"gpu_model": "H100*"}, {"run_in": "container", "image": "big"}], ids=["its card is not there", "image"]
)
def test_a_plan_goes_through_a_bounded_number_of_those_that_cannot_start(
    asks: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream(waiting=1)
    queue, at = stream.machine.queue, stream.machine.now
    for n in range(2 * LOOKED_AT):
        command = "".join(chr(ord("a") + int(digit)) for digit in str(n))
        queue.add(spec("one", command=command, num_gpus=1, **asks), at=at - 2 * TOO_LONG)
    looks: list[int] = []
    bars = Grants.bars

    def counted(self: Grants, job: Job, line: Line) -> bool:
        looks.append(job.id)
        return bars(self, job, line)

    monkeypatch.setattr(Grants, "bars", counted)
    queue.add(spec("all", command="all", num_gpus=4), at=at)
    plan(stream.machine.world, at)
    assert LOOKED_AT <= len(looks) < 1.1 * LOOKED_AT


def test_the_image_of_a_job_is_looked_for_also_while_its_user_is_at_a_quota() -> None:
    machine = Machine(4)
    machine.queue.add(spec("all", num_gpus=2, run_in="container", image="lab/x"), at=machine.now)
    world = replace(machine.queue.world(4), quotas=Quotas(users={"ann": Quota(gpus=1)}))
    world = replace(world, engine=replace(world.engine, cards="nvidia"))
    assert Resolve("lab/x") in plan(world, machine.now).decisions
