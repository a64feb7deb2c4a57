"""Stories of jobs that wait."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runners.api import Code
from runnersd.config import JobsConfig, SchedulingConfig
from simulation.promises import check, check_calm
from simulation.simulation import CONFIG
from simulation.stories import MOMENTS, job, run_of, runs, told


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_hold_at_every_moment_of_a_start(moment: int) -> None:
    with told(moment) as story:
        story.submit([job()])
        story.until(lambda: 1 in story.told.jobs)
        story.turns(moment)
        story.ask(story.engine.jobs.hold(1, "ann"))
        story.calm()
        held = story.state(1) == "held"
        assert held != bool(story.machine.starts)
        story.ask(story.engine.jobs.release(1))
        story.until(runs(story))


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_hold_that_is_taken_back_while_the_queue_moves(moment: int) -> None:
    with told(moment, config=replace(CONFIG, jobs=JobsConfig(max_running=1))) as story:
        story.submit([job(name="a"), job(name="b")])
        story.until(runs(story))
        story.ask(story.engine.jobs.hold(2, "ann"))
        story.machine.finish(run_of(story))
        story.turns(moment)
        story.ask(story.engine.jobs.release(2))
        story.calm()
        check_calm(story)
        assert story.state(2) == "running"


def test_a_clock_set_back_does_not_start_a_delayed_job_twice() -> None:
    with told() as story:
        story.submit([job("sleep 1", begin="+10s"), job(name="b", retries=1, retry_delay=10)])
        story.until(runs(story, 2))
        story.machine.finish(run_of(story, 2), 1)
        story.pass_time(5.0)
        story.move_clock(-3600)
        story.pass_time(8.0)
        story.move_clock(3600)
        story.pass_time(8.0)
        assert story.attempts(1) == [("succeeded", Code.OK)]
        assert len(story.attempts(2)) == 2


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_retry_waits_for_its_delay_whatever_the_clock_says(jump: float, held: bool) -> None:
    with told() as story:
        story.submit([job("exit 1", retries=1, retry_delay=30)])
        story.pass_time(10.0)
        if held:
            story.ask(story.engine.jobs.hold(1, "ann"))
        story.move_clock(jump)
        story.pass_time(10.0)
        story.ask(story.engine.jobs.release(1))
        story.pass_time(8.0)
        assert story.state(1) == "queued"
        story.pass_time(8.0)
        assert len(story.attempts(1)) == 2


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_failure_just_after_the_clock_was_set_delays_no_retry_for_longer(jump: float) -> None:
    with told() as story:
        story.submit([job(retries=1, retry_delay=10)])
        story.until(runs(story))
        story.move_clock(jump)
        story.machine.finish(run_of(story), 1)
        story.pass_time(11.0)
        assert len(story.attempts(1)) == 2


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
@pytest.mark.parametrize("before", [False, True], ids=["set, then failed", "failed, then set"])
def test_a_failure_beside_a_clock_that_is_set_has_its_whole_delay(before: bool, jump: float) -> None:
    with told() as story:
        story.submit([job(retries=1, retry_delay=30)])
        story.until(runs(story))
        story.pass_time(1.0)  # the turn before is over, and the next one is not due
        if not before:
            story.move_clock(jump)
        story.machine.finish(run_of(story), 1)
        if before:
            story.move_clock(jump)
        story.until(lambda: story.state(1) == "queued")
        story.pass_time(25.0)
        assert story.state(1) == "queued"
        story.pass_time(10.0)
        assert len(story.attempts(1)) == 2


def test_a_time_to_begin_goes_by_the_clock_also_after_a_failure() -> None:
    with told() as story:
        story.submit([job("exit 1", retries=1, retry_delay=30)])
        story.pass_time(1.0)
        story.ask(story.engine.jobs.update(1, {"begin": "+2h"}, operator=True))
        story.pass_time(1.0)
        begin = story.store.snapshot.jobs[1].not_before
        story.move_clock(3600.0)
        story.pass_time(6.0)
        assert story.store.snapshot.jobs[1].not_before == begin == story.store.snapshot.jobs[1].spec.begin
        assert story.state(1) == "queued"


def test_a_clock_that_is_set_makes_no_daemon_look_hung() -> None:
    async def beats() -> bool:
        return story.engine.heartbeat()

    with told() as story:
        story.pass_time(1.0)
        story.move_clock(3600.0)
        assert story.loop.run_until_complete(beats())


def test_a_delayed_job_starts_when_its_delay_is_over_and_not_at_the_next_look_round() -> None:
    with told() as story:
        story.submit([job(begin="+7s"), job("exit 1", name="b", retries=1, retry_delay=7)])
        story.pass_time(6.9)
        assert story.state(1) == story.state(2) == "queued"
        story.pass_time(0.2)
        assert story.state(1) == "running" and len(story.attempts(2)) == 2


def test_a_job_starts_at_once_when_it_is_submitted_and_when_its_card_is_let_go() -> None:
    with told(cards=1) as story:
        story.submit([job(), job(name="b")])
        story.pass_time(0.01)
        assert runs(story)()
        story.machine.finish(run_of(story))
        story.pass_time(0.01)
        assert story.state(1) == "succeeded" and runs(story, 2)()


@pytest.mark.parametrize(("most", "num_jobs"), [(6, 1), (1, 10)], ids=["of the pipeline", "of the machine"])
def test_a_limit_is_kept_and_jobs_go_on_as_others_end(most: int, num_jobs: int) -> None:
    with told(config=replace(CONFIG, jobs=JobsConfig(max_running=most))) as story:
        story.submit([job(name=name) for name in "abc"], num_jobs=num_jobs)
        for id in (1, 2, 3):
            story.until(runs(story, id))
            check(story)
            assert len(story.machine.running) == 1
            story.machine.finish(run_of(story, id))


def test_jobs_of_another_pipeline_are_waited_for_across_restarts() -> None:
    with told() as story:
        story.submit([job(name="good"), job(name="bad")])
        story.until(lambda: len(story.told.jobs) == 2)
        story.submit([job()], after=[1])
        story.submit([job()], after=[1, 2])
        story.until(lambda: len(story.told.jobs) == 4)
        story.die()
        story.boot()
        story.until(lambda: runs(story, 1)() and runs(story, 2)())
        story.machine.finish(run_of(story, 1))
        story.machine.finish(run_of(story, 2), 1)
        story.calm()
        assert [story.state(id) for id in (3, 4)] == ["running", "skipped"]


def test_urgency_is_measured_by_the_cards_and_the_configuration_as_they_are() -> None:
    with told(0) as story:
        scheduling = SchedulingConfig(max_reservation_delay=7200.0, half_life=3600.0)
        story.configure(replace(CONFIG, scheduling=scheduling))
        measures = story.store.snapshot.measures
        assert (measures.cards, measures.max_delay, measures.half_life) == (4, 7200.0, 3600.0)
        story.change_card(2, lost=True)
        story.until(lambda: story.store.snapshot.measures.cards == 3)
        story.die()
        story.boot()
        measures = story.store.snapshot.measures
        assert (measures.cards, measures.max_delay, measures.half_life) == (3, 7200.0, 3600.0)
