"""The store on a real disk: what is promised is there, and memory says what the rows say."""

from __future__ import annotations

import asyncio
import stat
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.builders import ANN, spec
from core.histories import ITEMS, barriers, happen, possible, specs
from runners.api import SETTLED, Code, JobState
from runners.errors import IllegalTransition, InvalidRequest, NotFound, Unavailable
from runners.spec import Barrier, Need
from runnersd import lifecycle
from runnersd.model import Booking, Drain, Reason
from runnersd.store import store as store_module
from runnersd.telemetry.summary import Summary
from simulation.storing import (
    BOB,
    ENVIRONMENT,
    OK,
    Asking,
    check,
    image,
    opened,
    queue,
    run,
    select,
    start,
    submission,
    succeed,
)

WHY = Reason(Code.CANCELLED_BY, "cancelled by ann")


def test_a_reopened_store_remembers_a_pipeline_as_it_was(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        assert store.snapshot.jobs == {} and store.events.last == 0
        jobs = [
            spec("a.load", num_gpus=2, gpu_model="*H100*", env={"A": "1"}, begin=50.5, time_limit=0.1),
            spec("a.fit", command=("python", "train.py"), needs=[Need("a.load", "finished")], cpus=1.5),
            spec("last", needs=["a"], mounts=("/data:/data:ro",), gpus=("0", "GPU-1"), priority=-7),
        ]
        ids = await queue(store, *jobs, num_jobs=3, barriers=(Barrier(0, 1),), items=("a",), umask=0o077)
        assert ids == [1, 2, 3]
        before, database = image(store), store.database
        await store.close()
        store = await opened(tmp_path)
        assert image(store) == before
        assert store.database == database and len(database) == 12
        assert store.snapshot.jobs[1].spec == jobs[0]
        assert dict(await store.environment(1)) == ENVIRONMENT
        await store.close()

    run(work)


# Every kind of event there is, on the way it comes about; the rows are compared after each.
STORIES: dict[str, list[lifecycle.Event]] = {
    "success": [
        lifecycle.Reserved(1, 1, ("GPU-0", "GPU-1")),
        lifecycle.Started(1, 1, 10.1),
        lifecycle.Succeeded(1, 1, OK, 0, 20.2),
    ],
    "failure and another attempt": [
        lifecycle.Reserved(1, 1, ("GPU-0",)),
        lifecycle.Started(1, 1, 10.0),
        lifecycle.Requeued(1, 1, Reason(Code.EXIT_CODE, "exited with code 3"), 3, 11.0, 16.0),
        lifecycle.Reserved(1, 2, ("GPU-1",)),
        lifecycle.Failed(1, 2, Reason(Code.LAUNCH_FAILED, "no such directory"), None, 17.0),
    ],
    "time limit": [
        lifecycle.Reserved(1, 1, ("GPU-0",)),
        lifecycle.Started(1, 1, 10.0),
        lifecycle.Stopping(1, 1, Reason(Code.TIME_LIMIT, "over its time limit"), 12.0),
        lifecycle.Stopping(1, 1, WHY, 13.0),
        lifecycle.TimedOut(1, 1, Reason(Code.TIME_LIMIT, "over its time limit"), 143, 14.0),
    ],
    "idle, busy, idle, stopped for that": [
        lifecycle.Reserved(1, 1, ("GPU-0",)),
        lifecycle.Started(1, 1, 10.0),
        lifecycle.Idled(1, 1, 12.5),
        lifecycle.Idled(1, 1, None),
        lifecycle.Idled(1, 1, 14.5),
        lifecycle.Stopping(1, 1, Reason(Code.IDLE, "its card did nothing for 3s"), 17.5),
        lifecycle.Cancelled(1, 1, Reason(Code.IDLE, "its card did nothing for 3s"), 143, 18.0),
    ],
    "hold, change, cancel": [
        lifecycle.Held(1, 0, Reason(Code.HELD, "held by ann")),
        lifecycle.Revised(1, 0, spec("renamed", priority=4, num_gpus=1), 77.7),
        lifecycle.Released(1, 0),
        lifecycle.Cancelled(1, 0, WHY, None, 9.0),
    ],
    "skipped": [lifecycle.Skipped(1, 0, Reason(Code.NEED_FAILED, "b (job 2) ended as failed"), None, 9.0)],
}


@pytest.mark.parametrize("story", STORIES)
def test_after_every_event_a_reopened_store_remembers_the_same(tmp_path: Path, story: str) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        await queue(store, spec("a", num_gpus=1), spec("b", needs=["a"]))
        for event in STORIES[story]:
            store.record(event, 5.0)
            await store.committed()
            before = image(store)
            await store.close()
            store = await opened(tmp_path)
            assert image(store) == before
            await check(store)
        await store.close()

    run(work)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_history_is_in_the_rows(data: st.DataObject) -> None:
    async def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            store, now = await opened(Path(folder)), 0.0
            known: list[int] = []
            for _ in range(data.draw(st.integers(1, 2))):
                jobs = data.draw(specs())
                after = tuple(data.draw(st.lists(st.sampled_from(known), max_size=2))) if known else ()
                held = data.draw(st.booleans())
                stops = data.draw(barriers(len(jobs)))
                known += await queue(store, *jobs, barriers=stops, items=ITEMS, after=after, hold=held)
            steps = st.lists(st.tuples(*[st.integers(0, 1000)] * 3, st.booleans()), max_size=25)
            for which, event, number, compare in data.draw(steps):
                now += 0.1
                store.snapshot.advance(now)
                unsettled = [job for job in store.snapshot.jobs.values() if not job.settled]
                if not unsettled:
                    break
                job = unsettled[which % len(unsettled)]
                kinds = possible(job, store.snapshot.ready(job))
                store.record(happen(job, kinds[event % len(kinds)], now, number), now)
                if compare:  # else the next changes share its transaction
                    await check(store)
            await store.committed()
            before = image(store)
            await store.close()
            store = await opened(Path(folder))
            assert image(store) == before
            await check(store)
            await store.close()

    run(work)


def test_a_promise_is_kept_by_one_commit_for_all_who_wait(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        ids = await queue(store, *[spec(f"j{n}") for n in range(500)])
        written = 0
        write = store._writer.write

        def counted(*args: object) -> None:
            nonlocal written
            written += 1
            write(*args)  # type: ignore[arg-type]

        store._writer.write = counted  # type: ignore[assignment,method-assign]

        async def one(id: int) -> None:
            start(store, id)
            await store.committed()

        await asyncio.gather(*map(one, ids))
        assert written < 10
        assert await select(store, "SELECT count(*) FROM job WHERE state = 'running'") == [(500,)]
        await store.close()

    run(work)


def test_nothing_to_wait_for_is_committed(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        await store.committed()
        await store.close()

    run(work)


def test_an_event_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        (id,) = await queue(store)
        before = image(store)
        with pytest.raises(IllegalTransition):
            store.record(lifecycle.Started(id, 0, 1.0), 1.0)
        with pytest.raises(NotFound):
            store.record(lifecycle.Started(99, 0, 1.0), 1.0)
        await store.committed()
        assert image(store) == before
        await check(store)
        await store.close()

    run(work)


def test_a_card_is_not_given_twice(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        shared = spec("s1", num_gpus=1, gpu_shared=True, gpu_memory=1 << 30)
        one, two, three, four = await queue(
            store, spec("a", num_gpus=1), spec("b", num_gpus=1), shared, replace(shared, name="s2")
        )
        store.record(lifecycle.Reserved(one, 1, ("GPU-0",)), 1.0)
        for other in (two, three):
            with pytest.raises(IllegalTransition, match="job 1 holds it"):
                store.record(lifecycle.Reserved(other, 1, ("GPU-1", "GPU-0")), 1.0)
        store.record(lifecycle.Reserved(three, 1, ("GPU-1",)), 1.0)
        store.record(lifecycle.Reserved(four, 1, ("GPU-1",)), 1.0)
        await check(store)
        assert await select(store, "SELECT gpu, job, exclusive, share FROM reservation ORDER BY job") == [
            ("GPU-0", one, 1, None),
            ("GPU-1", three, 0, 1 << 30),
            ("GPU-1", four, 0, 1 << 30),
        ]
        # The card passes on within one transaction.
        store.record(lifecycle.Failed(one, 1, WHY, 1, 2.0), 2.0)
        store.record(lifecycle.Reserved(two, 1, ("GPU-0",)), 2.0)
        await check(store)
        await store.close()

    run(work)


@pytest.mark.parametrize("shared", [(False, False), (True, False), (False, True)], ids=str)
def test_the_rows_refuse_a_double_booking_that_got_past_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: tuple[bool, bool]
) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        first, second = await queue(store, *[spec(f"j{n}", num_gpus=1, gpu_shared=one) for n, one in enumerate(shared)])
        store.record(lifecycle.Reserved(first, 1, ("GPU-0",)), 1.0)
        await store.committed()
        monkeypatch.setattr(store_module.Store, "_refuse_double_booking", lambda *_: None)
        store.record(lifecycle.Reserved(second, 1, ("GPU-0",)), 1.0)
        with pytest.raises(Unavailable):
            await store.committed()
        while not store.healthy:
            await asyncio.sleep(0.005)
        # Memory went back to what is true, and the engine is told to look again.
        assert store.generation == 1
        assert store.snapshot.jobs[second].state is JobState.QUEUED
        await check(store)
        await store.close()

    run(work)


def test_a_submission_sent_again_is_answered_with_what_the_first_made(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        two = [submission(spec("a"), spec("b")), submission(name="other")]
        first = await store.submit(two, ANN, "key", 1.0)
        assert [(pipeline.id, jobs) for pipeline, jobs in first] == [(1, [(1, "a"), (2, "b")]), (2, [(3, "job")])]
        assert await store.submit(two, ANN, "key", 2.0) == first
        for id in (1, 2, 3):
            start(store, id)
            succeed(store, id)
        assert await store.submit(two, ANN, "key", 3.0) == first
        await store.close()
        store = await opened(tmp_path)
        assert await store.submit(two, ANN, "key", 4.0) == first
        assert store.counts()["succeeded"] == 3 and store.counts()["queued"] == 0
        (theirs,) = await queue(store, user=BOB, key="key")
        assert theirs == 4
        await store.close()

    run(work)


def test_submissions_with_one_key_at_the_same_time_queue_once(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        answers = await asyncio.gather(*[store.submit([submission()], ANN, "key", 1.0) for _ in range(50)])
        assert all(answer == answers[0] for answer in answers)
        assert list(store.snapshot.jobs) == [1]
        impatient = asyncio.create_task(store.submit([submission()], ANN, "second", 1.0))
        patient = asyncio.create_task(store.submit([submission()], ANN, "second", 1.0))
        await asyncio.sleep(0)
        impatient.cancel()
        assert [jobs for _, jobs in await patient] == [[(2, "job")]]
        await check(store)
        await store.close()

    run(work)


def test_a_submitter_who_goes_away_leaves_a_whole_pipeline_or_none(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        task = asyncio.create_task(store.submit([submission(spec("a"), spec("b"))], ANN, None, 1.0))
        await asyncio.sleep(0)
        task.cancel()
        (last,) = await queue(store)
        assert last == 3 and len(store.snapshot.jobs) == 3
        await check(store)
        await store.close()

    run(work)


def test_jobs_that_are_being_submitted_count_as_queued(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        tasks = [asyncio.create_task(store.submit([submission(spec("a"), spec("b"))], ANN, None, 1.0)) for _ in "123"]
        await asyncio.sleep(0)
        assert store.queued_by(ANN.uid) == store.queued_by() == 6 and store.queued_by(BOB.uid) == 0
        await asyncio.gather(*tasks)
        assert store.queued_by(ANN.uid) == 6
        await store.close()

    run(work)


def test_a_dependency_that_ends_while_the_submission_is_written_is_heard_of(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        first, second, third = [(await queue(store))[0] for _ in "123"]
        for id in (first, second, third):
            start(store, id)
        succeed(store, first)
        tasks = [
            asyncio.create_task(queue(store, spec("b"), after=(first, second))),
            asyncio.create_task(queue(store, spec("c"), after=(third,))),
        ]
        while store.queued_by() < 2:
            await asyncio.sleep(0)
        succeed(store, second)
        store.record(lifecycle.Failed(third, 1, WHY, 1, 4.0), 4.0)
        (good,), (bad,) = await asyncio.gather(*tasks)
        assert store.snapshot.ready(store.snapshot.jobs[good])
        assert store.snapshot.doomed == {bad}
        await check(store)
        with pytest.raises(NotFound, match="cannot submit after job 77"):
            await queue(store, after=(first, 77))
        await store.close()

    run(work)


def test_any_text_comes_back_as_it_was(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        odd = "caf\u00e9 \U0001f600 \udcff \x00 ' \" \\"
        user = replace(ANN, user=odd)
        await queue(
            store, spec(odd, command=odd, env={odd: odd}), name=odd, cwd=odd, env={odd: odd}, user=user, key=odd
        )
        store.record(lifecycle.Reserved(1, 1, (odd,)), 1.0)
        store.record(lifecycle.Failed(1, 1, Reason(Code.LAUNCH_FAILED, odd), 1, 2.0), 2.0)
        store.drain("GPU-0", Drain(odd, odd, 5.0))
        store.pause(odd)
        store.announce("gpu.drained", {"name": odd})
        await store.committed()
        before = image(store)
        assert [job.id for job in await store.jobs(user=odd)] == [1]
        assert [job.id for job in await store.jobs(name=odd)] == [1]
        assert dict(await store.environment(1)) == {odd: odd}
        assert [event.data["name"] for event in await store.archive.events_after(3, 9)] == [odd]
        await store.close()
        store = await opened(tmp_path)
        assert image(store) == before
        assert (await store.job(1)).spec.command == odd
        await store.close()

    run(work)


def test_a_submission_that_no_row_can_hold_fails_alone(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        good = asyncio.create_task(queue(store))
        bad = asyncio.create_task(queue(store, env={"A": object()}))
        also = asyncio.create_task(queue(store))
        with pytest.raises(InvalidRequest, match="cannot store the submission"):
            await bad
        assert [await good, await also] == [[1], [3]]
        assert store.healthy
        assert [event.job for event in await store.archive.events_after(0, 9)] == [1, 3]
        await check(store)
        await store.close()

    run(work)


def test_drains_and_the_pause_outlive_the_daemon(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        store.drain("GPU-0", Drain("fan broken", "root", 5.0))
        store.drain("GPU-1", Drain())
        store.pause("maintenance")
        await store.close()
        store = await opened(tmp_path)
        drains = {"GPU-0": Drain("fan broken", "root", 5.0), "GPU-1": Drain()}
        assert dict(store.drained) == drains and store.paused == "maintenance"
        store.drain("GPU-0", None)
        store.pause(None)
        await store.committed()
        await check(store)
        await store.close()
        store = await opened(tmp_path)
        assert dict(store.drained) == {"GPU-1": Drain()} and store.paused is None
        await store.close()

    run(work)


def test_bookings_outlive_the_daemon_and_are_forgotten_with_the_pipelines_of_their_time(tmp_path: Path) -> None:
    def booking(start: float, end: float) -> Booking:
        return Booking(0, 1000, "ann\udc80", ("GPU-0", "GPU-1"), start, end, 5.0, "d\u00e9mo")

    async def work() -> None:
        store = await opened(tmp_path)
        first, second, third = (store.book(booking(*times)) for times in ((100.0, 200.0), (50.0, 60.0), (300.0, 400.0)))
        assert [one.id for one in (first, second, third)] == [1, 2, 3]
        await store.committed()
        await check(store)
        store.unbook(3)
        await store.close()
        store = await opened(tmp_path)
        assert store.bookings(55.0) == (second, first), "by when they begin"
        assert store.bookings(60.0) == (first,)
        assert store.book(booking(300.0, 400.0)).id == 4, "no id is given twice"
        await store.prune(60.0)
        assert await select(store, "SELECT id FROM booking ORDER BY id") == [(1,), (2,), (4,)]
        await store.prune(61.0)
        assert await select(store, "SELECT id FROM booking ORDER BY id") == [(1,), (4,)]
        await check(store)
        await store.close()

    run(work)


def test_attempts_and_events_of_a_job_are_told(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        (id,) = await queue(store, spec(num_gpus=1, retries=1))
        start(store, id, "GPU-3", "GPU-1", at=10.0)
        store.summarize(id, 1, (seen := Summary()).to_json())
        store.record(
            lifecycle.Requeued(id, 1, Reason(Code.EXIT_CODE, "exited with code 3"), 3, 20.0, 25.0, 7 << 20), 20.5
        )
        store.record(lifecycle.Reserved(id, 2, ("GPU-0",)), 30.0)
        assert await store.archive.attempts(id) == [
            {
                "attempt": 1, "state": "failed", "reason": {"code": "exit_code", "text": "exited with code 3"},
                "exit_code": 3, "gpus": ["GPU-3", "GPU-1"], "started_at": 10.25, "finished_at": 20.0,
                "peak_memory": 7 << 20, "contaminated": [], "telemetry": seen.to_json(),
            },
            {
                "attempt": 2, "state": "starting", "reason": {"code": "launching", "text": "being launched"},
                "exit_code": None, "gpus": ["GPU-0"], "started_at": None, "finished_at": None,
                "peak_memory": None, "contaminated": [], "telemetry": None,
            },
        ]  # fmt: skip
        assert await select(store, "SELECT reserved_at FROM attempt ORDER BY attempt") == [(10.0,), (30.0,)]
        store.record(lifecycle.Stopping(id, 2, WHY, 31.0), 31.0)
        store.record(lifecycle.Cancelled(id, 2, WHY, 143, 32.0), 32.0)
        last = (await store.archive.attempts(id))[-1]
        assert (last["state"], last["exit_code"], last["gpus"], last["finished_at"]) == (
            "cancelled",
            143,
            ["GPU-0"],
            32,
        )
        assert await select(store, "SELECT reserved_at FROM attempt ORDER BY attempt") == [(10.0,), (30.0,)]
        assert [event["type"] for event in await store.archive.events_of(id)] == [
            "job.queued", "job.starting", "job.running", "job.queued", "job.starting", "job.stopping", "job.cancelled",
        ]  # fmt: skip
        assert await store.archive.attempts(99) == [] and await store.archive.events_of(99) == []
        await store.close()

    run(work)


def test_a_job_cancelled_while_it_waits_for_its_retry_leaves_the_failed_attempt_alone(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        (id,) = await queue(store, spec(retries=1))
        start(store, id)
        store.record(lifecycle.Requeued(id, 1, Reason(Code.EXIT_CODE, "exited with code 3"), 3, 20.0, 25.0), 20.0)
        store.record(lifecycle.Cancelled(id, 1, WHY, None, 21.0), 21.0)
        (only,) = await store.archive.attempts(id)
        assert (only["state"], only["exit_code"]) == ("failed", 3)
        await store.close()

    run(work)


def test_those_who_listen_hear_what_is_read_back_later(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        listener = store.events.subscribe()
        waiting, other = await queue(store, spec("a", num_gpus=1), spec("b", begin=1e12))
        start(store, waiting, "GPU-0")
        store.announce("gpu.reserved", {"uuid": "GPU-0"})
        store.record(lifecycle.Held(other, 0, Reason(Code.HELD, "held by ann")), 5.0)
        succeed(store, waiting)
        await store.committed()
        heard = [await anext(listener) for _ in range(7)]
        assert [record.id for record in heard] == list(range(1, 8))
        assert store.events.last == 7
        assert [(record.type, record.job, record.uid) for record in heard] == [
            ("job.queued", 1, 1000), ("job.queued", 2, 1000), ("job.starting", 1, 1000), ("job.running", 1, 1000),
            ("gpu.reserved", None, None), ("job.held", 2, 1000), ("job.succeeded", 1, 1000),
        ]  # fmt: skip
        assert heard[3].data["gpus"] == ["GPU-0"] and heard[3].data["state"] == "running"
        assert await store.archive.events_after(0, 100) == heard
        assert await store.archive.events_after(2, 3) == heard[2:5]
        await store.close()
        with pytest.raises(StopAsyncIteration):
            await anext(listener)
        store = await opened(tmp_path)
        assert await store.archive.events_after(0, 100) == heard
        start_over = store.events.subscribe()
        (third,) = await queue(store)
        assert (await anext(start_over)).id == 8 and third == 3
        start_over.close()
        start_over.close()
        await store.close()

    run(work)


def test_a_listener_that_falls_behind_is_dropped_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runnersd.store.feed.MOST", 10)

    async def work() -> None:
        store = await opened(tmp_path)
        slow, quick = store.events.subscribe(), store.events.subscribe()
        for _ in range(11):
            await queue(store)
            await anext(quick)
        assert slow.lagged and not quick.lagged
        with pytest.raises(StopAsyncIteration):
            await anext(slow)
        await store.close()

    run(work)


def test_jobs_are_found_by_what_is_asked_for_page_by_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runnersd.store.reading.STRIDE", 7)

    async def work() -> None:
        store = await opened(tmp_path)
        for number in range(12):
            user = BOB if number % 3 == 0 else ANN
            ids = await queue(store, spec(f"a[n={number}]"), spec("b"), user=user)
            if number % 2:
                start(store, ids[0], f"GPU-{number}")
            if number % 4 == 1:
                succeed(store, ids[0])
                start(store, ids[1])
                succeed(store, ids[1])
        everything = [await store.job(id) for id in range(1, 25)]
        for keys, fits in (
            ({}, lambda job: True),
            ({"states": [JobState.RUNNING]}, lambda job: job.state is JobState.RUNNING),
            ({"states": SETTLED}, lambda job: job.settled),
            ({"user": "bob"}, lambda job: job.pipeline.submitter == BOB),
            ({"user": 1000, "name": "a"}, lambda job: job.pipeline.submitter == ANN and job.spec.base_name == "a"),
            ({"name": "a[n=3]"}, lambda job: job.spec.name == "a[n=3]"),
            ({"pipeline": 5}, lambda job: job.pipeline.id == 5),
            ({"pipeline": 99}, lambda job: False),
        ):
            wanted = [job for job in everything if fits(job)]  # type: ignore[no-untyped-call]
            assert await store.jobs(**keys, newest_first=False) == wanted  # type: ignore[arg-type]
            assert await store.jobs(**keys) == wanted[::-1]  # type: ignore[arg-type]
            found, after = [], None
            while page := await store.jobs(**keys, limit=3, after=after):  # type: ignore[arg-type]
                found, after = found + page, page[-1].id
            assert found == wanted[::-1]
        pipeline, jobs = await store.pipeline(2)
        assert (pipeline.id, jobs) == (2, everything[2:4])
        assert await store.pipeline(2) == (jobs[0].pipeline, jobs)
        await store.close()

    run(work)


def test_what_does_not_exist_is_not_found(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        for missing in (store.job(1), store.pipeline(1), store.environment(1)):
            with pytest.raises(NotFound):
                await missing
        assert await store.jobs() == [] and await store.archive.events_after(0, 10) == []
        await store.close()

    run(work)


def test_a_closed_store_takes_nothing_in(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        (id,) = await queue(store)
        start(store, id)
        await store.close()
        with pytest.raises(Unavailable, match="stopping"):
            succeed(store, id)
        store = await opened(tmp_path)
        assert store.snapshot.jobs[id].state is JobState.RUNNING
        await store.close()

    run(work)


def test_the_database_is_its_owners_alone(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path / "new" / "state")
        await queue(store)
        files = list((tmp_path / "new" / "state").iterdir())
        assert {file.name for file in files} == {"runnersd.db", "runnersd.db-wal"}
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        await store.close()

    run(work)


def test_old_pipelines_are_forgotten_and_their_ids_never_given_again(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        # 1 and 2 end early, 3 late, 4 not at all; 5 still asks about the job of 2.
        ids = [(await queue(store, spec("a"), spec("b")))[0] for _ in range(4)]
        for id, at in zip(ids, (10.0, 20.0, 5000.0), strict=False):
            for one in (id, id + 1):
                start(store, one, at=at)
                store.summarize(one, 1, Summary().to_json())
                succeed(store, one, at=at)
        await queue(store, spec("c", begin=1e12), spec("d"), after=(3,), num_jobs=1)
        store.announce("gpu.free", {"uuid": "GPU-0"})
        await store.committed()
        assert await store.prune(1000.0) == [(1, 1), (2, 1)]
        assert await store.prune(1000.0) == []
        with pytest.raises(NotFound):
            await store.job(1)
        assert [job.id for job in await store.jobs()] == [10, 9, 8, 7, 6, 5, 4, 3]
        assert store.counts()["succeeded"] == 4 and [job.id for job in store.recent] == [6, 5, 4, 3]
        assert await select(store, "SELECT count(*) FROM event WHERE job <= 2") == [(0,)]
        assert await select(store, "SELECT count(*) FROM environment") == [(4,)]
        assert await select(store, "SELECT job FROM telemetry ORDER BY job") == [(3,), (4,), (5,), (6,)]
        await check(store)
        for id in (7, 8, 9, 10):
            if id == 9:
                store.record(lifecycle.Cancelled(9, 0, WHY, None, 30.0), 30.0)
                continue
            start(store, id, at=30.0)
            succeed(store, id, at=30.0)
        await store.committed()
        last = store.events.last
        assert len(await store.prune(1e9)) == 7
        await store.close()
        store = await opened(tmp_path)
        assert await store.jobs() == [] and store.recent == store.recent.__class__()
        assert store.events.last == last
        (accepted,) = await store.submit([submission()], ANN, None, 1.0)
        assert accepted[0].id == 6 and accepted[1] == [(11, "job")]
        await store.close()

    run(work)


def test_the_attempts_that_a_restart_interrupted_are_known_to_every_later_daemon(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path, boot="first")
        over, live, waiting = await queue(store, spec("a"), spec("b"), spec("c"))
        start(store, over)
        start(store, live)
        succeed(store, over)
        assert store.interrupted == frozenset()
        await store.close()
        store = await opened(tmp_path, boot="first")
        assert store.interrupted == frozenset()
        await store.close()
        store = await opened(tmp_path, boot="second")
        assert store.interrupted == {(live, 1)}
        start(store, waiting)
        await store.close()
        store = await opened(tmp_path, boot="second")  # what has begun since was not interrupted
        assert store.interrupted == {(live, 1)}
        succeed(store, live)
        await store.close()
        store = await opened(tmp_path)
        assert store.interrupted == {(live, 1)}
        await store.close()
        store = await opened(tmp_path, boot="third")
        assert store.interrupted == {(waiting, 1)}
        await store.close()

    run(work)


def test_the_last_ends_are_at_hand_newest_first(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        ids = await queue(store, *[spec(f"j{n}") for n in range(15)])
        for id in reversed(ids):
            start(store, id)
            succeed(store, id)
        assert [job.id for job in store.recent] == list(range(1, 11))
        assert store.snapshot.jobs == {}
        await store.close()
        store = await opened(tmp_path)
        assert [job.id for job in store.recent] == list(range(1, 11))
        await store.close()

    run(work)


# -- what is to be told ------------------------------------------------------------------------------------------------


def test_what_is_to_be_told_is_kept_with_its_event_until_it_is_told(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        store.events.outbox = asking = Asking("job.succeeded")
        first, second = await queue(store, spec("a"), spec("b"))
        start(store, first)
        succeed(store, first)
        assert asking.on_disk == []  # nothing is told that could still be taken back
        await store.committed()
        [notice] = asking.on_disk
        assert notice.facts == {"job": first} and notice.event == store.events.last
        await store.close()

        store = await opened(tmp_path)
        assert list(store.undelivered) == [notice]
        store.events.outbox = Asking("job.succeeded")
        start(store, second)
        succeed(store, second)
        store.told(store.undelivered)
        await store.committed()
        await store.close()

        store = await opened(tmp_path)
        assert [one.facts for one in store.undelivered] == [{"job": second}]
        await store.close()

    run(work)


def test_idle_and_busy_are_events_of_their_own(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        [id] = await queue(store, spec("a", num_gpus=1))
        start(store, id, "GPU-0")
        store.record(lifecycle.Idled(id, 1, 250.0), 310.0)
        store.record(lifecycle.Idled(id, 1, None), 320.0)
        types = [event["type"] for event in await store.archive.events_of(id)]
        assert types[-3:] == ["job.running", "job.idle", "job.busy"]
        idle, busy = (await store.archive.events_after(0, 100))[-2:]
        assert idle.data["idle_since"] == 250.0 and "idle_since" not in busy.data
        assert idle.data["state"] == "running"
        await store.close()

    run(work)
