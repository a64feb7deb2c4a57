"""Quotas: who waits for them, with which words, and who does not."""

from __future__ import annotations

from typing import Any

import pytest

from core.builders import ANN, Queue, cards, spec
from core.test_planner import finish, run_plan, starts
from runners.api import Code
from runners.errors import InvalidPipeline, QuotaExceeded
from runners.spec import PipelineSpec, Submission
from runnersd import lifecycle
from runnersd.admission import Limits, admit, check_quotas
from runnersd.config import Quota
from runnersd.explain import explain
from runnersd.model import Reason, Submitter
from runnersd.planner import plan
from runnersd.planner.walk import Walk
from runnersd.quotas import Quotas

NOW = 1_000_000.0
BOB = Submitter(1001, 1001, (1001, 50), "bob")
CAT = Submitter(1002, 50, (), "cat")


def reason(queue: Queue, world: Any, id: int) -> tuple[Code, str]:
    found = explain(queue.snapshot.jobs[id], world, plan(world, NOW), NOW)
    return found.code, found.text


def test_a_user_at_the_running_quota_waits_and_holds_up_nobody() -> None:
    queue = Queue()
    mine = queue.add(*[spec(f"a{n}") for n in range(5)], num_jobs=9)
    theirs = queue.add(*[spec(f"b{n}") for n in range(2)], user=BOB)
    world = queue.world(quotas=Quotas(users={"ann": Quota(running=2)}))
    made = run_plan(queue, world)
    assert set(starts(made)) == {*mine[:2], *theirs}
    assert not made.reservations
    text = "ann has 2 jobs running, at most 2 may (scheduling.quotas)"
    assert {reason(queue, world, id) for id in mine[2:]} == {(Code.QUOTA, text)}
    finish(queue, mine[0])
    assert set(starts(run_plan(queue, world))) == {mine[2]}


def test_a_user_at_the_quota_of_cards_waits_with_jobs_that_need_more_of_them() -> None:
    queue = Queue()
    two, three, one, none = queue.add(
        spec("two", num_gpus=2), spec("three", num_gpus=3), spec("one", num_gpus=1), spec("none")
    )
    (bobs,) = queue.add(spec("bobs", num_gpus=5), user=BOB, at=5.0)
    world = queue.world(8, quotas=Quotas(default=Quota(gpus=3), users={"bob": Quota(gpus=8)}))
    made = run_plan(queue, world)
    assert set(starts(made)) == {two, one, none, bobs}
    assert not made.reservations  # nothing is kept for three
    assert reason(queue, world, three) == (
        Code.QUOTA,
        "needs 3 cards: ann holds 3 of at most 3 (scheduling.quotas)",
    )
    finish(queue, two)
    finish(queue, one)
    assert set(starts(run_plan(queue, world))) == {three}


def test_each_that_waits_for_a_quota_of_cards_is_told_how_many_it_needs_itself() -> None:
    queue = Queue()
    live = queue.add(spec("live", num_gpus=2))
    world = queue.world(8, quotas=Quotas(default=Quota(gpus=2)))
    assert list(starts(run_plan(queue, world))) == live
    for id, wanted in zip(queue.add(spec("a", num_gpus=1), spec("b", num_gpus=2)), ("1 card", "2 cards"), strict=True):
        assert reason(queue, world, id)[1] == f"needs {wanted}: ann holds 2 of at most 2 (scheduling.quotas)"


def test_a_job_that_waits_for_its_quota_is_promised_no_cards() -> None:
    """Without that, a job for all cards would keep them from everybody while its user may not have them."""
    queue = Queue()
    (live,) = queue.add(spec("live", num_gpus=1, time_limit=1e6))
    world = queue.world(8, quotas=Quotas(default=Quota(gpus=8)))
    assert set(starts(run_plan(queue, world))) == {live}
    (large,) = queue.add(spec("large", num_gpus=8, time_limit=100.0))
    long_ones = queue.add(*[spec(f"b{n}", num_gpus=1, time_limit=1e6) for n in range(7)], user=BOB, at=10.0)
    made = run_plan(queue, world, now=NOW + 1e6 - 1)
    assert set(starts(made)) == set(long_ones) and not made.reservations
    assert reason(queue, world, large)[0] is Code.QUOTA


def test_members_of_a_group_share_its_quota_and_each_has_its_own_beside() -> None:
    queue = Queue()
    bobs = queue.add(*[spec(f"b{n}", num_gpus=1) for n in range(5)], user=BOB)
    cats = queue.add(*[spec(f"c{n}", num_gpus=1) for n in range(5)], user=CAT, at=1.0)
    (anns,) = queue.add(spec("a", num_gpus=1), at=2.0)
    quotas = Quotas(default=Quota(gpus=3), groups={50: ("students", Quota(gpus=4))})
    world = queue.world(8, quotas=quotas)
    started = starts(run_plan(queue, world))
    assert set(started) == {*bobs[:2], *cats[:2], anns}
    text = "needs 1 card: the group students holds 4 (bob 2, cat 2) of at most 4 (scheduling.quotas)"
    assert {reason(queue, world, id) for id in (*bobs[2:], *cats[2:])} == {(Code.QUOTA, text)}
    for id in bobs[:2]:
        finish(queue, id)
    finish(queue, cats[0])
    queue.take(lifecycle.Held(cats[2], 0, Reason(Code.HELD, "")))
    queue.take(lifecycle.Held(cats[3], 0, Reason(Code.HELD, "")))
    queue.take(lifecycle.Held(cats[4], 0, Reason(Code.HELD, "")))
    assert set(starts(run_plan(queue, world))) == set(bobs[2:])
    more = queue.add(spec("more", num_gpus=1), user=BOB)
    assert reason(queue, world, more[0])[1].startswith("needs 1 card: bob holds 3 of at most 3")


def test_each_group_of_a_user_holds() -> None:
    queue = Queue()
    both = Submitter(1003, 60, (60, 50), "dan")
    ids = queue.add(*[spec(f"d{n}") for n in range(4)], user=both)
    quotas = Quotas(groups={50: ("students", Quota(running=3)), 60: ("guests", Quota(running=1))})
    world = queue.world(quotas=quotas)
    assert set(starts(run_plan(queue, world))) == {ids[0]}
    assert reason(queue, world, ids[1])[1] == (
        "the group guests has 1 job running (dan 1), at most 1 may (scheduling.quotas)"
    )


def test_a_users_own_entry_stands_in_place_of_the_default() -> None:
    quotas = Quotas(Quota(gpus=1, running=1), {"ann": Quota(gpus=4), "1001": Quota(running=2)})
    assert [account.quota for account in quotas.accounts(ANN)] == [Quota(gpus=4)]
    assert [account.quota for account in quotas.accounts(BOB)] == [Quota(running=2)]
    assert [account.quota for account in quotas.accounts(CAT)] == [Quota(gpus=1, running=1)]
    assert Quotas(groups={50: ("students", Quota())}).accounts(BOB) == ()


def test_root_has_no_more_than_others() -> None:
    queue = Queue()
    ids = queue.add(spec("a"), spec("b"), user=Submitter(0, 0, (), "root"))
    assert set(starts(run_plan(queue, queue.world(quotas=Quotas(Quota(running=1)))))) == {ids[0]}


@pytest.mark.parametrize("quota", [Quota(running=1), Quota(gpus=1)])
def test_what_a_user_at_a_quota_has_in_the_queue_costs_nothing(quota: Quota, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue()
    (first,) = queue.add(spec("first", num_gpus=1))
    world = queue.world(8, quotas=Quotas(default=quota))
    run_plan(queue, world)
    letters = [chr(97 + n % 26) * (1 + n // 26) for n in range(300)]
    queue.add(*[spec(f"j{n}", command=letter, num_gpus=1 + n % 3) for n, letter in enumerate(letters)], num_jobs=300)
    looks = 0
    look_at = Walk._look_at

    def counted(*given: Any) -> Any:
        nonlocal looks
        looks += 1
        return look_at(*given)

    monkeypatch.setattr(Walk, "_look_at", counted)
    assert not starts(plan(world, NOW))
    assert looks == 1
    assert queue.snapshot.jobs[first].live


def submission(*specs: Any) -> Submission:
    return Submission(PipelineSpec("p", specs), "/work", {})


def test_a_job_for_more_cards_than_its_user_may_hold_is_refused_at_submit() -> None:
    accounts = Quotas(Quota(gpus=2), groups={1000: ("lab", Quota(gpus=1))}).accounts(ANN)
    limits = Limits(8.0, 1 << 36, accounts=accounts)
    with pytest.raises(InvalidPipeline) as raised:
        admit([submission(spec("fits"), spec("large", num_gpus=3))], cards(4), limits, queued=0, operator=True)
    assert [(one.path, one.message) for one in raised.value.problems] == [
        ("jobs[1].num_gpus", "asks for 3 cards, ann may hold 2 (scheduling.quotas)"),
        ("jobs[1].num_gpus", "asks for 3 cards, the group lab may hold 1 (scheduling.quotas)"),
    ]


def test_the_quota_of_queued_jobs_is_said_with_numbers_and_whom_to_ask() -> None:
    accounts = Quotas(Quota(queued=5)).accounts(ANN)
    check_quotas(accounts, 2, lambda account: 3, "root")
    with pytest.raises(QuotaExceeded, match="cannot queue 2 more jobs: of ann 4 wait, and at most 5 may; .* ask root"):
        check_quotas(accounts, 2, lambda account: 4, "root")


def test_who_may_have_nothing_running_queues_nothing() -> None:
    with pytest.raises(QuotaExceeded, match="ann may have none running; ask root"):
        check_quotas(Quotas(Quota(running=0)).accounts(ANN), 1, lambda account: 0, "root")
