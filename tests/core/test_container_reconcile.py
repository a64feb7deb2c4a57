"""What comes next for an attempt in a container: every row of the table, and what no row may do."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest

from runnersd.machine.docker.reconcile import GHOST_LOOKS, LATE_START, Known, Look, Status, Step, step

NEW = Known()
MADE = Known(created=True)
#: Its start was asked for; behind a gate its payload has not run, without one it may have.
GATED = Known(created=True, starting=True)
STARTED = Known(created=True, starting=True, may_have_run=True)
RAN = Known(created=True, starting=True, may_have_run=True, began=True)

EVERY_LOOK = [
    Look(status, processes, same, ghostly, waited)
    for status, processes, same, ghostly, waited in itertools.product(
        get_args(Status), (False, True), (False, True), range(GHOST_LOOKS + 1), (0.0, 1e6)
    )
]
EVERY_KNOWN = [Known(*facts) for facts in itertools.product((False, True), repeat=4)]


@pytest.mark.parametrize(
    ("known", "look", "then"),
    [
        # The engine has nothing of that name.
        (NEW, Look("absent", False), Step.CREATE),
        (GATED, Look("absent", False), Step.CREATE),
        (STARTED, Look("absent", False), Step.LOST),
        (RAN, Look("absent", False), Step.LOST),
        (RAN, Look("absent", True), Step.KILL),
        # Made, and not started as far as the engine knows: it may be wrong about that.
        (NEW, Look("created", False), Step.START),
        (MADE, Look("created", False), Step.START),
        (GATED, Look("created", False), Step.START),
        (GATED, Look("created", False, same_engine=False), Step.START),
        (GATED, Look("created", True), Step.KILL),
        (STARTED, Look("created", False), Step.WAIT),
        (STARTED, Look("created", False, created_for=LATE_START - 1), Step.WAIT),
        (STARTED, Look("created", False, created_for=LATE_START), Step.REMOVE),
        (STARTED, Look("created", False, same_engine=False, created_for=LATE_START), Step.LOST),
        (GATED, Look("created", False, created_for=LATE_START), Step.START),
        (STARTED, Look("created", False, same_engine=False), Step.LOST),
        (STARTED, Look("created", True), Step.KILL),
        (RAN, Look("created", False), Step.LOST),
        (RAN, Look("created", True), Step.KILL),
        # It runs.
        (GATED, Look("running", True), Step.ADOPT),
        (STARTED, Look("running", True), Step.ADOPT),
        (RAN, Look("running", True, same_engine=False), Step.ADOPT),
        # A ghost, after so many looks.
        (RAN, Look("running", False, ghostly=0), Step.WAIT),
        (RAN, Look("running", False, ghostly=GHOST_LOOKS - 2), Step.WAIT),
        (RAN, Look("running", False, ghostly=GHOST_LOOKS - 1), Step.LOST),
        # It has ended.
        (MADE, Look("ended", False), Step.FINISH),
        (GATED, Look("ended", False), Step.FINISH),
        (GATED, Look("ended", False, same_engine=False), Step.START),
        (STARTED, Look("ended", False, same_engine=False), Step.FINISH),
        (RAN, Look("ended", False), Step.FINISH),
        (RAN, Look("ended", False, same_engine=False), Step.FINISH),
        (RAN, Look("ended", True), Step.KILL),
        # The engine says nothing: nothing changes.
        (NEW, Look("unreachable", False), Step.WAIT),
        (RAN, Look("unreachable", True), Step.WAIT),
    ],
)  # fmt: skip
def test_the_table(known: Known, look: Look, then: Step) -> None:
    assert step(known, look) is then


@pytest.mark.parametrize("known", EVERY_KNOWN, ids=str)
def test_what_no_row_does(known: Known) -> None:
    for look in EVERY_LOOK:
        then = step(known, look)
        if then in (Step.CREATE, Step.START):
            assert not known.may_have_run, f"{look}: it would run a second time"
        if then in (Step.CREATE, Step.START, Step.FINISH, Step.LOST, Step.REMOVE):
            assert not look.processes, f"{look}: its cards would come back, or it would be started, while it lives"
        if look.status == "unreachable":
            assert then is Step.WAIT, f"{look}: an engine that is away is no news"
        if look.status == "running" and not look.processes and look.ghostly + 1 < GHOST_LOOKS:
            assert then is Step.WAIT, f"{look}: one look without processes is no proof"
        if look.status in ("ended", "running") and look.processes:
            assert then in (Step.ADOPT, Step.KILL)


def test_every_step_is_taken_by_some_row() -> None:
    assert {step(known, look) for known in EVERY_KNOWN for look in EVERY_LOOK} == set(Step)
