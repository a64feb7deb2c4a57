"""The yardsticks of the replay: textbook policies by hand-made examples, and the counting of double bookings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from benchmarks.cuts import beside, cuts
from benchmarks.textbook import POLICIES
from benchmarks.trace import Run, TraceJob, double_bookings, figures, read
from benchmarks.virtual import Replay


def job(id: int, submitted: float, duration: float, num_gpus: int = 1, share: float = 1.0) -> TraceJob:
    return TraceJob(id, submitted, duration, num_gpus, share, 1.0, 0)


#: On two cards: a long job holds one, a wide one waits for both, and two narrow ones come after it.
STORY = [job(1, 0, 100), job(2, 1, 50, 2), job(3, 2, 90), job(4, 3, 99)]


@pytest.mark.parametrize(
    ("policy", "starts"),
    [
        ("fifo", {1: 0, 2: 100, 3: 150, 4: 150}),
        ("greedy", {1: 0, 3: 2, 4: 92, 2: 191}),
        ("easy", {1: 0, 3: 2, 2: 100, 4: 150}),
        ("sjf", {1: 0, 3: 2, 4: 92, 2: 191}),
    ],
)
def test_a_textbook_policy_does_what_the_textbook_says(policy: str, starts: dict[int, float]) -> None:
    runs = POLICIES[policy](STORY, 2)
    assert {id: run.start for id, run in runs.items()} == starts
    assert double_bookings(STORY, runs) == 0


def test_shared_jobs_fill_the_fullest_card_and_an_exclusive_one_waits_for_an_empty_card() -> None:
    jobs = [job(1, 0, 10, share=0.5), job(2, 0, 10), job(3, 1, 10, share=0.5), job(4, 2, 10)]
    runs = POLICIES["easy"](jobs, 2)
    assert {id: (run.start, run.cards) for id, run in runs.items()} == {
        1: (0, (0,)), 2: (0, (1,)), 3: (1, (0,)), 4: (10, (1,)),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second", "wrong"),
    [
        (job(1, 0, 10), job(2, 0, 10), 1),
        (job(1, 0, 10), job(2, 0, 10, share=0.1), 1),
        (job(1, 0, 10, share=0.1), job(2, 0, 10), 1),
        (job(1, 0, 10, share=0.6), job(2, 0, 10, share=0.5), 1),
        (job(1, 0, 10, share=0.5), job(2, 0, 10, share=0.5), 0),
    ],
)
def test_a_double_booking_is_counted(first: TraceJob, second: TraceJob, wrong: int) -> None:
    together = {1: Run(0, 10, (0,)), 2: Run(5, 15, (0,))}
    assert double_bookings([first, second], together) == wrong
    after = {1: Run(0, 10, (0,)), 2: Run(10, 20, (0,))}
    assert double_bookings([first, second], after) == 0


def test_figures_are_of_all_jobs_and_of_those_for_several_cards() -> None:
    made = figures(STORY, POLICIES["easy"](STORY, 2), 2)
    assert (made.mean_wait, made.max_wait, made.mean_jct) == (61.5, 147, 146.25)
    assert (made.multi_gpu_mean_wait, made.multi_gpu_max_wait) == (99, 99)
    assert made.utilization == pytest.approx((100 + 100 + 90 + 99) / (2 * 249))


def test_a_trace_is_read_and_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(
        "job,submit_s,duration_s,num_gpus,gpu_share,cpus,memory_mib\n2,5.5,60,1,0.25,4,1024\n1,0,9,2,1,1,1\n"
    )
    assert read(file) == [TraceJob(1, 0, 9, 2, 1, 1, 1 << 20), TraceJob(2, 5.5, 60, 1, 0.25, 4, 1 << 30)]
    file.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="not a trace of jobs"):
        read(file)


@pytest.mark.parametrize("limits", [True, False])
def test_the_real_planner_runs_every_job_of_a_trace_once_and_books_no_card_twice(limits: bool) -> None:
    jobs = [
        job(n, 7.0 * n, 10 + (n * 37) % 90, (1, 1, 1, 2, 4, 1)[n % 6], (1.0, 0.5, 0.3, 1.0, 1.0, 1.0)[n % 6])
        for n in range(1, 150)
    ]
    runs = Replay(jobs, 4, limits=limits).run().runs
    assert sorted(runs) == [job.id for job in jobs]
    assert double_bookings(jobs, runs) == 0
    assert all(runs[job.id].start >= job.submitted and len(runs[job.id].cards) == job.num_gpus for job in jobs)


@pytest.mark.parametrize("limits", [True, False])
def test_most_jobs_start_in_the_range_that_was_foretold(limits: bool) -> None:
    random = Random(7)
    jobs, now = [], 0.0
    for n in range(1, 400):
        now += random.expovariate(1 / 60)
        jobs.append(job(n, now, random.lognormvariate(4.5, 1.0), random.choice((1, 1, 1, 2, 4)), 1.0))
    in_range, foretold = Replay(jobs, 4, limits=limits, foretell=1).run().in_range
    assert foretold > 50
    assert in_range is not None
    assert 0.65 < in_range < 0.99


def test_cuts_are_parts_of_the_trace_in_its_order_and_the_same_every_time() -> None:
    chance = Random(1)
    jobs = [job(number, number * 10.0, chance.uniform(1, 99), num_gpus=1 + number % 2) for number in range(1, 121)]
    made = cuts(jobs)
    assert made == cuts(jobs) and len(made) == 24 and made["whole"] == jobs
    durations = [one.duration for one in jobs]
    for name, cut in made.items():
        assert [one.id for one in cut] == list(range(1, len(cut) + 1)), name
        assert [one.submitted for one in cut] == sorted(one.submitted for one in cut), name
        first = durations.index(cut[0].duration)
        assert [one.duration for one in cut] == (durations + durations)[first : first + len(cut)], name
        assert len(cut) >= 56


def test_what_is_printed_of_cuts_are_ratios_and_their_geometric_mean() -> None:
    runs = POLICIES["easy"](STORY, 2)
    one = figures(STORY, runs, 2)
    twice = replace(one, mean_wait=2 * one.mean_wait, multi_gpu_max_wait=8 * one.multi_gpu_max_wait)
    lines = beside({"a": one, "b": twice}, {"a": one, "b": one})
    assert [line.split()[-2:] for line in lines] == [["1.00", "1.00"], ["2.00", "8.00"], ["1.41", "2.83"]]
    told = beside({"a": replace(one, in_range=0.9), "b": replace(twice, in_range=0.6)}, {"a": one, "b": one})
    assert [line.split()[-1] for line in told] == ["0.90", "0.60", "0.75"]
