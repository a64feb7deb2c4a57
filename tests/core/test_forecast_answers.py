"""What would help a job, and what a change would do to others: by hand-made examples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from core.builders import Queue, gpu, spec
from core.histories import specs
from core.test_forecast import run
from runners.api import Code, JobState
from runnersd import lifecycle
from runnersd.forecast import Forecaster, advice, can_be_advised, effects, forecast
from runnersd.model import Booking, Drain, Inventory, Job, Pipeline
from runnersd.planner import World, plan


def helps(world: World, id: int, now: float = 0.0) -> dict[str, Any]:
    job = world.snapshot.jobs[id]
    assert can_be_advised(job, world)
    return {one.key: one.value for one in advice(job, lambda: world, lambda: now) if one is not None}


def busy(*limits: float) -> tuple[Queue, list[int]]:
    """So many cards, each with a job that runs for so long."""
    queue = Queue()
    ids = queue.add(*(spec(f"r{n}", num_gpus=1, time_limit=limit) for n, limit in enumerate(limits)))
    for index, id in enumerate(ids):
        run(queue, id, index)
    return queue, ids


def test_a_job_behind_a_reservation_would_start_with_a_time_limit() -> None:
    queue, _ = busy(2400.0)
    [wide] = queue.add(spec("wide", num_gpus=2, time_limit=600.0))
    [long] = queue.add(spec("long", num_gpus=1, time_limit=7200.0))
    world = queue.world(2)
    assert plan(world, 0.0).blocked[world.snapshot.lines.line(long).shape].code is Code.BEHIND_RESERVATION
    assert helps(world, long) == {"time_limit": 2400.0}
    assert helps(world, long, 35.0) == {"time_limit": 39 * 60.0}, "said in whole minutes"
    assert helps(world, wide) == {"num_gpus": 1}


def booked(begin: float) -> Booking:
    return Booking(1, 1001, "bob", ("GPU-0",), begin, begin + 3600.0, 0.0)


def test_a_job_before_a_booking_would_start_with_a_time_limit_that_ends_before_it() -> None:
    queue = Queue()
    unlimited, long = queue.add(spec("unlimited", num_gpus=1), spec("long", num_gpus=1, time_limit=7200.0))
    world = queue.world(1, bookings=(booked(1830.0),))
    assert helps(world, unlimited) == helps(world, long) == {"time_limit": 30 * 60.0}


def test_a_change_that_lets_a_job_go_before_a_booking_is_foretold_also_after_the_imagining() -> None:
    queue = Queue()
    [id] = queue.add(spec("unlimited", num_gpus=1))
    world = queue.world(1, bookings=(booked(1830.0),))
    job = queue.snapshot.jobs[id]
    with queue.snapshot.imagining([replace(job, spec=replace(job.spec, time_limit=600.0))]):
        forecaster = Forecaster(world, 0.0)
    for _ in forecaster.steps():
        pass
    assert forecaster.result().expected[id].likely == 0.0


def test_fewer_cards_or_one_more_would_do() -> None:
    queue, _ = busy(1000.0, 1000.0)
    [four] = queue.add(spec("four", num_gpus=4, time_limit=600.0))
    assert helps(queue.world(5), four) == {"num_gpus": 3}
    assert helps(queue.world(6, drained={"GPU-5": Drain("fan")}), four) == {"num_gpus": 3, "undrain": 5}


def test_an_older_card_would_do() -> None:
    queue, _ = busy(1000.0)
    [able] = queue.add(spec("able", num_gpus=1, gpu_capability="9.0"))
    older = Inventory((gpu(0), gpu(1, compute_capability="8.0")))
    assert helps(queue.world(older), able) == {"gpu_capability": None}


def test_nothing_untrue_is_said() -> None:
    queue, _ = busy(1000.0)
    [one] = queue.add(spec("one", num_gpus=1))
    assert helps(queue.world(1), one) == {}
    assert helps(queue.world(2, drained={"GPU-1": Drain()}), one) == {"undrain": 1}
    other = queue.world(2, drained={"GPU-1": Drain()})
    [model] = queue.add(spec("model", num_gpus=1, gpu_model="*A100*"))
    assert helps(other, model) == {}, "another model is drained too"


def test_who_waits_for_others_is_not_advised() -> None:
    queue = Queue()
    first, second = queue.add(spec("a", blocking=True), spec("b"))
    world = queue.world(1)
    assert can_be_advised(world.snapshot.jobs[first], world)
    assert not can_be_advised(world.snapshot.jobs[second], world)
    assert not can_be_advised(world.snapshot.jobs[first], queue.world(1, paused=""))


def test_a_hold_lets_others_start_earlier_and_a_priority_makes_them_later() -> None:
    queue, _ = busy(600.0)
    a, b, c = queue.add(*(spec(name, num_gpus=1, time_limit=1000.0) for name in "abc"))
    world = queue.world(1)
    before = forecast(world, 0.0)
    job = world.snapshot.jobs[a]
    with world.snapshot.imagining([replace(job, state=JobState.HELD)]):
        held = forecast(world, 0.0)
    assert [(one.job, one.later) for one in effects(before, held, [a])] == [(a, None), (b, -1000.0), (c, -1000.0)]
    last = world.snapshot.jobs[c]
    with world.snapshot.imagining([replace(last, spec=replace(last.spec, priority=5))]):
        moved = forecast(world, 0.0)
    assert [(one.job, one.later) for one in effects(before, moved, [c])] == [(c, -2000.0), (a, 1000.0), (b, 1000.0)]


def test_a_live_job_that_ends_makes_room() -> None:
    queue, [running] = busy(600.0)
    [waiting] = queue.add(spec(num_gpus=1, time_limit=60.0))
    forecaster = Forecaster(queue.world(1), 0.0, {running: 10.0})
    for _ in forecaster.steps():
        pass
    assert forecaster.result().expected[waiting].likely == 10.0


def everything(queue: Queue) -> Any:
    snapshot, lines = queue.snapshot, queue.snapshot.lines
    return (
        dict(snapshot.jobs), list(snapshot.waiting), sorted(snapshot.doomed), sorted(snapshot.progress),
        {line: list(heads) for line, heads in lines.heads.items()},
        {p: {u: {s: list(places) for s, places in shapes.items()} for u, shapes in users.items()} for p, users in lines.bands.items()},
        {p: list(places) for p, places in lines.promises.items()},
        [p.live for p in snapshot.progress.values()],
    )  # fmt: skip


@given(specs(), specs(), st.data())
def test_what_is_only_imagined_leaves_no_trace(
    real: list[lifecycle.JobSpec], other: list[lifecycle.JobSpec], data: st.DataObject
) -> None:
    queue = Queue()
    ids = queue.add(*real, num_jobs=data.draw(st.integers(1, 4)))
    for decision in plan(queue.world(2), 0.0).decisions:
        if data.draw(st.booleans()) and hasattr(decision, "gpus"):
            run(queue, decision.job.id, *(int(uuid[4:]) for uuid in decision.gpus))
    waiting = [queue.snapshot.jobs[id] for id in ids if queue.snapshot.jobs[id].state is JobState.QUEUED]
    changed = [
        replace(job, state=data.draw(st.sampled_from([JobState.QUEUED, JobState.HELD])),
                spec=replace(job.spec, priority=data.draw(st.integers(-2, 2)), num_gpus=data.draw(st.integers(0, 2))))
        for job in waiting if data.draw(st.booleans())
    ]  # fmt: skip
    pipeline = Pipeline(
        99, "new", queue.snapshot.progress[1].pipeline.submitter, "/", 0o22, 2, 0.0, len(other), after=(ids[0],)
    )
    added = [Job(1000 + n, pipeline, n, one, not_before=one.begin) for n, one in enumerate(other)]
    before, planned = everything(queue), plan(queue.world(2), 1.0)
    with queue.snapshot.imagining(changed, [(pipeline, added, ())]):
        assert all(queue.snapshot.jobs[job.id] == job for job in (*changed, *added))
        plan(queue.world(2), 1.0)
    assert everything(queue) == before
    assert plan(queue.world(2), 1.0) == planned


def test_a_limit_is_no_help_to_a_pipeline_that_has_as_many_as_it_may() -> None:
    queue = Queue()
    first, second = queue.add(spec("a", num_gpus=1, time_limit=2400.0), spec("b", num_gpus=1), num_jobs=1)
    run(queue, first, 0)
    queue.add(spec("wide", num_gpus=2, time_limit=600.0))
    assert helps(queue.world(2), second) == {}


def test_what_nobody_would_notice_is_no_effect() -> None:
    queue, _ = busy(600.0)
    a, b = queue.add(spec("a", num_gpus=1, time_limit=30.0), spec("b", num_gpus=1, time_limit=1000.0))
    world = queue.world(1)
    before = forecast(world, 0.0)
    with world.snapshot.imagining([replace(world.snapshot.jobs[a], state=JobState.HELD)]):
        held = forecast(world, 0.0)
    assert held.expected[b].likely == 600.0
    assert [one.job for one in effects(before, held, [a])] == [a]
