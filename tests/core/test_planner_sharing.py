"""Who may have a part of a card, beside our own and beside others, and how much of it."""

from __future__ import annotations

from typing import Any

import pytest

from core.builders import GIB, Queue, gpu, spec
from core.test_planner import NOW, finish, run_plan, starts, why
from runners.api import Code
from runnersd.inventory import foreign_memory
from runnersd.model import ForeignPolicy, Gpu, GpuProcess, Inventory
from runnersd.planner import World, plan
from runnersd.views import gpu_view

MIB = 1 << 20
MARGIN = 512 * MIB
SHARE = ForeignPolicy(share=True)


def stranger(memory: int | None = 30 * GIB, pid: int = 4242, **facts: Any) -> GpuProcess:
    """Somebody else's process."""
    return GpuProcess(pid, "compute", memory, "python", 1001, user="bob", **facts)


def shared(memory: int, **keys: Any) -> Any:
    """A job that takes so much of a card."""
    return spec(num_gpus=1, gpu_shared=True, gpu_memory=memory, **keys)


def world_of(queue: Queue, *gpus: Gpu, policy: ForeignPolicy = SHARE, **facts: Any) -> World:
    return queue.world(Inventory(gpus), foreign=policy, margin=MARGIN, **facts)


def test_shares_fill_a_card_up_to_its_margin_and_are_held_from_the_reservation_on() -> None:
    queue = Queue()
    ids = [queue.add(shared(20 * GIB))[0] for _ in range(4)]
    # Nothing of what was started shows in the card's memory yet.
    world = world_of(queue, gpu(0, memory_used=0))
    assert list(starts(run_plan(queue, world))) == ids[:3]
    reason = why(queue, ids[3], world, run_plan(queue, world))
    assert reason.code is Code.NO_GPU_MEMORY
    assert reason.text.startswith("needs 20GiB of a card's memory: at most 19.5GiB left, 1 held by 1 (ann)"), reason
    finish(queue, ids[0])
    assert list(starts(run_plan(queue, world))) == [ids[3]]


def test_what_jobs_use_counts_as_what_they_declared() -> None:
    queue = Queue()
    (small, big) = (queue.add(shared(2 * GIB))[0], queue.add(shared(70 * GIB))[0])
    ours = GpuProcess(10, "compute", 60 * GIB, "python", 1000, (9,))
    assert list(starts(run_plan(queue, world_of(queue, gpu(0))))) == [small, big]
    (third,) = queue.add(shared(5 * GIB))
    filled = world_of(queue, gpu(0, memory_used=60 * GIB, processes=(ours,)), supervisors={small: 9})
    assert list(starts(run_plan(queue, filled))) == [third]


def test_a_share_does_not_start_on_memory_that_is_used_by_nobody_known() -> None:
    queue = Queue()
    big, small, third = queue.add(shared(40 * GIB), shared(15 * GIB), shared(15 * GIB))
    full = gpu(0, memory_used=60 * GIB)
    world = world_of(queue, full)
    made = run_plan(queue, world)
    assert list(starts(made)) == [small]
    assert [one.job.id for one in made.reservations] == [third], "the other one fits on no day that is known"
    reason = why(queue, big, world, made)
    assert reason.code is Code.NO_GPU_MEMORY
    assert "card 0 has 60GiB in use by nobody known" in reason.text
    assert not starts(run_plan(queue, world)), "the one that has just begun has taken nothing of what is used yet"
    ours = GpuProcess(10, "compute", 15 * GIB, "python", 1000, (9,))
    shown = world_of(queue, gpu(0, memory_used=75 * GIB, processes=(ours,)), supervisors={small: 9})
    assert not starts(run_plan(queue, shown))
    assert "card 0 has 60GiB in use by nobody known" in why(queue, third, shown, run_plan(queue, shown)).text
    freed = world_of(queue, gpu(0, memory_used=15 * GIB, processes=(ours,)), supervisors={small: 9})
    assert starts(run_plan(queue, freed)).keys() == {big, third}


def test_memory_of_what_ended_just_now_goes_to_the_next_share_and_up_to_the_margin_nothing_counts() -> None:
    queue = Queue()
    (job,) = queue.add(shared(70 * GIB))
    before = GpuProcess(10, "compute", 60 * GIB, "python", 1000, (9,))
    card = gpu(0, memory_used=60 * GIB + MARGIN, processes=(before,))
    world = world_of(queue, card, ended=frozenset({9}))
    assert list(starts(run_plan(queue, world))) == [job]


def test_a_shared_job_goes_where_least_is_left_and_an_exclusive_one_to_no_shared_card() -> None:
    queue = Queue()
    first, second = queue.add(shared(40 * GIB, gpus=("0",)), shared(60 * GIB, gpus=("1",)))
    world = world_of(queue, gpu(0), gpu(1), gpu(2))
    assert starts(run_plan(queue, world)) == {first: ("GPU-0",), second: ("GPU-1",)}
    (fitting,) = queue.add(shared(15 * GIB))
    (larger,) = queue.add(shared(30 * GIB))
    (alone,) = queue.add(spec(num_gpus=1))
    assert starts(run_plan(queue, world)) == {fitting: ("GPU-1",), larger: ("GPU-0",), alone: ("GPU-2",)}
    (late,) = queue.add(spec(num_gpus=1))
    assert starts(run_plan(queue, world)) == {}
    assert why(queue, late, world, run_plan(queue, world)).code is Code.NO_FREE_GPU


@pytest.mark.parametrize("policy", [ForeignPolicy(), SHARE], ids=["exclude", "share"])
def test_beside_a_foreign_process_only_shared_jobs_start_and_only_by_policy(policy: ForeignPolicy) -> None:
    queue = Queue()
    (alone,) = queue.add(spec("alone", num_gpus=1))
    (job,) = queue.add(shared(40 * GIB))
    world = world_of(queue, gpu(0, memory_used=30 * GIB, processes=(stranger(),)), policy=policy)
    made = run_plan(queue, world)
    assert starts(made) == ({job: ("GPU-0",)} if policy.share else {})
    for id in (alone,) if policy.share else (alone, job):
        reason = why(queue, id, world, made)
        assert reason.code is Code.FOREIGN_GPU_USE
        assert reason.text == "needs 1 card, 0 can be had: card 0 is used by python (pid 4242, bob)"
    assert gpu_view(world.inventory.gpus[0], world)["state"] == ("shared" if policy.share else "foreign")
    assert gpu_view(world.inventory.gpus[0], world)["foreign_pids"] == [4242]


def test_shares_go_beside_what_foreign_processes_hold() -> None:
    queue = Queue()
    fits, too_large = queue.add(shared(30 * GIB), shared(30 * GIB))
    world = world_of(queue, gpu(0, memory_used=45 * GIB, processes=(stranger(), stranger(15 * GIB, 4243))))
    made = run_plan(queue, world)
    assert list(starts(made)) == [fits]
    reason = why(queue, too_large, world, made)
    assert (reason.code, reason.text) == (
        Code.NO_GPU_MEMORY,
        "needs 30GiB of a card's memory: at most 4.5GiB left, 1 held by 1 (ann)"
        ", card 0 is used by python (pid 4242, bob) and 1 more",
    )


def test_a_share_that_never_fits_beside_them_waits_for_them_and_keeps_nothing() -> None:
    queue = Queue()
    big, small = queue.add(shared(60 * GIB), shared(GIB))
    world = world_of(queue, gpu(0, memory_used=30 * GIB, processes=(stranger(),)))
    made = run_plan(queue, world)
    assert list(starts(made)) == [small]
    assert made.reservations == ()
    assert why(queue, big, world, made).code is Code.FOREIGN_GPU_USE
    assert list(starts(plan(world_of(queue, gpu(0)), NOW))) == [big]


def test_a_card_of_which_nobody_knows_the_memory_is_not_shared_with_others() -> None:
    queue = Queue()
    queue.add(shared(GIB))
    unified = gpu(0, memory_total=None, memory_used=None, processes=(stranger(None),))
    assert starts(plan(world_of(queue, unified), NOW)) == {}
    untold = gpu(0, memory_used=None, processes=(stranger(None),))
    assert starts(plan(world_of(queue, untold), NOW)) == {}
    free = gpu(0, memory_total=None, memory_used=None)
    assert len(starts(plan(world_of(queue, free), NOW))) == 1


OURS, SCREEN = GpuProcess(10, "compute", 8 * GIB, ancestors=(9,)), GpuProcess(11, "graphics", GIB // 2, "Xorg")


@pytest.mark.parametrize(
    ("used", "foreign", "beside", "held"),
    [
        (40 * GIB, [stranger(30 * GIB), stranger(GIB)], [OURS], 31 * GIB),
        (40 * GIB, [stranger(None)], [OURS, SCREEN], 32 * GIB - GIB // 2),
        (40 * GIB, [stranger(None), stranger(3 * GIB)], [OURS], 32 * GIB),
        (9 * GIB, [stranger(None), stranger(3 * GIB)], [OURS], 3 * GIB),
        (40 * GIB, [stranger(None)], [GpuProcess(10, "compute", None)], 40 * GIB),
        (None, [stranger(None)], [], None),
        (None, [stranger(GIB)], [], GIB),
    ],
)
def test_foreign_memory_is_what_is_told_or_what_is_used_and_nobody_elses(
    used: int | None, foreign: list[GpuProcess], beside: list[GpuProcess], held: int | None
) -> None:
    card = Gpu("GPU-0", 0, memory_total=80 * GIB, memory_used=used, processes=(*foreign, *beside))
    assert foreign_memory(card, foreign) == held


def test_a_job_that_wants_a_share_of_several_cards_is_told_how_many_have_as_much_left() -> None:
    queue = Queue()
    world = world_of(queue, gpu(0), gpu(1))
    queue.add(shared(70 * GIB, gpus=("0",)))
    run_plan(queue, world)
    [waits] = queue.add(spec(num_gpus=2, gpu_shared=True, gpu_memory=20 * GIB))
    made = run_plan(queue, world)
    assert why(queue, waits, world, made).text == (
        "needs 20GiB of the memory of each of 2 cards: 1 with so much left, 1 held by 1 (ann)"
    )


def test_a_job_that_wants_a_share_is_told_who_uses_the_cards_that_are_closed_for_that() -> None:
    queue = Queue()
    world = world_of(queue, gpu(0), gpu(1, memory_used=30 * GIB, processes=(stranger(),)), policy=ForeignPolicy())
    queue.add(shared(70 * GIB))
    run_plan(queue, world)
    [waits] = queue.add(shared(20 * GIB))
    made = run_plan(queue, world)
    assert why(queue, waits, world, made).text == (
        "needs 20GiB of a card's memory: at most 9.5GiB left, 1 held by 1 (ann)"
        ", card 1 is used by python (pid 4242, bob)"
    )


def test_cards_are_kept_for_shares_that_nobody_known_is_in_the_way_of_from_when_their_holders_leave() -> None:
    queue = Queue()
    held = [queue.add(shared(10 * GIB, gpus=(card,)))[0] for card in "01"]
    run_plan(queue, world_of(queue, gpu(0), gpu(1)))
    seen = [
        gpu(
            card,
            memory_used=50 * GIB,
            processes=(GpuProcess(10 + card, "compute", 10 * GIB, "python", 1000, (card + 2,)),),
        )
        for card in (0, 1)
    ]
    world = world_of(queue, *seen, supervisors={held[0]: 2, held[1]: 3})
    (both,) = queue.add(spec(num_gpus=2, gpu_shared=True, gpu_memory=40 * GIB), at=NOW)
    (small,) = queue.add(shared(20 * GIB), at=NOW + 86_400)
    made = run_plan(queue, world, NOW + 86_400)
    assert list(starts(made)) == [small], "it fits beside what is in use, and those cards cannot be had now"
    (kept,) = made.reservations
    assert kept.job.id == both
    assert kept.at > NOW + 86_400


@pytest.mark.parametrize("by", [-86_400.0, 86_400.0])
def test_a_job_that_shows_nothing_is_given_time_to_begin_whatever_the_clock_was_set_to(by: float) -> None:
    queue = Queue()
    (unseen,) = queue.add(shared(40 * GIB))
    run_plan(queue, world_of(queue, gpu(0)))
    (waits,) = queue.add(shared(30 * GIB), at=NOW)
    world = world_of(queue, gpu(0, memory_used=40 * GIB), clock_set={(unseen, 1): by})
    assert not starts(run_plan(queue, world, NOW + by + 59.0)), "what is used may be somebody else's"
    assert list(starts(run_plan(queue, world, NOW + by + 61.0))) == [waits]
