"""Jobs for several cards come first among their user's own, not before everybody who has had less."""

from __future__ import annotations

import pytest

from core.builders import spec
from core.machine import Machine
from runnersd.model import Submitter

BOB = Submitter(1001, 1001, (1001,), "bob")
MINUTE = 60.0


@pytest.mark.parametrize("limit", [10 * MINUTE, None])
@pytest.mark.parametrize("after", [0.0, 90 * MINUTE])
def test_who_has_had_less_is_not_behind_somebodys_jobs_for_all_cards(limit: float | None, after: float) -> None:
    machine = Machine(4)
    for _ in range(30):
        machine.submit(spec("all", num_gpus=4, time_limit=limit), lasts=[10 * MINUTE])
    machine.pass_time(after)
    asked = machine.now
    (small,) = machine.submit(spec("one", num_gpus=1, time_limit=10 * MINUTE), lasts=[MINUTE], user=BOB)
    machine.pass_time(30 * MINUTE)
    assert machine.started[small] - asked <= 20 * MINUTE, "behind the one that runs and the one that was next by then"


def test_a_job_for_all_cards_is_not_behind_those_who_have_had_less_for_ever() -> None:
    machine = Machine(2, max_delay=30 * MINUTE)
    machine.submit(spec("much", num_gpus=2, time_limit=6000 * MINUTE), lasts=[6000 * MINUTE])
    machine.pass_time(6000 * MINUTE)
    first, second, third = (
        machine.submit(spec("all", num_gpus=2, time_limit=20 * MINUTE), lasts=[10 * MINUTE])[0] for _ in range(3)
    )
    asked = machine.now
    for _ in range(20):  # more than the machine can do in hours, all of it there from the beginning
        jobs = [spec(f"one{n}", num_gpus=1, time_limit=5 * MINUTE) for n in range(10)]
        machine.submit(*jobs, lasts=[2 * MINUTE] * 10, user=BOB)
    machine.pass_time(120 * MINUTE)
    assert [machine.started[id] - asked for id in (first, second)] == [0.0, 10 * MINUTE]
    # Its promise, the longest delay, and who runs then.
    assert 55 * MINUTE < machine.started[third] - asked < 90 * MINUTE
