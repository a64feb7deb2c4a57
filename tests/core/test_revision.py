"""What `update` and `retry` make of jobs that exist."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from core.builders import GIB, Queue, spec
from runners.api import Code
from runners.errors import IllegalTransition, InvalidPipeline
from runners.spec import Need, Notify
from runnersd import lifecycle
from runnersd.model import Job, Outcome, Reason
from runnersd.revision import again, revise

NOW = 1_000_000.0


def queued(**keys: Any) -> Job:
    queue = Queue()
    queue.add(spec("first"), spec("second", needs=["first"], **keys))
    return queue.snapshot.jobs[2]


def test_a_queued_jobs_keys_change_as_a_file_would_say_them() -> None:
    event = revise(queued(env={"A": "1"}), {"time_limit": "2h", "gpu_memory": "20GiB", "priority": -3}, (), NOW)
    assert (event.spec.time_limit, event.spec.gpu_memory, event.spec.priority) == (7200.0, 20 * GIB, -3)
    assert event.spec.needs == (Need("first"),)
    assert event.spec.env == {"A": "1"}
    assert event.spec.command == "true"


def test_a_script_replaces_a_command_and_begin_counts_from_now() -> None:
    event = revise(queued(), {"script": "train", "begin": "+1h"}, (), NOW)
    assert event.spec.command == ("python", "-m", "scripts.train")
    assert event.not_before == NOW + 3600


def test_a_running_job_takes_a_time_limit_a_name_a_priority_and_who_is_told_only() -> None:
    queue = Queue()
    queue.add(spec("a"))
    queue.take(lifecycle.Reserved(1, 1))
    job = queue.take(lifecycle.Started(1, 1, NOW))
    assert revise(job, {"time_limit": 90}, (), NOW).spec.time_limit == 90.0
    assert revise(job, {"notify": "ann@lab"}, (), NOW).spec.notify == Notify("ann@lab")
    with pytest.raises(IllegalTransition, match="num_gpus of job 1: it is running"):
        revise(job, {"num_gpus": 2}, (), NOW)


@pytest.mark.parametrize(
    "changes", [{}, {"prority": 1}, {"priority": "high"}, {"name": "first"}, {"time_limit": "soon"}]
)
def test_a_wrong_change_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidPipeline):
        revise(queued(), changes, {"first"}, NOW)


def test_where_a_job_stands_in_its_pipeline_is_fixed() -> None:
    with pytest.raises(IllegalTransition, match="needs"):
        revise(queued(), {"needs": []}, (), NOW)


def ended(codes: dict[int, int], queue: Queue) -> list[Job]:
    """Run every job to the exit code given; jobs not named are cancelled."""
    progress = queue.snapshot.progress[1]
    jobs = list(progress.jobs)
    for job in jobs:
        queue.take(lifecycle.Reserved(job.id, 1))
        queue.take(lifecycle.Started(job.id, 1, NOW))
        now = queue.snapshot.jobs[job.id]
        queue.take(lifecycle.verdict(now, Outcome(codes[job.id], finished_at=NOW), NOW))
    return progress.jobs


def test_retry_takes_the_unsuccessful_jobs_with_met_needs_left_out() -> None:
    queue = Queue()
    queue.add(
        spec("prepare", blocking=True), spec("train[lr=1]", needs=["prepare"]), spec("train[lr=2]", needs=["prepare"]),
        spec("report", needs=["train", "prepare"]),
    )  # fmt: skip
    jobs = ended({1: 0, 2: 0, 3: 1, 4: 2}, queue)
    submission = again(jobs[0].pipeline, jobs, {"A": "1"})
    assert [job.name for job in submission.pipeline.jobs] == ["train[lr=2]", "report"]
    assert [job.needs for job in submission.pipeline.jobs] == [(), (Need("train"),)]
    assert submission.pipeline.barriers == ()
    assert submission.env == {"A": "1"}


def test_retry_keeps_the_barriers_that_still_stand() -> None:
    queue = Queue()
    queue.add(spec("a"), spec("b", blocking=True), spec("c"))
    jobs = ended({1: 0, 2: 1, 3: 1}, queue)
    submission = again(jobs[0].pipeline, jobs, {})
    assert [(b.first, b.last) for b in submission.pipeline.barriers] == [(0, 0)]


def test_retry_of_one_job_takes_that_one_alone_and_refuses_a_good_one() -> None:
    queue = Queue()
    queue.add(spec("a"), spec("b", needs=["a"]), spec("c"))
    jobs = ended({1: 1, 2: 1, 3: 0}, queue)
    submission = again(jobs[0].pipeline, jobs, {}, [2])
    assert [(job.name, job.needs) for job in submission.pipeline.jobs] == [("b", ())]
    with pytest.raises(IllegalTransition, match="job 3"):
        again(jobs[0].pipeline, jobs, {}, [3])


def test_jobs_retried_together_keep_their_needs_on_one_another() -> None:
    queue = Queue()
    queue.add(spec("a"), spec("b", needs=["a"]), spec("c", needs=["b"]))
    jobs = ended({1: 1, 2: 1, 3: 1}, queue)
    submission = again(jobs[0].pipeline, jobs, {}, [2, 3])
    assert [(job.name, job.needs) for job in submission.pipeline.jobs] == [("b", ()), ("c", (Need("b"),))]


def test_needs_follow_jobs_that_have_another_name_by_now() -> None:
    queue = Queue()
    queue.add(spec("train[lr=1]"), spec("train[lr=2]"), spec("report", needs=["train"]))
    jobs = ended({1: 1, 2: 1, 3: 1}, queue)
    names = [job.spec.name for job in jobs]
    jobs[1] = replace(jobs[1], spec=replace(jobs[1].spec, name="slow"))
    submission = again(jobs[0].pipeline, jobs, {}, None, names)
    assert submission.pipeline.jobs[2].needs == (Need("train[lr=1]"), Need("slow"))


def test_a_job_that_needs_one_not_over_yet_cannot_be_retried_before_it() -> None:
    queue = Queue()
    queue.add(spec("a"), spec("b"), spec("c", needs=["a", "b"]), spec("d"))
    queue.take(lifecycle.Cancelled(2, 0, Reason(Code.CANCELLED_BY, "cancelled by ann"), None, NOW))
    queue.take(lifecycle.Skipped(3, 0, Reason(Code.NEED_FAILED, "b was cancelled"), NOW))
    jobs = queue.snapshot.progress[1].jobs
    with pytest.raises(IllegalTransition, match=r"c \(job 3\): it needs a \(job 1\), which is not over"):
        again(jobs[0].pipeline, jobs, {})
    assert [job.name for job in again(jobs[0].pipeline, jobs, {}, [2]).pipeline.jobs] == ["b"]


def test_variables_are_set_and_taken_away_one_by_one() -> None:
    event = revise(queued(env={"A": "1", "B": "2"}), {"env": {"B": None, "C": "3"}}, (), NOW)
    assert event.spec.env == {"A": "1", "C": "3"}
    assert revise(queued(env={"A": "1"}), {"env": None}, (), NOW).spec.env is None


def test_cards_by_name_take_the_place_of_their_number_and_the_other_way_round() -> None:
    assert revise(queued(num_gpus=2), {"gpus": ["3"]}, (), NOW).spec.num_gpus == 1
    assert revise(queued(num_gpus=1, gpus=("3",)), {"num_gpus": 2}, (), NOW).spec.gpus == ()


def test_a_wrong_change_is_said_of_the_job_and_its_keys() -> None:
    queue = Queue()
    queue.add(spec("a"))
    queue.take(lifecycle.Reserved(1, 1))
    live = queue.take(lifecycle.Started(1, 1, NOW))
    for job, changes, said in [
        (live, {"time_limit": "soon"}, "cannot update job 1\ntime_limit: found 'soon'"),
        (
            live,
            {"tiem_limit": 1},
            "cannot update job 1\ntiem_limit: unknown key 'tiem_limit'; did you mean `time_limit`?",
        ),
        (queued(), {f"k{n}": 1 for n in range(300)}, "cannot update job 2\nk0: unknown key 'k0'"),
    ]:
        with pytest.raises(InvalidPipeline) as refused:
            revise(job, changes, (), NOW)
        assert str(refused.value).startswith(said)
