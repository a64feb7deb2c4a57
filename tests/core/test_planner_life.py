"""What holds of plans in any life of a machine: random pipelines, users, cards, faults and clocks.

SEED=N repeats a long run; its seed is printed. EXAMPLES=N makes it shorter, and NOSHRINK=1 tells the first failure as it
is found.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from core.builders import ANN, GIB, spec
from core.machine import STRANGER, Machine
from core.truth import untrue
from runners.api import JobState
from runners.spec import JobSpec, Need
from runnersd.explain import explain
from runnersd.model import Submitter

BOB, CAT = Submitter(1001, 1001, (), "bob"), Submitter(1002, 1002, (), "cat")
USERS = (ANN, BOB, CAT)
CARDS = 4
#: Batches of the long run, and the examples in all of them.
BATCHES, EXAMPLES = 4, int(os.environ.get("EXAMPLES", "10000"))
PHASES = (Phase.generate,) if "NOSHRINK" in os.environ else (Phase.generate, Phase.shrink)
#: Events after which everything must be over once the machine is well.
_PATIENCE = 2_000


@st.composite
def wishes(draw: st.DrawFn, name: str) -> JobSpec:
    """What a job asks for."""
    shared = draw(st.integers(0, 3)) == 0
    pins = () if shared else draw(st.sampled_from([(), (), (), (), ("0",), ("1", "2")]))
    asked: dict[str, Any] = {"num_gpus": len(pins) or draw(st.integers(0, CARDS)), "gpus": pins}
    if shared:
        asked = {"num_gpus": 1, "gpu_shared": True, "gpu_memory": draw(st.sampled_from([10, 40, 79])) * GIB}
    return spec(
        name,
        command=draw(st.sampled_from(["train", "test"])),
        priority=draw(st.sampled_from([0, 0, 0, 5, -5])),
        cpus=draw(st.sampled_from([None, None, 4.0, 12.0])),
        memory=draw(st.sampled_from([None, None, 16 * GIB, 48 * GIB])),
        time_limit=draw(st.sampled_from([None, 60.0, 3_000.0, 50_000.0])),
        blocking=draw(st.integers(0, 9)) == 0,
        retries=draw(st.sampled_from([0, 0, 1])),
        begin=draw(st.sampled_from([None, None, None, 1_000_500.0])),
        **asked,
    )


@st.composite
def pipelines(draw: st.DrawFn) -> list[JobSpec]:
    """A few jobs, some of which need the one before."""
    made = [draw(wishes(f"j{n}")) for n in range(draw(st.integers(1, 4)))]
    return [
        replace(one, needs=(Need(f"j{n - 1}"),)) if n and draw(st.integers(0, 4)) == 0 else one
        for n, one in enumerate(made)
    ]


class PlannedLife(RuleBasedStateMachine):
    """A machine that people use, and that breaks and is mended."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine(CARDS)

    @rule(jobs=pipelines(), user=st.sampled_from(USERS), num_jobs=st.integers(1, 4), data=st.data())
    def submit(self, jobs: list[JobSpec], user: Submitter, num_jobs: int, data: st.DataObject) -> None:
        lasts = data.draw(st.lists(st.sampled_from([5.0, 100.0, 2_900.0, 60_000.0]), min_size=4, max_size=4))
        self.machine.submit(*jobs, lasts=lasts[: len(jobs)], user=user, num_jobs=num_jobs)

    @rule(seconds=st.sampled_from([1.0, 60.0, 700.0, 5_000.0, 90_000.0]))
    def wait(self, seconds: float) -> None:
        self.machine.pass_time(seconds)

    @rule(which=st.integers(0, CARDS - 1), how=st.sampled_from(["lost", "drained", "foreign", "well"]))
    def change_card(self, which: int, how: str) -> None:
        uuid = f"GPU-{which}"
        card = self.machine.cards[uuid]
        if how == "foreign" and self.machine.on(uuid):
            return
        self.machine.cards[uuid] = replace(card, lost=how == "lost", processes=(STRANGER,) if how == "foreign" else ())
        self.machine.drained.pop(uuid, None)
        if how == "drained":
            self.machine.drained[uuid] = "fans"
        self.machine.turn()

    @rule(which=st.integers(0, 100), what=st.sampled_from(["cancel", "hold"]))
    def interfere(self, which: int, what: str) -> None:
        jobs = [job for job in self.machine.queue.snapshot.jobs.values() if not job.settled]
        if not jobs:
            return
        job = jobs[which % len(jobs)]
        if what == "cancel" and job.state is not JobState.STOPPING:
            self.machine.cancel(job)
        elif what == "hold" and not job.live:
            self.machine.hold(job)
        self.machine.turn()

    @invariant()
    def every_queued_job_has_a_true_reason(self) -> None:
        machine = self.machine
        for job in machine.queue.snapshot.in_order():
            if job.state is JobState.QUEUED:
                reason = explain(job, machine.world, machine.last, machine.now)
                assert untrue(job, reason, machine) is None, (job, reason)

    def teardown(self) -> None:
        """Whatever happened: once the machine is well, every job comes to its turn and its end."""
        self.machine.heal()
        for _ in range(_PATIENCE):
            if self.machine.next_event is None:
                break
            self.machine.step()
        assert not self.machine.queue.snapshot.jobs, "no job waits for ever"


def live(number: int, steps: int, seeded: int | None = None, **more: Any) -> None:
    """So many lives. A failure is told with the steps that lead to it."""
    kind = type("PlannedLife", (PlannedLife,), {})
    if seeded is not None:
        seed(seeded)(kind)
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        kind,
        settings=settings(
            max_examples=number,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=PHASES,
            suppress_health_check=list(HealthCheck),
            **more,
        ),
    )


small = st.tuples(st.sampled_from([1.0, 40.0, 300.0]), st.integers(5, 4_000), st.floats(0.1, 1.0))


def kept_for_a_wide_job(limits: list[int], wanted: int) -> tuple[Machine, int, float]:
    """A machine on which jobs use all of such limits, a job for so many cards that waits for them, and until when."""
    machine = Machine(CARDS)
    for limit in limits:
        machine.submit(spec(num_gpus=1, time_limit=float(limit)), lasts=[float(limit)])
    (wide,) = machine.submit(spec(num_gpus=wanted, time_limit=600.0), lasts=[600.0])
    (kept,) = [made.at for made in machine.last.reservations if made.job.id == wide]
    return machine, wide, kept


@st.composite
def queues(draw: st.DrawFn) -> tuple[Machine, int, float, list[tuple[float, int, float]]]:
    """A machine on which a wide job has cards kept for it; that job, when they are to be free, and who will come."""
    limits = draw(st.lists(st.integers(10, 3_000), min_size=1, max_size=CARDS))
    wanted = draw(st.integers(max(CARDS - len(limits) + 1, 2), CARDS))
    return *kept_for_a_wide_job(limits, wanted), draw(st.lists(small, max_size=25))


def nobody_delays_what_is_kept(queue: tuple[Machine, int, float, list[tuple[float, int, float]]]) -> None:
    """Small jobs come with limits that they keep, and go first where they fit: the wide one starts when it was told."""
    machine, wide, kept, coming = queue
    for number, (later, limit, share) in enumerate(coming):
        machine.pass_time(later)
        machine.submit(
            spec(num_gpus=1, time_limit=float(limit)), lasts=[limit * share], user=USERS[number % len(USERS)]
        )
    machine.pass_time(3_000.0)
    assert machine.started[wide] <= kept + 1e-6


@st.composite
def rivals(draw: st.DrawFn) -> tuple[Machine, list[Submitter], float]:
    """Users with equal work for a busy machine, the first of whom had it alone for some time; and the longest job."""
    machine, users = Machine(2), list(USERS[: draw(st.integers(2, len(USERS)))])
    lengths = draw(st.lists(st.integers(50, 1_000), min_size=1, max_size=4))
    limited, start = draw(st.booleans()), draw(st.integers(0, 6))
    machine.submit(*[spec(f"early{n}", num_gpus=1) for n in range(start)], lasts=[500.0] * start or [], user=users[0])
    machine.pass_time(250.0 * start)
    for user in users:
        lasts = [float(lengths[n % len(lengths)]) for n in range(60)]
        jobs = [spec(f"j{n}", num_gpus=1, time_limit=last if limited else None) for n, last in enumerate(lasts)]
        machine.submit(*jobs, lasts=lasts, user=user, plans=False)
    machine.turn()
    return machine, users, float(max([*lengths, 500]))


def equals_come_to_have_had_as_much(given_: tuple[Machine, list[Submitter], float]) -> None:
    """While all of them have work left, what they have had since the beginning comes to be the same."""
    machine, users, longest = given_
    waiting = machine.queue.snapshot
    while all(any(job.pipeline.submitter == user for job in waiting.in_order()) for user in users):
        machine.step()
    had = [waiting.usage.of(user.uid, machine.now, waiting.measures.half_life) for user in users]
    assert max(had) - min(had) <= 2 * CARDS * longest, had


def test_short_lives_of_a_machine() -> None:
    live(40, 15, derandomize=True)


@settings(max_examples=60, deadline=None, derandomize=True, database=None, phases=PHASES)
@given(queues())
def test_who_keeps_a_limit_delays_nobody_whom_it_passes(queue: Any) -> None:
    nobody_delays_what_is_kept(queue)


def test_a_guess_that_holders_end_early_lets_nobody_pass_who_may_be_late() -> None:
    """What ended at half of its limit says that the first card may be free soon; the others are still kept."""
    nobody_delays_what_is_kept((*kept_for_a_wide_job([1323, 931, 60], 3), [(1.0, 104, 0.5), (300.0, 1000, 0.84)]))


@settings(max_examples=8, deadline=None, derandomize=True, database=None, phases=PHASES)
@given(rivals())
def test_equal_users_come_to_have_had_as_much(given_: Any) -> None:
    equals_come_to_have_had_as_much(given_)


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(BATCHES))
def test_many_lives_of_a_machine(batch: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A fifth of the examples are lives, which cost most; most of the others are queues."""
    seeded = int(os.environ.get("SEED") or secrets.randbits(32)) + batch
    with capsys.disabled():
        print(f" SEED={seeded}", end=" ", flush=True)
    each = EXAMPLES // BATCHES
    lives, races = each // 5, max(each // 50, 1)
    live(lives, 15, seeded)
    for number, strategy, holds in (
        (each - lives - races, queues(), nobody_delays_what_is_kept),
        (races, rivals(), equals_come_to_have_had_as_much),
    ):
        many = settings(
            max_examples=number, deadline=None, database=None, phases=PHASES, suppress_health_check=list(HealthCheck)
        )
        seed(seeded)(many(given(strategy)(holds)))()
