"""What the planner decides, by example and by property."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.builders import ANN, GIB, Queue, cards, gpu, spec
from runners.api import Code, JobState
from runners.spec import Need
from runnersd import lifecycle
from runnersd.explain import explain
from runnersd.model import (
    CardOwner,
    Drain,
    EngineState,
    ForeignPolicy,
    GpuProcess,
    Image,
    ImageState,
    Inventory,
    Outcome,
    Reason,
    Submitter,
)
from runnersd.planner import Drop, Plan, Start, Stop, World, plan
from runnersd.planner.words import clock_text

NOW = 1_000_000.0
OK = Reason(Code.OK, "")


def starts(made: Plan) -> dict[int, tuple[str, ...]]:
    return {one.job.id: one.gpus for one in made.decisions if isinstance(one, Start)}


def run_plan(queue: Queue, world: World, now: float = NOW) -> Plan:
    """Plan and record the starts, as the engine does."""
    queue.snapshot.advance(now)
    made = plan(world, now)
    for one in made.decisions:
        match one:
            case Start(job, gpus):
                queue.take(lifecycle.Reserved(job.id, job.attempt + 1, gpus))
                queue.take(lifecycle.Started(job.id, job.attempt + 1, now))
            case Stop(job, reason):
                queue.take(lifecycle.Stopping(job.id, job.attempt, reason, now))
            case Drop(job, reason):
                queue.take(lifecycle.Skipped(job.id, job.attempt, reason, None, now))
    return made


def finish(queue: Queue, id: int, code: int = 0, now: float = NOW) -> None:
    job = queue.snapshot.jobs[id]
    queue.take(lifecycle.verdict(job, Outcome(code, finished_at=now), now))


def why(queue: Queue, id: int, world: World, made: Plan, now: float = NOW) -> Reason:
    return explain(queue.snapshot.jobs[id], world, made, now)


def test_jobs_start_by_priority_then_by_submission() -> None:
    queue = Queue()
    low, high, later = queue.add(spec("a", num_gpus=1), spec("b", num_gpus=1, priority=5), spec("c", num_gpus=1))
    made = run_plan(queue, queue.world(2))
    assert starts(made) == {high: ("GPU-0",), low: ("GPU-1",)}
    assert why(queue, later, queue.world(2), made).code is Code.NO_FREE_GPU


def test_a_small_job_passes_a_big_one_only_if_it_ends_before_that_can_start() -> None:
    queue = Queue()
    (held,) = queue.add(spec(num_gpus=1, time_limit=120.0))
    run_plan(queue, queue.world(4))
    (big,) = queue.add(spec(num_gpus=4, time_limit=600.0))
    long, short = queue.add(spec("long", num_gpus=1, time_limit=121.0), spec("short", num_gpus=1, time_limit=119.0))
    world = queue.world(4)
    made = run_plan(queue, world)
    assert list(starts(made)) == [short]
    at = clock_text(NOW + 120, NOW)
    free = f"needs 4 cards: 2 free, 1 held by {short} (ann) until about {clock_text(NOW + 119, NOW)}, "
    assert why(queue, big, world, run_plan(queue, world)) == Reason(
        Code.NO_FREE_GPU, f"{free}1 held by {held} (ann) until about {at}"
    )
    assert why(queue, long, world, made) == Reason(
        Code.BEHIND_RESERVATION, f"job {big} (ann) is ahead and needs 4 cards, kept for it from about {at}"
    )
    for id in (held, short):
        finish(queue, id)
    assert list(starts(run_plan(queue, world))) == [big]


@pytest.mark.parametrize(("limit", "passes"), [(1800.0, False), (500.0, True)])
def test_a_wide_job_of_some_hours_keeps_cards_that_are_free_within_the_hour(limit: float, passes: bool) -> None:
    queue = Queue()
    queue.add(spec(num_gpus=1, time_limit=600.0))
    world = queue.world(2)
    run_plan(queue, world)
    (wide,) = queue.add(spec("wide", num_gpus=2, time_limit=4 * 3600.0), at=NOW)
    (small,) = queue.add(spec("small", num_gpus=1, time_limit=limit), at=NOW)
    made = run_plan(queue, world)
    assert [(one.job.id, one.at) for one in made.reservations if one.job.id == wide] == [(wide, NOW + 600.0)]
    assert (small in starts(made)) == passes


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"gpus": ("1",)}, "card 1"),
        ({"num_gpus": 2, "gpus": ("0", "1")}, "cards 0, 1"),
        ({"num_gpus": 2, "gpus": ("0", "1", "2")}, "2 cards of 0, 1, 2"),
        ({"num_gpus": 2, "gpu_model": "*H100*"}, "2 cards like *H100*"),
        ({"num_gpus": 2, "gpu_capability": "8.0"}, "2 cards of compute capability 8.0 or more"),
        ({"gpu_model": "*H*", "gpu_capability": "9.0"}, "1 card like *H* of compute capability 9.0 or more"),
    ],
)
def test_a_reason_names_the_cards_that_were_asked_for(asked: dict[str, Any], words: str) -> None:
    queue = Queue()
    queue.add(*[spec(f"j{n}", num_gpus=1) for n in range(3)])
    world = queue.world(3)
    run_plan(queue, world)
    (id,) = queue.add(spec("more", **{"num_gpus": 1, **asked}))
    assert why(queue, id, world, run_plan(queue, world)).text.startswith(f"needs {words}: 0 free, 1 held by ")


def test_a_job_gets_only_cards_of_its_compute_capability_and_the_next_one_the_others() -> None:
    queue = Queue()
    first, second, small = queue.add(
        *(spec(name, num_gpus=1, gpu_capability="9.0") for name in ("first", "second")), spec("small", num_gpus=1)
    )
    kinds = ("8.6", "10.0", None)
    world = queue.world(Inventory(tuple(gpu(at, compute_capability=kind) for at, kind in enumerate(kinds))))
    made = run_plan(queue, world)
    assert starts(made) == {first: ("GPU-1",), small: ("GPU-0",)}
    assert why(queue, second, world, made).text.startswith(
        "needs 1 card of compute capability 9.0 or more: 0 free, 1 held by "
    )


def test_later_jobs_flow_round_a_job_that_waits_for_particular_cards() -> None:
    queue = Queue()
    first, pinned, other = (
        queue.add(spec(num_gpus=1, gpus=("1",)))[0],
        queue.add(spec(num_gpus=1, gpus=("1",)))[0],
        queue.add(spec(num_gpus=1))[0],
    )
    made = run_plan(queue, queue.world(2))
    assert starts(made) == {first: ("GPU-1",), other: ("GPU-0",)}
    assert pinned not in starts(made)


def test_a_job_that_cannot_run_at_all_now_does_not_hold_the_others_back() -> None:
    queue = Queue()
    (wide,) = queue.add(spec(num_gpus=2))
    (small,) = queue.add(spec(num_gpus=1))
    process = GpuProcess(4242, "compute", GIB, "python", 1001)
    world = queue.world(Inventory((gpu(0), gpu(1, processes=(process,)))))
    made = run_plan(queue, world)
    assert starts(made) == {small: ("GPU-0",)}
    reason = why(queue, wide, world, made)
    assert reason.code is Code.FOREIGN_GPU_USE
    assert "python (pid 4242, uid 1001)" in reason.text


def test_a_drained_a_lost_and_somebody_elses_card_are_not_given() -> None:
    queue = Queue()
    ids = [queue.add(spec(num_gpus=1))[0] for _ in range(4)]
    inventory = Inventory((gpu(0), gpu(1, lost=True), gpu(2, owner=CardOwner("bob", 7)), gpu(3)))
    made = run_plan(queue, queue.world(inventory, drained={"GPU-0": Drain("fans")}))
    assert starts(made) == {ids[0]: ("GPU-3",)}


def test_a_stale_inventory_starts_nothing_on_cards_and_everything_else() -> None:
    queue = Queue()
    (on_card,) = queue.add(spec(num_gpus=1))
    (plain,) = queue.add(spec())
    world = queue.world(replace(cards(2), stale=True, problem="the driver hangs"))
    made = run_plan(queue, world)
    assert list(starts(made)) == [plain]
    assert why(queue, on_card, world, made) == Reason(Code.INVENTORY_STALE, "the driver hangs")


def test_a_process_left_over_by_an_ended_attempt_counts_until_it_is_known_to_have_ended() -> None:
    queue = Queue()
    (job,) = queue.add(spec(num_gpus=1))
    inventory = Inventory((gpu(0, processes=(GpuProcess(50, "compute", GIB, "python", 1000, (49, 7)),)),))
    assert starts(plan(queue.world(inventory), NOW)) == {}
    assert starts(plan(queue.world(inventory, ended=frozenset({49})), NOW)) == {job: ("GPU-0",)}


def test_a_jobs_own_process_is_not_foreign_and_another_jobs_is() -> None:
    queue = Queue()
    one, two = queue.add(spec("a", num_gpus=1), spec("b", num_gpus=1))
    run_plan(queue, queue.world(2))
    (third,) = queue.add(spec("c", num_gpus=1))
    finish(queue, two)
    intruder = GpuProcess(60, "compute", GIB, "python", 1000, (59,))  # job one's process, on a card it does not hold
    world = queue.world(
        Inventory((gpu(0, processes=(intruder,)), gpu(1, processes=(intruder,)))), supervisors={one: 59}
    )
    made = plan(world, NOW)
    assert starts(made) == {}
    assert why(queue, third, world, made).code is Code.FOREIGN_GPU_USE


def test_graphics_processes_count_from_a_size_on_and_ignored_names_never() -> None:
    def given(name: str, memory: int) -> World:
        queue = Queue()
        queue.add(spec(num_gpus=1))
        card = gpu(0, processes=(GpuProcess(9, "graphics", memory, name),))
        return queue.world(Inventory((card,)), foreign=ForeignPolicy(GIB, frozenset({"Xorg"})))

    assert starts(plan(given("firefox", GIB // 2), NOW))
    assert not starts(plan(given("firefox", GIB), NOW))
    assert starts(plan(given("Xorg", 4 * GIB), NOW))


def test_num_jobs_limits_a_pipeline_and_not_the_others() -> None:
    queue = Queue()
    ids = queue.add(*[spec(f"j{n}") for n in range(5)], num_jobs=2)
    (other,) = queue.add(spec())
    world = queue.world()
    made = run_plan(queue, world)
    assert sorted(starts(made)) == [*ids[:2], other]
    assert why(queue, ids[2], world, made).code is Code.PIPELINE_LIMIT
    finish(queue, ids[0])
    assert list(starts(run_plan(queue, world))) == [ids[2]]


def test_the_walk_stops_at_a_blocking_job_and_what_is_above_it_goes_on() -> None:
    queue = Queue()
    above, barrier, below, last = queue.add(spec("a"), spec("b", blocking=True), spec("c"), spec("d"))
    world = queue.world()
    made = run_plan(queue, world)
    assert sorted(starts(made)) == [above, barrier]
    assert why(queue, below, world, made) == Reason(Code.BARRIER, "waits at the blocking b (2)")
    finish(queue, barrier)
    assert sorted(starts(run_plan(queue, world))) == [below, last]


def test_a_failed_blocking_job_skips_what_is_below_it() -> None:
    queue = Queue()
    above, barrier, below, _last = queue.add(spec("a"), spec("b", blocking=True), spec("c"), spec("d", needs=["c"]))
    run_plan(queue, queue.world())
    finish(queue, barrier, code=3)
    made = run_plan(queue, queue.world())
    dropped = {one.job.id: one.reason.text for one in made.decisions if isinstance(one, Drop)}
    assert dropped[below] == "b (job 2) ended as failed"
    assert queue.snapshot.jobs[above].live


@pytest.mark.parametrize("on", ["success", "finished"])
def test_a_need_is_met_by_success_or_by_any_end(on: Any) -> None:
    queue = Queue()
    first, second = queue.add(spec("a"), spec("b", needs=[Need("a", on)]))
    run_plan(queue, queue.world())
    finish(queue, first, code=1)
    made = run_plan(queue, queue.world())
    assert (second in starts(made)) is (on == "finished")


def test_a_failure_that_is_allowed_stops_nothing() -> None:
    queue = Queue()
    first, second = queue.add(spec("a", allow_failure=True, blocking=True), spec("b"))
    run_plan(queue, queue.world())
    finish(queue, first, code=1)
    assert list(starts(run_plan(queue, queue.world()))) == [second]


def test_a_begin_time_and_a_retry_delay_are_waited_for() -> None:
    queue = Queue()
    (later,) = queue.add(spec(begin=NOW + 60))
    (flaky,) = queue.add(spec(retries=2, retry_delay=5.0))
    world = queue.world()
    made = run_plan(queue, world)
    assert list(starts(made)) == [flaky]
    assert made.look_again == NOW + 60
    assert why(queue, later, world, made).code is Code.BEGIN_TIME
    finish(queue, flaky, code=1)
    made = run_plan(queue, world)
    assert starts(made) == {}
    assert made.look_again == NOW + 5
    assert why(queue, flaky, world, made).code is Code.RETRY_DELAY
    assert list(starts(run_plan(queue, world, NOW + 5))) == [flaky]
    finish(queue, flaky, code=1, now=NOW + 6)
    assert queue.snapshot.jobs[flaky].not_before == NOW + 16
    assert sorted(starts(run_plan(queue, world, NOW + 60))) == [later, flaky]
    finish(queue, flaky, code=7, now=NOW + 61)
    assert list(queue.snapshot.live) == [later]


def test_cpus_and_memory_are_counted_and_a_job_that_waits_for_them_is_not_overtaken() -> None:
    queue = Queue()
    (first,) = queue.add(spec(cpus=3.0))
    (wide,) = queue.add(spec(cpus=4.0))
    (narrow,) = queue.add(spec(cpus=1.0))
    (unnamed,) = queue.add(spec())
    world = queue.world(cpus=4.0)
    made = run_plan(queue, world)
    assert sorted(starts(made)) == [first, unnamed]
    assert why(queue, wide, world, made) == Reason(Code.NO_CPUS, "needs 4 CPUs: 1 of 4 free")
    assert why(queue, narrow, world, made).code is Code.BEHIND_RESERVATION


def test_a_time_limit_and_a_lost_card_stop_a_job() -> None:
    queue = Queue()
    limited, lost = queue.add(spec("a", time_limit=30.0, num_gpus=1), spec("b", num_gpus=1))
    run_plan(queue, queue.world(2))
    assert plan(queue.world(2), NOW + 29).look_again == NOW + 30
    world = queue.world(Inventory((gpu(0), gpu(1, lost=True))))
    stops = {one.job.id: one.reason.code for one in plan(world, NOW + 30).decisions if isinstance(one, Stop)}
    assert stops == {limited: Code.TIME_LIMIT, lost: Code.GPU_LOST}


def test_a_silent_driver_stops_nothing() -> None:
    queue = Queue()
    queue.add(spec(num_gpus=1))
    run_plan(queue, queue.world(1))
    assert not plan(queue.world(Inventory((), stale=True, problem="hung")), NOW).decisions
    assert not plan(queue.world(Inventory((), problem="no driver")), NOW).decisions


def test_a_card_that_vanishes_is_lost_and_one_that_is_not_listed_any_more_is_not() -> None:
    queue = Queue()
    first, second = queue.add(spec("a", num_gpus=1), spec("b", num_gpus=1))
    run_plan(queue, queue.world(2))
    world = queue.world(Inventory((), unlisted=frozenset({"GPU-1"})))
    assert [one.job.id for one in plan(world, NOW).decisions if isinstance(one, Stop)] == [first]
    assert queue.snapshot.jobs[second].gpus == ("GPU-1",)


def test_nothing_is_left_to_stop_of_what_a_restart_of_the_machine_ended() -> None:
    queue = Queue()
    (job,) = queue.add(spec(num_gpus=1, time_limit=30.0))
    run_plan(queue, queue.world(1))
    for card in (gpu(0), gpu(0, lost=True)):
        assert plan(queue.world(Inventory((card,))), NOW + 60).decisions
        world = queue.world(Inventory((card,)), interrupted=frozenset({(job, 1)}))
        assert not plan(world, NOW + 60).decisions
    assert plan(replace(world, interrupted=frozenset({(job, 2)})), NOW + 60).decisions


def test_a_job_that_the_snapshot_does_not_know_has_a_reason_too() -> None:
    queue = Queue()
    (id,) = queue.add(spec())
    job = queue.snapshot.jobs[id]
    assert explain(job, Queue().world(), Plan(), NOW).code is Code.STARTING_SOON


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"paused": "cleaning"}, Code.PAUSED),
        ({"low_disk": "full"}, Code.LOW_DISK),
        ({"max_running": 0}, Code.RUNNING_LIMIT),
    ],
)
def test_nothing_starts_while_paused_on_a_full_disk_or_at_the_machines_limit(facts: dict[str, Any], code: Code) -> None:
    queue = Queue()
    (job,) = queue.add(spec())
    world = queue.world(**facts)
    made = run_plan(queue, world)
    assert starts(made) == {}
    assert why(queue, job, world, made).code is code


def test_a_pipeline_waits_for_the_jobs_it_was_submitted_after() -> None:
    queue = Queue()
    (first,) = queue.add(spec())
    (second,) = queue.add(spec(), after=[first])
    world = queue.world()
    made = run_plan(queue, world)
    assert list(starts(made)) == [first]
    assert why(queue, second, world, made).code is Code.NEEDS_JOBS
    finish(queue, first)
    assert list(starts(run_plan(queue, world))) == [second]


BOB = Submitter(1001, 1001, (), "bob")
jobs = st.builds(
    spec,
    st.just("j"),
    num_gpus=st.integers(0, 4),
    priority=st.integers(-2, 2),
    cpus=st.sampled_from([None, 1.0, 3.0]),
    blocking=st.booleans(),
    gpus=st.sampled_from([(), (), (), ("0",), ("1", "2")]),
)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Queue, World]:
    """Some pipelines, some of whose jobs run, have ended or are held, and some cards in various conditions."""
    queue = Queue()
    for user in (ANN, BOB):
        specs = []
        for number, one in enumerate(draw(st.lists(jobs, min_size=1, max_size=5))):
            needs = tuple(
                Need(f"j{draw(st.integers(0, number - 1))}") for _ in range(number and draw(st.integers(0, 1)))
            )
            wanted = len(one.gpus) or one.num_gpus
            specs.append(replace(one, name=f"j{number}", needs=needs, num_gpus=wanted))
        queue.add(*specs, num_jobs=draw(st.integers(1, 4)), user=user)
    for _ in range(draw(st.integers(0, 3))):
        run_plan(queue, queue.world(4, cpus=4.0))
        for id in draw(st.lists(st.sampled_from(sorted(queue.snapshot.live) or [0]), unique=True)):
            if id in queue.snapshot.live:
                finish(queue, id, draw(st.sampled_from([0, 0, 1])))
    foreign = (GpuProcess(99, "compute", GIB),)
    seen = tuple(
        gpu(n, lost=draw(st.integers(0, 9)) == 0, processes=foreign if draw(st.integers(0, 5)) == 0 else ())
        for n in range(4)
    )
    return queue, queue.world(Inventory(seen), cpus=4.0, drained={"GPU-3": Drain()} if draw(st.booleans()) else {})


@settings(max_examples=400, deadline=None)
@given(situations())
def test_every_plan_is_safe_and_every_waiting_job_has_a_reason(situation: tuple[Queue, World]) -> None:
    queue, world = situation
    made = plan(world, NOW)
    assert made == plan(world, NOW), "the same world gives the same plan"
    held = set(queue.snapshot.holders)
    given_out = [uuid for one in made.decisions if isinstance(one, Start) for uuid in one.gpus]
    assert len(given_out) == len(set(given_out)), "a card is given once"
    assert not held & set(given_out), "a held card is not given"
    for uuid in given_out:
        card = next(card for card in world.inventory.gpus if card.uuid == uuid)
        assert not card.lost and not card.processes and uuid not in world.drained
    live: dict[int, int] = {}
    for one in made.decisions:
        if isinstance(one, Start):
            assert len(one.gpus) == one.job.spec.num_gpus, "all of its cards or none"
            progress = queue.snapshot.progress[one.job.pipeline.id]
            assert progress.open(one.job.position), "needs and barriers come first"
            live[one.job.pipeline.id] = live.get(one.job.pipeline.id, progress.live) + 1
            assert live[one.job.pipeline.id] <= one.job.pipeline.num_jobs
            wanted = one.job.spec.gpus
            assert not wanted or {f"GPU-{index}" for index in wanted} == set(one.gpus)
    run_plan(queue, world)
    while (made := run_plan(queue, world)).decisions:
        assert not starts(made), "one turn starts all that can start, but for what its drops let through"
    for job in queue.snapshot.in_order():
        reason = explain(job, world, made, NOW)
        assert reason.text
        assert reason.code is not Code.STARTING_SOON, "who does not start is told why"


@settings(max_examples=150, deadline=None)
@given(situations())
def test_what_is_left_alone_comes_to_an_end(situation: tuple[Queue, World]) -> None:
    """Liveness: once the cards are healthy and every job ends well, nothing is left waiting."""
    queue, _ = situation
    world = queue.world(4, cpus=4.0)
    for _ in range(60):
        run_plan(queue, world)
        for id in list(queue.snapshot.live):
            finish(queue, id)
    assert not queue.snapshot.jobs
    assert not queue.snapshot.lines.heads
    assert not queue.snapshot.waiting
    assert not queue.snapshot.holders


def test_a_turn_costs_what_it_starts_not_what_is_queued() -> None:
    """Counted, not timed: how many jobs the planner looks at beside ten thousand that cannot start."""
    looked_at: list[int] = []

    class Watched(dict):  # type: ignore[type-arg]
        def __getitem__(self, key: int) -> Any:
            looked_at.append(key)
            return super().__getitem__(key)

    queue = Queue()
    for _ in range(50):
        queue.add(*[spec(f"j{n}", num_gpus=n % 3 + 1) for n in range(200)])
    queue.snapshot.jobs = Watched(queue.snapshot.jobs)
    made = plan(queue.world(1), NOW)
    assert len(starts(made)) == 1
    assert len(looked_at) < 20
    assert queue.snapshot.jobs[1].state is JobState.QUEUED


@pytest.mark.parametrize("ports", [(), ("8888:8888",)])
def test_a_container_that_opens_ports_is_not_made_early(ports: tuple[str, ...]) -> None:
    """It would take them from the job that has them now."""
    queue = Queue()
    container = {"run_in": "container", "image": "i", "num_gpus": 1}
    queue.add(spec("now", **container), spec("next", **container, ports=ports))
    known = {"i": ImageState(NOW, Image("sha256:1"))}
    world = queue.world(1, engine=EngineState(cards="nvidia", seen=True), images=known)
    assert starts(run_plan(queue, world)) == {1: ("GPU-0",)}
    assert [start.job.id for start in run_plan(queue, world).next_up] == ([] if ports else [2])


def test_nobody_can_tell_how_a_container_is_while_its_engine_is_silent() -> None:
    silent = EngineState("no answer in 10 s")
    queue = Queue()
    contained, host = queue.add(spec("c", run_in="container"), spec("h"))
    for id in (contained, host):
        queue.take(lifecycle.Reserved(id, 1))

    def codes() -> list[Code]:
        world = queue.world(engine=silent)
        return [explain(queue.snapshot.jobs[id], world, plan(world, NOW), NOW).code for id in (contained, host)]

    assert codes() == [Code.UNKNOWN, Code.LAUNCHING]
    for id in (contained, host):
        queue.take(lifecycle.Started(id, 1, NOW))
    assert codes() == [Code.UNKNOWN, Code.RUNNING]
    for id in (contained, host):
        queue.take(lifecycle.Stopping(id, 1, Reason(Code.CANCELLED_BY, "cancelled by ann"), NOW - 1000))
    assert codes() == [Code.UNKNOWN, Code.STUCK]


def test_what_is_kept_moves_off_a_card_that_is_drained() -> None:
    queue = Queue()
    held = [queue.add(spec(num_gpus=1, gpus=(str(n),), time_limit=60.0 * (n + 1)))[0] for n in range(3)]
    run_plan(queue, queue.world(3))
    assert len(queue.snapshot.live) == len(held)
    queue.add(spec("wide", num_gpus=2, time_limit=600.0))
    [kept] = plan(queue.world(3), NOW).reservations
    assert (kept.gpus, kept.at) == (("GPU-0", "GPU-1"), NOW + 120)
    [kept] = plan(queue.world(3, drained={"GPU-0": Drain("fan")}), NOW).reservations
    assert (kept.gpus, kept.at) == (("GPU-1", "GPU-2"), NOW + 180)
