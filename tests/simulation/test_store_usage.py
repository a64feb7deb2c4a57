"""What has run, added up from the rows: by whom, in which period, and what did not go well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.builders import ANN, GIB, spec
from runners.api import Code
from runnersd import lifecycle
from runnersd.model import Intrusion, Reason
from runnersd.past.accounts import Account
from runnersd.store import Store, usage
from runnersd.store.usage import By, Owner, Period
from simulation.storing import BOB, OK, opened, queue, run, start, succeed

#: Everything, looked at from 1000 on; cards of 80 GiB.
ALL = Period(0.0, 1000.0, 80.0 * GIB)


async def added(store: Store, by: By = "user", period: Period = ALL) -> dict[str, Account]:
    """The accounts by the most telling part of their owner."""
    found = await store.archive.usage(by, period)
    return {str(owner.script or owner.pipeline or owner.user): account for owner, account in found.items()}


def fail(store: Store, id: int, at: float, code: Code = Code.EXIT_CODE, again: bool = False) -> None:
    """The attempt failed, and perhaps another follows."""
    reason, attempt = Reason(code, "it went wrong"), store.snapshot.jobs[id].attempt
    if again:
        store.record(lifecycle.Requeued(id, attempt, reason, 1, at, at), at)
    else:
        store.record(lifecycle.Failed(id, attempt, reason, 1, at), at)


def test_jobs_are_added_up_by_user_pipeline_and_script(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        first, second = await queue(
            store,
            spec("a", command="python train.py --lr 1", num_gpus=2),
            spec("b", command=("python", "train.py", "--lr", "\ud800"), num_gpus=1),
            name="sweep \udfff\0",
        )
        (bobs,) = await queue(store, spec("c", command="./render", num_gpus=1), user=BOB)
        await queue(store, spec("waits"), user=BOB)
        start(store, first, "GPU-0", "GPU-1", at=200.0)
        succeed(store, first, at=300.0)
        start(store, second, "GPU-2", at=250.0)
        succeed(store, second, at=260.0)
        start(store, bobs, "GPU-3", at=900.0)

        users = await added(store)
        assert users.keys() == {"ann", "bob"}
        ann, bob = users["ann"], users["bob"]
        assert (ann.jobs, ann.attempts, ann.ended, ann.card_seconds) == (2, 2, 2, 210.0)
        assert list(ann.waits) == [100.25, 150.25]
        assert (bob.jobs, bob.attempts, bob.ended, bob.card_seconds) == (1, 1, 0, 100.0), "it runs, and counts till now"
        assert (ann.efficiency, ann.energy, ann.idle) == (None, None, None)

        assert {
            owner: account.card_seconds for owner, account in (await store.archive.usage("pipeline", ALL)).items()
        } == {
            Owner("ann", ANN.uid, 1, "sweep \udfff\0"): 210.0,
            Owner("bob", BOB.uid, 2, "demo"): 100.0,
        }
        scripts = await added(store, "script")
        assert {name: one.card_seconds for name, one in scripts.items()} == {"train.py": 210.0, "./render": 100.0}
        await store.close()

    run(work)


def test_of_an_attempt_that_began_earlier_only_the_rest_counts(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        before, across, within = await queue(store, *[spec(f"job{n}", num_gpus=1) for n in range(3)])
        for id, gpu, first, last in ((before, "GPU-0", 200.0, 300.0), (across, "GPU-1", 210.0, 600.0)):
            start(store, id, gpu, at=first)
            succeed(store, id, at=last)
        start(store, within, "GPU-2", at=700.0)

        one = (await added(store, period=Period(500.0, 1000.0, 80.0 * GIB)))["ann"]
        assert (one.jobs, one.attempts, one.ended) == (2, 2, 1)
        assert one.card_seconds == 100.0 + 300.0
        assert list(one.waits) == [600.25], "the other one had waited before"
        assert (await added(store, period=Period(610.0, 650.0, 80.0 * GIB))) == {}, "and nothing before its time"
        await store.close()

    run(work)


def test_failures_preemptions_and_intruders_are_counted(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        failing, moved, ran_long = await queue(store, *[spec(f"job{n}", num_gpus=1, retries=1) for n in range(3)])
        start(store, failing, "GPU-0", at=200.0)
        fail(store, failing, 210.0, again=True)
        start(store, failing, "GPU-0", at=220.0)
        for since in (221.0, 222.0):
            store.intrude(Intrusion(failing, 2, "GPU-0", 77, since, 225.0, 1, "eve", "x", 5), 225.0, news=True)
        fail(store, failing, 230.0)
        start(store, moved, "GPU-0", at=300.0)
        fail(store, moved, 310.0, Code.PREEMPTED, again=True)
        start(store, moved, "GPU-0", at=320.0)
        succeed(store, moved, at=330.0)
        start(store, ran_long, "GPU-1", at=300.0)
        store.record(lifecycle.Stopping(ran_long, 1, Reason(Code.TIME_LIMIT, "over"), 390.0), 390.0)
        store.record(lifecycle.TimedOut(ran_long, 1, Reason(Code.TIME_LIMIT, "over"), 143, 400.0), 400.0)

        one = (await added(store))["ann"]
        assert (one.jobs, one.attempts, one.ended, one.failed, one.preempted, one.contaminated) == (3, 5, 5, 3, 1, 1)
        assert one.failure_share == 3 / 5
        assert len(one.waits) == 3, "only a job's first start tells how long it waited"
        later = (await added(store, period=Period(226.0, 1000.0, 80.0 * GIB)))["ann"]
        assert (later.attempts, later.failed, later.contaminated) == (4, 2, 0), "the intruder had gone by then"
        await store.close()

    run(work)


def test_a_shared_card_counts_as_the_share_that_was_asked_for(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        shared = {"num_gpus": 1, "gpu_shared": True}
        part, unknown, large = await queue(
            store,
            spec("part", gpu_memory=20 * GIB, **shared),
            spec("unknown", **shared),
            spec("large", gpu_memory=200 * GIB, num_gpus=1),
        )
        for id, gpu in ((part, "GPU-0"), (unknown, "GPU-0"), (large, "GPU-1")):
            start(store, id, gpu, at=200.0)
            succeed(store, id, at=300.0)
        assert (await added(store))["ann"].card_seconds == 25.0 + 100.0 + 100.0
        await store.close()

    run(work)


def test_a_job_that_began_late_by_its_own_wish_has_not_waited(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        late, never = await queue(store, spec("late", begin=190.0), spec("never"))
        start(store, late, at=200.0)
        store.record(lifecycle.Reserved(never, 1, ()), 200.0)
        store.record(lifecycle.Failed(never, 1, Reason(Code.LAUNCH_FAILED, "no such folder"), None, 201.0), 201.0)
        one = (await added(store))["ann"]
        assert list(one.waits) == [10.25] and one.failed == 1
        await store.close()

    run(work)


def test_stretches_of_jobs_make_one_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "STRIDE", 2)

    async def work() -> None:
        store = await opened(tmp_path)
        ids = await queue(store, *[spec(f"job{n}", num_gpus=1) for n in range(5)])
        for n, id in enumerate(ids):
            start(store, id, f"GPU-{n}", at=200.0)
            store.record(lifecycle.Succeeded(id, 1, OK, 0, 210.0), 210.0)
        one = (await added(store))["ann"]
        assert (one.jobs, one.card_seconds, len(one.waits)) == (5, 50.0, 5)
        assert (await added(store, "pipeline"))["1"] == one
        await store.close()

    run(work)


def summary(*cards: tuple[float | None, float], energy: float | None) -> Any:
    """A summary of cards of that mean utilisation and idle time."""
    nothing = {"mean": None, "peak": None, "seconds": 0.0}
    gpus = [
        {"uuid": f"GPU-{n}", "index": n, "memory_total": None, "utilization": {**nothing, "mean": mean}, "memory": nothing,
         "power": nothing, "temperature": nothing, "idle": idle, "energy": None}
        for n, (mean, idle) in enumerate(cards)
    ]  # fmt: skip
    return {
        "seconds": 100.0,
        "samples": 100,
        "energy": energy,
        "gpus": gpus,
        "process": {"memory": nothing, "cpu": nothing},
    }


def test_utilisation_is_weighed_by_card_time_and_energy_added_up(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        wide, short, blind = await queue(
            store, spec("wide", num_gpus=2), spec("short", num_gpus=1), spec("x", num_gpus=1)
        )
        for id, gpus, first, last, told in (
            (wide, ("GPU-0", "GPU-1"), 200.0, 300.0, summary((90.0, 5.0), (30.0, 60.0), energy=4000.0)),
            (short, ("GPU-2",), 300.0, 350.0, summary((100.0, 0.0), energy=None)),
            (blind, ("GPU-3",), 300.0, 400.0, summary((None, 0.0), energy=None)),
        ):
            start(store, id, *gpus, at=first)
            store.summarize(id, 1, told)
            store.record(lifecycle.Succeeded(id, 1, OK, 0, last), last)
        one = (await added(store))["ann"]
        assert one.efficiency == (90.0 * 100 + 30.0 * 100 + 100.0 * 50) / 250, "what is not known does not count"
        assert (one.idle, one.energy) == (65.0, 4000.0)
        half = (await added(store, period=Period(250.0, 1000.0, 80.0 * GIB)))["ann"]
        assert half.efficiency == (90.0 * 50 + 30.0 * 50 + 100.0 * 50) / 150
        assert (half.idle, half.energy) == (32.5, 2000.0), "of what is known of an attempt as a whole, the part within"
        await store.close()

    run(work)
