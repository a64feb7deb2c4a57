"""Jobs for all cards that come one after another do not keep those for one from the machine for ever."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from core.builders import ANN, spec
from core.machine import Machine
from runnersd.model import Submitter
from runnersd.planner.promises import AT_LAST, KEPT
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
    for n in range(3 * KEPT):  # each a line of its own
        queue.add(spec("one", command=chr(ord("a") + n), num_gpus=1), at=at - 2 * TOO_LONG)
    stream.comes()
    kept = [made.job for made in stream.machine.last.reservations]
    assert sum(job.spec.num_gpus == 1 for job in kept) == KEPT


def _in_a_row(stream: Stream) -> bool:
    """Whether one job for all cards follows the other, for as long as it takes somebody to have waited too long."""
    came = stream.lasts(TOO_LONG + ELSE)
    started = [stream.machine.started[id] for id in came if id in stream.machine.started]
    return all(b - a == TAKES for a, b in pairwise(started))
