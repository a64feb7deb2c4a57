"""Who else was on a job's cards, and when: noted in the rows, seldom, and over restarts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from core.builders import GIB, gpu, spec
from runnersd.engine.intruders import EVERY, GONE_AFTER, Intruders
from runnersd.model import ForeignPolicy, GpuProcess, Inventory
from runnersd.planner import World
from runnersd.store import Store
from serving import Served, served_test
from simulation.storing import opened, queue, run, select, start, succeed
from simulation.test_foreign import SHARING

OURS = GpuProcess(10, "compute", GIB, "python", 1000, (9,))
BOB = GpuProcess(4242, "compute", 2 * GIB, "train", 1001, user="bob")
NOW = 1_000.0


def world_of(store: Store, *processes: GpuProcess, **facts: Any) -> World:
    """Job 1, on a card with these processes."""
    given: dict[str, Any] = {"supervisors": {1: 9}, "foreign": ForeignPolicy(share=True), **facts}
    return World(store.snapshot, Inventory((gpu(0, processes=processes),)), **given)


async def on_a_card(path: Path, *, shared: bool = False) -> Store:
    """A store in which job 1 runs on the card."""
    store = await opened(path)
    await queue(store, spec("one", num_gpus=1, gpu_shared=shared, gpu_memory=GIB if shared else None))
    start(store, 1, "GPU-0")
    return store


async def noted(store: Store) -> list[tuple[int, float, float]]:
    """Pid, since and until of every row."""
    return await select(store, "SELECT pid, since, until FROM intrusion ORDER BY since, pid")


async def events(store: Store) -> int:
    """How many events say that the job was contaminated."""
    return sum(event["type"] == "job.contaminated" for event in await store.archive.events_of(1))


def test_an_intruder_is_noted_when_it_comes_seldom_while_it_stays_and_when_it_goes(tmp_path: Path) -> None:
    async def work() -> None:
        store, seconds = await on_a_card(tmp_path), 0.0
        intruders = Intruders(store)
        intruders.see(world_of(store, OURS), NOW)
        assert await noted(store) == []
        while seconds < EVERY - 1:
            seconds += 1
            intruders.see(world_of(store, OURS, BOB), NOW + seconds)
            assert await noted(store) == [(4242, NOW + 1, NOW + 1)]
        for seconds in (EVERY + 1, EVERY + 2):
            intruders.see(world_of(store, replace(BOB, memory=3 * GIB), OURS), NOW + seconds)
        assert await noted(store) == [(4242, NOW + 1, NOW + EVERY + 1)]
        last = seconds
        intruders.see(world_of(store, OURS), NOW + last + GONE_AFTER - 1)
        assert await noted(store) == [(4242, NOW + 1, NOW + EVERY + 1)]
        intruders.see(world_of(store, OURS), NOW + last + GONE_AFTER)
        assert await noted(store) == [(4242, NOW + 1, NOW + last)]
        assert await events(store) == 1
        # The same again is another stay, and no news.
        intruders.see(world_of(store, BOB), NOW + 200)
        assert (await noted(store))[1:] == [(4242, NOW + 200, NOW + 200)]
        assert await events(store) == 1
        (attempt,) = await store.archive.attempts(1)
        assert attempt["contaminated"][0] == {
            "gpu": "GPU-0", "pid": 4242, "user": "bob", "uid": 1001, "program": "train", "memory": 3 * GIB,
            "since": NOW + 1, "until": NOW + last,
        }  # fmt: skip
        await store.close()

    run(work)


def test_of_a_live_attempt_it_is_told_what_was_seen_last_though_nothing_new_is_noted(tmp_path: Path) -> None:
    async def work() -> None:
        store = await on_a_card(tmp_path)
        intruders = Intruders(store)
        for seconds in range(5):
            intruders.see(world_of(store, replace(BOB, memory=(2 + seconds) * GIB)), NOW + seconds)
        assert await noted(store) == [(4242, NOW, NOW)]
        attempts = await store.archive.attempts(1)
        intruders.tell(2, attempts)
        assert attempts[0]["contaminated"][0]["until"] == NOW, "another job's"
        intruders.tell(1, attempts)
        (other,) = attempts[0]["contaminated"]
        assert (other["since"], other["until"], other["memory"]) == (NOW, NOW + 4, 6 * GIB)
        succeed(store, 1, NOW + 5)
        intruders.see(world_of(store, BOB), NOW + 5)
        (attempt,) = await store.archive.attempts(1)
        assert attempt["contaminated"] == [other]
        await store.close()

    run(work)


def test_the_end_of_the_attempt_is_the_end_of_the_note(tmp_path: Path) -> None:
    async def work() -> None:
        store = await on_a_card(tmp_path)
        intruders = Intruders(store)
        for seconds in range(5):
            intruders.see(world_of(store, BOB), NOW + seconds)
        succeed(store, 1, NOW + 5)
        for seconds in (5, 6):
            intruders.see(world_of(store, BOB), NOW + seconds)
        assert await noted(store) == [(4242, NOW, NOW + 4)]
        await store.close()

    run(work)


def test_a_pid_that_comes_again_as_another_program_is_somebody_else(tmp_path: Path) -> None:
    async def work() -> None:
        store = await on_a_card(tmp_path)
        intruders = Intruders(store)
        intruders.see(world_of(store, BOB), NOW)
        intruders.see(world_of(store, BOB), NOW + 1)
        intruders.see(world_of(store, replace(BOB, name="eval")), NOW + 2)
        assert await noted(store) == [(4242, NOW, NOW + 1), (4242, NOW + 2, NOW + 2)]
        assert await events(store) == 2
        await store.close()

    run(work)


def test_nothing_is_said_of_a_card_while_a_supervisor_is_not_known_or_the_driver_is_silent(tmp_path: Path) -> None:
    async def work() -> None:
        store = await on_a_card(tmp_path)
        intruders = Intruders(store)
        intruders.see(world_of(store, OURS, BOB, supervisors={}), NOW)
        stale = world_of(store, BOB)
        intruders.see(replace(stale, inventory=replace(stale.inventory, stale=True)), NOW)
        assert await noted(store) == []
        intruders.see(world_of(store, OURS, BOB), NOW + 1)
        # One that is there is not taken to have gone, for all the time that nobody can tell.
        intruders.see(world_of(store, supervisors={}), NOW + 100)
        intruders.see(world_of(store, BOB), NOW + 101)
        assert await noted(store) == [(4242, NOW + 1, NOW + 101)]
        await store.close()

    run(work)


def test_a_restarted_daemon_goes_on_with_whoever_is_still_there(tmp_path: Path) -> None:
    async def work() -> None:
        store = await on_a_card(tmp_path)
        other = replace(BOB, pid=4243)
        Intruders(store).see(world_of(store, BOB, other), NOW)
        await store.close()
        store = await opened(tmp_path)
        assert [one.pid for one in store.intrusions] == [4242, 4243]
        intruders = Intruders(store)
        intruders.see(world_of(store, supervisors={}), NOW + 50)
        intruders.see(world_of(store, BOB), NOW + 120)
        assert await noted(store) == [(4242, NOW, NOW + 120), (4243, NOW, NOW)]
        assert await events(store) == 2
        succeed(store, 1, NOW + 130)
        await store.close()
        store = await opened(tmp_path)
        assert list(store.intrusions) == []
        await store.close()

    run(work)


def test_everyone_on_a_shared_card_is_told_of_who_was_there_before(tmp_path: Path) -> None:
    async def work() -> None:
        store = await on_a_card(tmp_path, shared=True)
        await queue(store, spec("two", num_gpus=1, gpu_shared=True, gpu_memory=GIB))
        start(store, 2, "GPU-0")
        beside = GpuProcess(11, "compute", GIB, "python", 1000, (8,))
        Intruders(store).see(world_of(store, BOB, OURS, beside, supervisors={1: 9, 2: 8}), NOW)
        assert await select(store, "SELECT job, pid FROM intrusion ORDER BY job") == [(1, 4242), (2, 4242)]
        await store.close()

    run(work)


def test_an_intrusion_on_an_attempt_that_has_no_row_does_not_fail_the_others(tmp_path: Path) -> None:
    async def work() -> None:
        store = await on_a_card(tmp_path)
        Intruders(store).see(world_of(store, BOB), NOW)
        (one,) = store._journal.batch().intrusions.values()
        store.intrude(replace(one, attempt=7), NOW, news=False)
        await store.committed()
        assert await select(store, "SELECT attempt FROM intrusion") == [(1,)]
        await store.close()

    run(work)


def test_intrusions_are_forgotten_with_their_job(tmp_path: Path) -> None:
    async def work() -> None:
        store = await on_a_card(tmp_path)
        Intruders(store).see(world_of(store, BOB), NOW)
        succeed(store, 1, NOW)
        await store.committed()
        assert await store.prune(NOW + 1) == [(1, 1)]
        assert await noted(store) == []
        await store.close()

    run(work)


@served_test(SHARING, gpus=1)
async def test_a_contaminated_job_says_so_and_tells_it_to_who_follows(daemon: Served) -> None:
    (job, clean) = await daemon.submit("serve", "true", job={"num_gpus": 1})
    await daemon.until_state(job, "running")
    (uuid,) = daemon.machine.gpus
    daemon.machine.gpus[uuid] = replace(daemon.machine.gpus[uuid], processes=(replace(BOB, uid=0),))

    async def contaminated() -> Any:
        return (await daemon.ask("GET", f"/v1/jobs/{job}")).json["contaminated"]

    while not await contaminated():
        await daemon.engine._loop.look()
    shown = (await daemon.ask("GET", f"/v1/jobs/{job}")).json
    (other,) = shown["attempts"][0]["contaminated"]
    assert (other["gpu"], other["pid"], other["user"], other["program"]) == (uuid, 4242, "root", "train")
    assert [event["type"] for event in shown["events"]].count("job.contaminated") == 1
    await daemon.until(lambda: daemon.engine.clock() > other["since"])
    now = daemon.engine.clock()
    await daemon.engine._loop.look()
    (other,) = (await daemon.ask("GET", f"/v1/jobs/{job}")).json["attempts"][0]["contaminated"]
    assert other["since"] < now <= other["until"]
    daemon.machine.gpus[uuid] = replace(daemon.machine.gpus[uuid], processes=())
    daemon.machine.finish(daemon.run(job))
    await daemon.until_state(clean, "succeeded")
    assert (await daemon.ask("GET", f"/v1/jobs/{clean}")).json["contaminated"] is False
    assert await contaminated() is True
