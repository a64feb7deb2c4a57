"""What a pipeline's jobs wait for, told in sentences; and that counting it stays cheap."""

from __future__ import annotations

from typing import Any

import pytest

from core.builders import Queue, spec
from runners.api import Code
from runners.spec import Barrier, Need
from runnersd import lifecycle
from runnersd.model import Reason

OK = Reason(Code.OK, "")
BAD = Reason(Code.EXIT_CODE, "exited with code 1")


def end(queue: Queue, id: int, code: int = 0) -> None:
    queue.take(lifecycle.Reserved(id, 1))
    kind: Any = lifecycle.Failed if code else lifecycle.Succeeded
    queue.take(kind(id, 1, BAD if code else OK, code, 1.0))


def why(queue: Queue, id: int) -> str:
    job = queue.snapshot.jobs[id]
    progress = queue.snapshot.progress[job.pipeline.id]
    reason = progress.failed_need(job) if id in queue.snapshot.doomed else progress.why(job.position)
    return "" if reason is None else f"{reason.code.value}: {reason.text}"


def test_a_need_names_the_jobs_that_are_not_over() -> None:
    queue = Queue()
    a, b, c = queue.add(spec("train[lr=1]"), spec("train[lr=2]"), spec("report", needs=["train"]))
    assert why(queue, c) == "needs_jobs: waits for train[lr=1] (1), train[lr=2] (2) to succeed"
    end(queue, a)
    assert why(queue, c) == "needs_jobs: waits for train[lr=2] (2) to succeed"
    end(queue, b)
    assert why(queue, c) == ""


def test_many_are_counted() -> None:
    queue = Queue()
    *_, last = queue.add(*[spec(f"j{n}") for n in range(6)], spec("last", needs=["all"]))
    assert why(queue, last) == "needs_jobs: waits for j0 (1), j1 (2), j2 (3) and 3 more to succeed"


def test_a_need_on_the_end_is_met_by_a_failure_and_one_on_success_is_not() -> None:
    queue = Queue()
    a, b, c = queue.add(spec("a"), spec("b", needs=[Need("a", "finished")]), spec("c", needs=["a"]))
    end(queue, a, 1)
    assert why(queue, b) == ""
    assert why(queue, c) == "need_failed: a (job 1) ended as failed"
    assert queue.snapshot.doomed == {c}


def test_a_failure_that_is_allowed_lets_the_others_go_on() -> None:
    queue = Queue()
    a, b = queue.add(spec("a", allow_failure=True), spec("b", needs=["a"]))
    end(queue, a, 1)
    assert queue.snapshot.ready(queue.snapshot.jobs[b])


def test_a_blocking_job_holds_back_what_is_below_it_and_not_what_is_above() -> None:
    queue = Queue()
    a, b, c = queue.add(spec("a"), spec("b", blocking=True), spec("c"))
    assert why(queue, a) == ""
    assert why(queue, c) == "barrier: waits at the blocking b (2)"
    end(queue, b)
    assert why(queue, c) == "" and not queue.snapshot.jobs[a].settled


def test_a_failed_blocking_job_dooms_what_is_below_it_alone() -> None:
    queue = Queue()
    _, b, c = queue.add(spec("a"), spec("b", blocking=True), spec("c"))
    end(queue, b, 1)
    assert queue.snapshot.doomed == {c}
    assert why(queue, c) == "need_failed: b (job 2) ended as failed"


def test_a_nested_item_holds_back_as_a_whole() -> None:
    queue = Queue()
    a, b, c = queue.add(spec("x.a"), spec("x.b"), spec("c"), barriers=[Barrier(0, 1)], items=["x"])
    end(queue, b)
    assert why(queue, c) == "barrier: waits at the blocking x.a (1)"
    end(queue, a)
    assert why(queue, c) == ""


def test_the_walk_stops_at_the_first_barrier_even_if_a_later_one_is_done() -> None:
    queue = Queue()
    a, b, c = queue.add(spec("a"), spec("b"), spec("c"), barriers=[Barrier(0, 0), Barrier(1, 1)])
    assert why(queue, b) == "barrier: waits at the blocking a (1)"
    end(queue, a)
    assert why(queue, b) == ""
    assert why(queue, c) == "barrier: waits at the blocking b (2)"


def test_a_skipped_job_is_a_failed_need_of_the_next() -> None:
    queue = Queue()
    a, b, c = queue.add(spec("a"), spec("b", needs=["a"]), spec("c", needs=["b"]))
    end(queue, a, 1)
    queue.take(lifecycle.Skipped(b, 0, Reason(Code.NEED_FAILED, ""), None, 1.0))
    assert why(queue, c) == "need_failed: b (job 2) ended as skipped"


def test_a_pipeline_waits_for_the_jobs_it_was_submitted_after() -> None:
    queue = Queue()
    a, b = queue.add(spec("a"), spec("b"))
    (c,) = queue.add(spec("c"), after=[a, b])
    assert why(queue, c) == "needs_jobs: waits for jobs 1, 2 to succeed"
    end(queue, a)
    assert why(queue, c) == "needs_jobs: waits for job 2 to succeed"
    end(queue, b, 1)
    assert why(queue, c) == "need_failed: b (job 2) ended as failed"


def test_a_pipeline_after_a_job_that_already_failed_is_doomed_at_once() -> None:
    queue = Queue()
    a, _ = queue.add(spec("a"), spec("b"))
    end(queue, a, 1)
    (c,) = queue.add(spec("c"), after=[a])
    assert queue.snapshot.doomed == {c}
    assert why(queue, c) == "need_failed: a (job 1) ended as failed"
    assert not queue.snapshot.ready(queue.snapshot.jobs[c])


@pytest.mark.timeout(20)
def test_a_thousand_jobs_that_need_a_thousand_are_counted_once() -> None:
    queue = Queue()
    first = [spec(f"a[n={n}]") for n in range(1000)]
    second = [spec(f"b[n={n}]", needs=["a"]) for n in range(1000)]
    ids = queue.add(*first, *second, num_jobs=2000)
    for id in ids[:999]:
        end(queue, id)
    assert len(queue.snapshot.lines.followers(1, next(iter(queue.snapshot.lines.heads)))) == 1
    end(queue, ids[999])
    assert len(queue.snapshot.lines.followers(1, next(iter(queue.snapshot.lines.heads)))) == 1000
