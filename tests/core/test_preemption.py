"""Who makes way for whom, and who gets what comes free."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.builders import ANN, GIB, Queue, gpu, spec
from core.test_planner import finish, run_plan, starts
from runners.api import Code, JobState
from runnersd import lifecycle
from runnersd.config import Quota
from runnersd.explain import explain
from runnersd.model import Inventory, Outcome, Reason, Submitter
from runnersd.planner import Plan, Stop, World
from runnersd.quotas import Quotas

NOW = 1_000_000.0
MIN_RUN = 600.0
BOB = Submitter(1001, 1001, (), "bob")


class Machine:
    """Cards, a queue, and a clock: what the engine does with plans, without an engine."""

    def __init__(self, cards: int | Inventory = 4, **facts: Any) -> None:
        self.queue, self.cards, self.now = Queue(), cards, NOW
        self.facts = {"min_run": MIN_RUN, **facts}
        self.last = Plan()

    @property
    def world(self) -> World:
        return self.queue.world(self.cards, claimants=tuple(self.last.claims), **self.facts)

    def turn(self, seconds: float = 0.0) -> Plan:
        """Pass time, plan, and record that."""
        self.now += seconds
        self.last = run_plan(self.queue, self.world, self.now)
        return self.last

    def runs(self, *specs: Any, user: Submitter = ANN, for_: float = MIN_RUN, **more: Any) -> list[int]:
        """Jobs that run, and have done so for that long."""
        ids = self.queue.add(*specs, user=user, num_jobs=99, **more)
        made = self.turn()
        assert set(ids) <= set(starts(made)), f"{ids} were to start: {made}"
        self.now += for_
        return ids

    def adds(self, *specs: Any, user: Submitter = BOB, **more: Any) -> list[int]:
        return self.queue.add(*specs, user=user, at=self.now, num_jobs=99, **more)

    def leaves(self, id: int) -> None:
        """A job that was told to stop has ended."""
        job = self.queue.snapshot.jobs[id]
        self.queue.take(lifecycle.verdict(job, Outcome(143, 15, finished_at=self.now, stopped=True), self.now))

    def state(self, id: int) -> str:
        return self.queue.snapshot.jobs[id].state.value

    def reason(self, id: int) -> Reason:
        return explain(self.queue.snapshot.jobs[id], self.world, self.last, self.now)


def low(name: str = "low", **keys: Any) -> Any:
    return spec(name, **{"num_gpus": 1, "preemptible": True, **keys})


def high(name: str = "high", **keys: Any) -> Any:
    return spec(name, **{"num_gpus": 1, "priority": 5, **keys})


def stopped(made: Plan) -> set[int]:
    return {one.job.id for one in made.decisions if isinstance(one, Stop)}


def test_a_job_makes_way_is_queued_again_and_comes_first_when_there_is_room() -> None:
    machine = Machine(1)
    (victim,) = machine.runs(low(time_limit=90_000.0), at=NOW)
    others = machine.adds(*[low(f"other{n}", time_limit=10.0) for n in range(3)], user=ANN)
    (job,) = machine.adds(high())
    assert stopped(machine.turn()) == {victim}
    assert machine.state(victim) == "stopping"
    why = machine.queue.snapshot.jobs[victim].reason
    assert why is not None and why.code is Code.PREEMPTED and why.about == job
    assert machine.reason(victim).text == f"makes way for job {job} (bob) of priority 5, and is queued again"
    assert machine.reason(job) == Reason(
        Code.STARTING_SOON, f"room is made for it: starts when job {victim} (ann) has ended"
    )
    machine.leaves(victim)
    again = machine.queue.snapshot.jobs[victim]
    assert (again.state, again.attempt, again.failures, again.preempted) == (JobState.QUEUED, 1, 0, 1)
    assert set(starts(machine.turn())) == {job}
    finish(machine.queue, job)
    # Before its user's others of that priority, though they were due long before it.
    assert set(starts(machine.turn())) == {victim}
    assert machine.queue.snapshot.jobs[victim].attempt == 2
    assert all(machine.state(id) == "queued" for id in others)


@pytest.mark.parametrize(
    ("victim", "job", "facts", "ran"),
    [
        ({}, {}, {"min_run": None}, 1e6),  # no word of it in the configuration
        ({"preemptible": False}, {}, {}, 1e6),
        ({}, {}, {}, MIN_RUN - 1.0),
        ({"priority": 5}, {}, {}, 1e6),  # not more important
        ({"priority": 9}, {}, {}, 1e6),
        ({}, {"num_gpus": 2}, {}, 1e6),  # it would not help: the other card is no one's to give
        ({}, {}, {"quotas": Quotas(users={"bob": Quota(running=0)})}, 1e6),
        ({}, {"run_in": "container", "image": "lab/torch"}, {}, 1e6),  # its image is not there
        ({}, {"gpus": ("0",)}, {}, 1e6),  # the victim is on the other card
    ],
)
def test_nobody_makes_way_who_need_not(victim: Any, job: Any, facts: Any, ran: float) -> None:
    machine = Machine(2, **facts)
    machine.runs(spec("fixed", num_gpus=1, gpus=("0",), priority=5))
    (low_,) = machine.runs(low(**victim, gpus=("1",)), for_=ran)
    machine.adds(high(**job))
    assert not stopped(machine.turn()) and machine.state(low_) == "running"


def test_a_pipeline_at_its_limit_and_a_job_behind_a_barrier_stop_nobody() -> None:
    machine = Machine(1)
    machine.runs(low())
    machine.queue.add(spec("first", priority=5, blocking=True), high(), user=BOB, at=machine.now)
    machine.queue.add(spec("a", priority=5), high("b"), user=BOB, at=machine.now, num_jobs=1)
    assert not stopped(machine.turn())


def test_the_plan_says_when_a_young_job_may_be_stopped() -> None:
    machine = Machine(1)
    (victim,) = machine.runs(low(), for_=10.0)
    machine.adds(high())
    made = machine.turn()
    assert not stopped(made) and made.look_again == NOW + MIN_RUN
    assert stopped(machine.turn(MIN_RUN - 10.0)) == {victim}


def test_a_job_that_fits_without_it_stops_nobody() -> None:
    machine = Machine(2)
    machine.runs(low())
    (job,) = machine.adds(high())
    made = machine.turn()
    assert set(starts(made)) == {job} and not stopped(made)


def test_what_ends_anyway_is_waited_for() -> None:
    machine = Machine(2)
    one, other = machine.runs(low("one"), low("other"))
    cause = Reason(Code.CANCELLED_BY, "cancelled by ann")
    machine.queue.take(lifecycle.Stopping(one, 1, cause, machine.now))
    (job,) = machine.adds(high())
    assert not stopped(machine.turn())
    machine.leaves(one)
    assert set(starts(machine.turn())) == {job} and machine.state(other) == "running"


def test_a_stop_that_does_not_come_to_an_end_is_not_waited_for() -> None:
    machine = Machine(2)
    one, other = machine.runs(low("one"), low("other"))
    machine.queue.take(lifecycle.Stopping(one, 1, Reason(Code.CANCELLED_BY, ""), machine.now))
    machine.adds(high())
    assert stopped(machine.turn(60.0)) == {other}


def test_the_fewest_are_stopped() -> None:
    machine = Machine(4)
    machine.runs(low("a"), low("b"))
    (large,) = machine.runs(low("large", num_gpus=2))
    machine.adds(high(num_gpus=2))
    assert stopped(machine.turn()) == {large}


def test_of_as_many_the_least_important_and_then_the_latest_are_stopped() -> None:
    machine = Machine(4)
    machine.runs(low("early"), for_=10.0)
    (least,) = machine.runs(low("least", priority=-3), for_=10.0)
    machine.runs(low("middle"), for_=10.0)
    (latest,) = machine.runs(low("latest"))
    machine.adds(high(num_gpus=2))
    assert stopped(machine.turn()) == {least, latest}


def test_no_more_are_stopped_than_needed_though_they_are_small() -> None:
    machine = Machine(4)
    machine.runs(*[low(f"a{n}") for n in range(4)])
    machine.adds(high(num_gpus=3))
    assert len(stopped(machine.turn())) == 3


def test_what_comes_free_is_kept_for_whom_it_was_freed_for_while_the_others_take_their_grace() -> None:
    machine = Machine(2)
    one, other = machine.runs(low("one", grace=600.0), low("other", grace=600.0))
    (job,) = machine.adds(high(num_gpus=2))
    assert stopped(machine.turn()) == {one, other}
    machine.leaves(one)
    # Short ones, important ones, and the one that has just made way: none slips in.
    between = machine.adds(high("short", time_limit=1.0), high("important", priority=9), low("idle"), user=ANN)
    for _ in range(5):
        made = machine.turn(30.0)
        assert not starts(made) and not stopped(made)
    machine.leaves(other)
    assert set(starts(machine.turn())) == {job}
    assert all(machine.state(id) == "queued" for id in (*between, one, other))


def test_no_more_than_was_freed_is_kept() -> None:
    machine = Machine(3)
    (large,) = machine.runs(low("large", num_gpus=2, grace=600.0))
    machine.runs(spec("fixed", num_gpus=1))
    (job,) = machine.adds(high())
    assert stopped(machine.turn()) == {large}
    (next_,) = machine.adds(high("next"), user=ANN)
    made = machine.turn(1.0)
    assert not stopped(made)  # the other card of the one that leaves is enough
    machine.leaves(large)
    assert set(starts(machine.turn())) == {job, next_}


def test_two_jobs_do_not_count_on_the_same_card() -> None:
    machine = Machine(2)
    one, other = machine.runs(low("one"), low("other"))
    machine.adds(high("first"), high("second"))
    assert stopped(machine.turn()) == {one, other}
    assert not stopped(machine.turn(1.0))


def test_while_a_stop_is_in_progress_nobody_else_is_stopped_for_that_job() -> None:
    machine = Machine(Inventory((gpu(0), gpu(1))))
    one, other = machine.runs(low("one", gpus=("0",)), low("other", gpus=("1",)), for_=MIN_RUN * 2)
    machine.adds(high())
    (first,) = stopped(machine.turn())
    # Its card is taken away meanwhile: the job waits for that stop's end before it has another one stopped.
    card = machine.queue.snapshot.jobs[first].gpus[0]
    machine.facts["drained"] = {card: "fan"}
    assert not stopped(machine.turn(1.0)) and not stopped(machine.turn(100.0))
    machine.leaves(first)
    assert stopped(machine.turn()) == ({one, other} - {first})


def test_a_job_that_is_gone_before_its_room_is_made_leaves_it_to_others() -> None:
    machine = Machine(1)
    (victim,) = machine.runs(low())
    (job,) = machine.adds(high())
    machine.turn()
    machine.queue.take(lifecycle.Cancelled(job, 0, Reason(Code.CANCELLED_BY, ""), None, machine.now))
    machine.leaves(victim)
    assert set(starts(machine.turn())) == {victim}


def test_a_claim_outlives_the_daemon_while_the_stop_goes_on_and_a_pause() -> None:
    machine = Machine(1)
    (victim,) = machine.runs(low())
    (job,) = machine.adds(high())
    machine.turn()
    machine.last = Plan()  # what another daemon knows: the records alone
    (other,) = machine.adds(high("other", priority=9), user=ANN)
    machine.turn(1.0)
    assert job in machine.last.claims
    machine.facts["paused"] = "maintenance"
    machine.turn()
    machine.leaves(victim)
    machine.turn()
    machine.facts["paused"] = None
    assert set(starts(machine.turn())) == {job} and machine.state(other) == "queued"


def test_the_memory_of_a_job_that_leaves_counts_as_free_and_is_waited_for() -> None:
    def seen(used: int) -> Inventory:
        return Inventory((gpu(0, memory_used=used),))

    machine = Machine(seen(0))
    (victim,) = machine.runs(low())
    machine.cards = seen(70 * GIB)
    (job,) = machine.adds(high(gpu_memory=60 * GIB))
    assert stopped(machine.turn()) == {victim}
    machine.leaves(victim)
    machine.facts["ended"] = frozenset({4711})  # the cards have not been seen since
    (other,) = machine.adds(high("other"), user=ANN)
    made = machine.turn()
    assert not starts(made) and job in made.claims
    machine.cards, machine.facts["ended"] = seen(0), frozenset()
    assert set(starts(machine.turn())) == {job} and machine.state(other) == "queued"


def test_room_is_made_for_cores_memory_and_a_place_among_those_that_run_too() -> None:
    for keys, facts in (
        ({"cpus": 40.0}, {}),
        ({"memory": 40 * GIB}, {"memory": 64 * GIB}),
        ({}, {"max_running": 1}),
    ):
        machine = Machine(0, **facts)
        (victim,) = machine.runs(spec("low", preemptible=True, **keys))
        (job,) = machine.adds(spec("high", priority=1, **keys))
        assert stopped(machine.turn()) == {victim}
        machine.leaves(victim)
        assert set(starts(machine.turn())) == {job}


def test_a_job_that_ended_by_itself_before_its_stop_is_over() -> None:
    machine = Machine(1)
    (victim,) = machine.runs(low())
    (job,) = machine.adds(high())
    machine.turn()
    finish(machine.queue, victim, now=machine.now)
    assert victim not in machine.queue.snapshot.jobs  # succeeded, and its pipeline with it
    assert set(starts(machine.turn())) == {job}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_happens_no_card_is_given_twice_and_only_the_willing_make_way(data: st.DataObject) -> None:
    machine = Machine(data.draw(st.integers(1, 4)))
    claimed: set[int] = set()
    for _ in range(data.draw(st.integers(1, 25))):
        match data.draw(st.sampled_from(["add", "add", "turn", "end", "time"])):
            case "add":
                machine.adds(
                    spec(
                        "job",
                        num_gpus=data.draw(st.integers(0, 3)) if len(machine.world.inventory.gpus) >= 3 else 1,
                        priority=data.draw(st.sampled_from([-5, 0, 5])),
                        preemptible=data.draw(st.booleans()),
                        time_limit=data.draw(st.sampled_from([None, 50.0, 5000.0])),
                    ),
                    user=data.draw(st.sampled_from([ANN, BOB])),
                )
            case "end":
                live = sorted(machine.queue.snapshot.live)
                if live:
                    id = data.draw(st.sampled_from(live))
                    if machine.queue.snapshot.live[id].state is JobState.STOPPING:
                        machine.leaves(id)
                    else:
                        finish(machine.queue, id, now=machine.now)
            case "time":
                machine.now += data.draw(st.sampled_from([1.0, MIN_RUN]))
        before = dict(machine.queue.snapshot.live)
        made = machine.turn()
        for one in made.decisions:
            if isinstance(one, Stop) and one.reason.code is Code.PREEMPTED:
                job, winner = one.job, machine.queue.snapshot.jobs[one.reason.about or 0]
                assert job.spec.preemptible and job.spec.priority < winner.spec.priority
                assert machine.now - (before[job.id].started_at or machine.now) >= MIN_RUN
                assert winner.id in made.claims
        for gpu_, holders in machine.queue.snapshot.holders.items():
            assert len(holders) == 1, gpu_
        # Whoever room is made for starts, or room is still being made.
        assert claimed <= made.claims.keys() | machine.queue.snapshot.live.keys()
        claimed = set(made.claims)
