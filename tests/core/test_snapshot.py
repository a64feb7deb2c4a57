"""The snapshot's indexes say, after any history, what counting from scratch says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from core.builders import ANN, Queue, spec
from core.histories import ITEMS, barriers, happen, possible, specs
from runners.api import WAITING, Code, JobState
from runners.spec import groups
from runnersd import lifecycle
from runnersd.lines import line_of
from runnersd.model import Job, Pipeline, Reason
from runnersd.snapshot import Snapshot, key_of

OK = Reason(Code.OK, "")


class Ledger:
    """Every job that ever was, and what follows from the jobs alone."""

    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}
        self.names: dict[int, list[str]] = {}

    def take_in(self, queue: Queue, ids: list[int]) -> None:
        self.jobs |= {id: queue.snapshot.jobs[id] for id in ids}
        self.names[self.jobs[ids[0]].pipeline.id] = [self.jobs[id].spec.name for id in ids]

    def of(self, pipeline: Pipeline) -> list[Job]:
        return [job for job in self.jobs.values() if job.pipeline.id == pipeline.id]

    def _blockers(self, job: Job) -> list[tuple[list[Job], str]]:
        """What the job waits for: jobs, and whether their success or only their end."""
        mine = self.of(job.pipeline)
        named = groups(self.names[job.pipeline.id], job.pipeline.items)
        found: list[tuple[list[Job], str]] = [([self.jobs[id] for id in job.pipeline.after], "success")]
        for barrier in job.pipeline.barriers:
            if barrier.last < job.position:
                found.append((mine[barrier.first : barrier.last + 1], barrier.on))
        for need in job.spec.needs:
            positions = range(job.position) if need.job == "all" else named.get(need.job, [])
            found.append(([mine[position] for position in positions], need.on))
        return found

    def open(self, job: Job) -> bool:
        return all(
            one.tolerated if on == "success" else one.settled for jobs, on in self._blockers(job) for one in jobs
        )

    def doomed(self, job: Job) -> bool:
        return job.state in WAITING and any(
            one.settled and not one.tolerated for jobs, on in self._blockers(job) if on == "success" for one in jobs
        )

    def indexes(self, now: float) -> dict[str, Any]:
        """What the snapshot should show at ``now``."""
        unsettled = {job.pipeline.id for job in self.jobs.values() if not job.settled}
        jobs = {id: job for id, job in self.jobs.items() if job.pipeline.id in unsettled}
        live = {id: job for id, job in jobs.items() if job.live}
        ready = [
            job
            for job in jobs.values()
            if job.state is JobState.QUEUED and self.open(job) and (job.not_before is None or job.not_before <= now)
        ]
        heads: dict[Any, Any] = {}
        for pipeline in unsettled:
            mine = [job for job in ready if job.pipeline.id == pipeline]
            running = sum(job.pipeline.id == pipeline for job in live.values())
            if not mine or running >= mine[0].pipeline.num_jobs:
                continue
            for line in {line_of(job) for job in mine}:
                first = min(job.id for job in mine if line_of(job) == line)
                heads.setdefault(line, []).append((first, pipeline))
        return {
            "jobs": jobs,
            "pipelines": unsettled,
            "live": live,
            "holders": _by_card(live),
            "waiting": sorted(key_of(job) for job in jobs.values() if job.state in WAITING),
            "doomed": {id for id, job in jobs.items() if self.doomed(job)},
            "ready": {job.id for job in ready},
            "heads": {line: sorted(found) for line, found in heads.items()},
        }


def _by_card(live: Mapping[int, Job]) -> dict[str, dict[int, Job]]:
    held: dict[str, dict[int, Job]] = {}
    for id, job in live.items():
        for gpu in job.gpus:
            held.setdefault(gpu, {})[id] = job
    return held


def shown(snapshot: Snapshot) -> dict[str, Any]:
    """What the snapshot does show."""
    return {
        "jobs": snapshot.jobs,
        "pipelines": set(snapshot.progress),
        "live": snapshot.live,
        "holders": snapshot.holders,
        "waiting": snapshot.waiting,
        "doomed": snapshot.doomed,
        "ready": {id for id, job in snapshot.jobs.items() if snapshot.ready(job)},
        "heads": snapshot.lines.heads,
    }


def rebuilt(ledger: Ledger, snapshot: Snapshot, now: float) -> Snapshot:
    """The snapshot made anew from the jobs, as after a restart."""
    fresh = Snapshot()
    for id in sorted(snapshot.progress):
        pipeline = snapshot.progress[id].pipeline
        settled = [ledger.jobs[one] for one in pipeline.after if ledger.jobs[one].settled]
        fresh.add(pipeline, ledger.of(pipeline), settled, ledger.names[id])
    fresh.advance(now)
    return fresh


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_any_history_leaves_the_indexes_as_counting_from_scratch_would(data: st.DataObject) -> None:
    queue, ledger, now = Queue(), Ledger(), 0.0
    for _ in range(data.draw(st.integers(1, 3), "pipelines")):
        jobs = data.draw(specs())
        after = data.draw(st.lists(st.sampled_from(sorted(ledger.jobs)), max_size=2)) if ledger.jobs else []
        ids = queue.add(
            *jobs,
            num_jobs=data.draw(st.integers(1, 3)),
            barriers=data.draw(barriers(len(jobs))),
            items=ITEMS,
            after=after,
        )
        ledger.take_in(queue, ids)
    # Each step: which job, which of the events it can take, what that says, and how the clock moves.
    steps = data.draw(st.lists(st.tuples(*[st.integers(0, 1000)] * 3, st.sampled_from([0, 0, 1, 10])), max_size=40))
    for which, event, number, later in steps:
        now += later
        queue.snapshot.advance(now)
        assert shown(queue.snapshot) == ledger.indexes(now)
        unsettled = [job for job in queue.snapshot.jobs.values() if not job.settled]
        if not unsettled:
            break
        job = unsettled[which % len(unsettled)]
        kinds = possible(job, queue.snapshot.ready(job))
        moved = queue.take(happen(job, kinds[event % len(kinds)], now, number))
        ledger.jobs[moved.id] = moved
    queue.snapshot.advance(now)
    assert shown(queue.snapshot) == ledger.indexes(now)
    assert shown(rebuilt(ledger, queue.snapshot, now)) == ledger.indexes(now)
    for job in queue.snapshot.jobs.values():
        told = queue.snapshot.progress[job.pipeline.id].why(job.position)
        if job.state in WAITING and job.id not in queue.snapshot.doomed:
            assert (told is None) == ledger.open(job)
        if job.id in queue.snapshot.doomed:
            assert queue.snapshot.progress[job.pipeline.id].failed_need(job).code is Code.NEED_FAILED
    for job in queue.snapshot.jobs.values():
        if job.state is JobState.QUEUED and ledger.open(job) and job.not_before is not None and job.not_before > now:
            assert queue.snapshot.next_timer is not None and queue.snapshot.next_timer <= job.not_before


def test_a_pipeline_at_its_limit_shows_no_head_and_one_below_it_shows_one_a_shape() -> None:
    queue = Queue()
    one, two, three = queue.add(spec("a"), spec("b", num_gpus=1), spec("c"), num_jobs=1)
    lines = queue.snapshot.lines
    assert {line.shape.num_gpus: heads[0][0] for line, heads in lines.heads.items()} == {0: one, 1: two}
    queue.take(lifecycle.Reserved(one, 1))
    assert lines.heads == {}
    queue.take(lifecycle.Succeeded(one, 1, OK, 0, 1.0))
    assert {line.shape.num_gpus: heads[0][0] for line, heads in lines.heads.items()} == {0: three, 1: two}


def test_a_finished_pipeline_leaves_nothing_behind() -> None:
    queue = Queue()
    first, second = queue.add(spec("a", num_gpus=1), spec("b", needs=["a"], begin=50.0))
    (third,) = queue.add(spec("c"), after=[second])
    queue.snapshot.advance(0.0)
    for id, gpus in ((first, ("GPU-0",)), (second, ()), (third, ())):
        queue.snapshot.advance(100.0)
        queue.take(lifecycle.Reserved(id, 1, gpus))
        queue.take(lifecycle.Succeeded(id, 1, OK, 0, 1.0))
    snapshot = queue.snapshot
    known = {
        "_measures",
        "experience",
        "usage",
        "submitters",
        "lines",
        "wide_start",
        "came_since",
    }  # what is known of users stays
    assert {name: value for name, value in vars(snapshot).items() if value and name not in known} == {}
    given = {"measures", "_jobs", "_experience"}
    assert {name: value for name, value in vars(snapshot.lines).items() if value and name not in given} == {}


def test_a_pipeline_after_a_failed_job_never_opens_not_even_when_its_jobs_are_held_and_released() -> None:
    queue = Queue()
    (first,) = queue.add(spec("a"))
    (second,) = queue.add(spec("b"), after=[first])
    queue.take(lifecycle.Reserved(first, 1))
    queue.take(lifecycle.Failed(first, 1, Reason(Code.EXIT_CODE, ""), 1, 1.0))
    queue.take(lifecycle.Held(second, 0, Reason(Code.HELD, "")))
    released = queue.take(lifecycle.Released(second, 0))
    assert not queue.snapshot.ready(released)
    assert queue.snapshot.doomed == {second}


def test_needs_go_by_the_names_that_jobs_were_submitted_under() -> None:
    pipeline = Pipeline(1, "p", ANN, "/", 0o22, 10, 0.0, 2)
    first, second = Job(1, pipeline, 0, spec("renamed")), Job(2, pipeline, 1, spec("b", needs=["a"]))
    snapshot = Snapshot()
    snapshot.add(pipeline, [first, second], (), ["a", "b"])
    assert snapshot.ready(first) and not snapshot.ready(second)


def test_a_late_job_of_higher_priority_stands_before_a_long_queue() -> None:
    queue = Queue()
    queue.add(*[spec(f"low{n}", priority=-1) for n in range(500)])
    (id,) = queue.add(spec("late"))
    assert [job.id for job in queue.snapshot.in_order()] == [id, *range(1, 501)]


def test_what_started_before_the_last_job_for_several_cards_did_not_start_since_then() -> None:
    queue = Queue()
    early, wide, late = queue.add(spec("a", num_gpus=1), spec("b", num_gpus=2), spec("c", num_gpus=1), at=5.0)
    for number, id in enumerate((early, wide)):
        queue.take(lifecycle.Reserved(id, 1))
        queue.take(lifecycle.Started(id, 1, 10.0 + number))
    queue.take(lifecycle.Stopping(early, 1, OK, 20.0))
    queue.take(lifecycle.Stopping(wide, 1, OK, 20.0))
    assert (queue.snapshot.wide_start, queue.snapshot.came_since) == (11.0, math.inf)
    queue.take(lifecycle.Reserved(late, 1))
    queue.take(lifecycle.Started(late, 1, 21.0))
    assert (queue.snapshot.wide_start, queue.snapshot.came_since) == (11.0, 5.0)
