"""Stories of jobs that have to end: cancelled, over their time, or without their card."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from runners.api import Code
from simulation.promises import check_calm
from simulation.simulation import CONFIG
from simulation.stories import MOMENTS, job, run_of, runs, told


@pytest.mark.parametrize("seed", range(8))
def test_a_stop_that_outran_its_launch(seed: int) -> None:
    with told(seed) as story:
        story.machine.latency = 12
        story.submit([job()])
        story.until(lambda: story.state(1) == "starting")
        story.machine.latency = 0
        story.cancel(1)
        story.until(lambda: story.state(1) == "cancelled")
        assert not story.machine.running


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_cancel_at_every_moment_of_a_start(moment: int) -> None:
    with told(moment) as story:
        story.submit([job(retries=2)])
        story.until(lambda: 1 in story.told.jobs)
        story.turns(moment)
        story.cancel(1)
        story.calm()
        assert story.state(1) == "cancelled" and not story.machine.running


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_daemon_that_died_while_stopping(moment: int) -> None:
    with told(moment) as story:
        story.machine.latency = 5
        story.submit([job(retries=2)])
        story.until(runs(story))
        story.cancel(1)
        story.turns(moment)
        asked = story.state(1) != "running"
        story.die()
        story.boot()
        story.calm()
        assert story.state(1) == ("cancelled" if asked else "running")


@pytest.mark.parametrize("at_once", [False, True])
def test_a_stop_that_failed_is_asked_for_again(at_once: bool) -> None:
    with told() as story:
        story.submit([job("stubborn", grace=1000)])
        story.until(runs(story))
        story.machine.sick = True
        story.cancel(1, at_once=at_once)
        story.pass_time(2.0)
        assert story.state(1) == "stopping"
        story.machine.sick = False
        story.pass_time(20.0)
        check_calm(story)
        assert (story.state(1) == "cancelled") == at_once


def test_a_second_cancel_kills_what_the_first_let_go_on() -> None:
    with told() as story:
        story.submit([job("stubborn", grace=1000)])
        story.until(runs(story))
        story.machine.delay = 3.0
        story.cancel(1)
        story.turns(9)
        story.cancel(1, at_once=True)
        story.pass_time(10.0)
        assert story.state(1) == "cancelled"


def test_who_cancels_a_job_that_is_stopping_for_its_card_is_not_given_another_attempt() -> None:
    with told() as story:
        story.submit([job("stubborn", retries=3, grace=5)])
        story.until(runs(story))
        story.change_card(0, lost=True)
        story.until(lambda: story.state(1) == "stopping")
        story.cancel(1)
        story.pass_time(30.0)
        assert story.attempts(1) == [("cancelled", Code.CANCELLED_BY)]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_card_lost_at_every_moment_of_a_start(moment: int) -> None:
    with told(moment) as story:
        story.submit([job(retries=1, retry_delay=0)])
        story.turns(moment)
        story.change_card(0, lost=True)
        story.pass_time(5.0)
        running = [attempt for attempt in story.attempts(1) if attempt[0] in ("starting", "running")]
        assert len(running) == 1, story.attempts(1)
        assert story.store.snapshot.jobs[1].gpus != ("GPU-0",)


def test_a_card_lost_during_a_long_launch_stops_it() -> None:
    with told() as story:
        story.submit([job(retries=1, retry_delay=0)])
        story.until(lambda: story.state(1) == "starting")
        story.machine.delay = 1000.0
        story.until(lambda: bool(story.machine._asked))
        story.turns(5)
        story.machine.delay = 0.0
        story.change_card(0, lost=True)
        story.pass_time(8.0)
        assert story.state(1) == "stopping"
        story.pass_time(1000.0)
        assert not story.machine.starts[run_of(story)]
        assert story.attempts(1) == [("failed", Code.GPU_LOST), ("running", "")]


def test_a_card_that_the_configuration_takes_away_lets_its_job_end() -> None:
    with told() as story:
        story.submit([job()])
        story.until(runs(story))
        story.engine.configure(replace(CONFIG, gpus=replace(CONFIG.gpus, exclude=("0",))))
        story.pass_time(10.0)
        assert story.state(1) == "running"


def test_a_time_limit_ends_a_job_in_time() -> None:
    with told() as story:
        story.pass_time(1.3)
        story.submit([job(time_limit=2)])
        story.until(runs(story))
        story.pass_time(2.5)
        assert story.attempts(1) == [("timed_out", Code.TIME_LIMIT)]


@pytest.mark.parametrize("jumps", [(3600.0,), (-3600.0,), (3600.0, -3600.0), (90.0, 90.0)])
def test_a_time_limit_is_of_the_jobs_time_and_not_of_the_clock_that_somebody_sets(jumps: tuple[float, ...]) -> None:
    with told() as story:
        story.submit([job(time_limit=60)])
        story.until(runs(story))
        for jump in jumps:
            story.pass_time(10.0)
            story.move_clock(jump)
        story.pass_time(55.0 - 10.0 * len(jumps))
        assert story.state(1) == "running"
        story.pass_time(10.0)
        assert story.attempts(1) == [("timed_out", Code.TIME_LIMIT)]


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
@pytest.mark.parametrize("moment", MOMENTS)
def test_the_clock_is_set_at_every_moment_of_a_start(moment: int, jump: float) -> None:
    with told(moment) as story:
        story.pass_time(4.0)
        story.machine.latency = 12
        story.submit([job(time_limit=60)])
        story.turns(moment)
        story.move_clock(jump)
        story.until(runs(story))
        story.pass_time(55.0)
        assert story.state(1) == "running"
        story.pass_time(10.0)
        assert story.attempts(1) == [("timed_out", Code.TIME_LIMIT)]


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_start_that_is_told_of_late_is_dated_by_the_clock_that_it_was_under(jump: float) -> None:
    for late in (False, True):
        with told() as story:
            story.machine.delay = 30.0  # so long a launch takes, and the loop turns meanwhile
            story.submit([job(time_limit=60)])
            story.pass_time(12.0)
            if not late:
                story.move_clock(jump)
            story.until(lambda: bool(story.machine.running))
            if late:
                story.move_clock(jump)
            story.machine.delay = 0.0
            story.pass_time(55.0)
            assert story.state(1) == "running"
            story.pass_time(10.0)
            assert story.attempts(1) == [("timed_out", Code.TIME_LIMIT)]


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_job_runs_for_min_run_before_it_makes_way_whatever_the_clock_says(jump: float) -> None:
    with told(cards=1) as story:
        story.submit([job(preemptible=True)])
        story.until(runs(story))
        story.pass_time(1.0)
        story.move_clock(jump)
        story.submit([job("true", name="b", priority=5)])
        story.pass_time(CONFIG.scheduling.min_run - 1.5)
        assert story.state(1) == "running"
        story.pass_time(4.0)
        assert story.attempts(1)[0] == ("failed", Code.PREEMPTED)


def test_a_time_limit_that_passed_while_the_daemon_was_down() -> None:
    with told() as story:
        story.submit([job(time_limit=20, retries=2)])
        story.until(runs(story))
        story.die()
        story.pass_time(30.0)
        story.boot()
        story.calm()
        assert story.attempts(1) == [("timed_out", Code.TIME_LIMIT)]


@pytest.mark.parametrize(("code", "ended"), [(0, ("succeeded", Code.OK)), (3, ("failed", Code.EXIT_CODE))])
def test_a_job_that_ended_in_time_while_the_daemon_was_down_is_not_late(code: int, ended: tuple[str, str]) -> None:
    for latency in (0, 8):
        with told() as story:
            story.machine.latency = latency
            story.submit([job(time_limit=20)])
            story.until(runs(story))
            story.die()
            story.machine.finish(run_of(story), code)
            story.pass_time(60.0)
            story.boot()
            story.calm()
            assert story.attempts(1) == [ended]


@pytest.mark.parametrize("lying", [False, True])
def test_a_kill_is_not_forgotten_when_the_store_goes_back_to_the_disk(lying: bool) -> None:
    with told() as story:
        story.submit([job("stubborn", grace=1000), job("stubborn", name="b", grace=1000)])
        story.until(lambda: runs(story, 1)() and runs(story, 2)())
        story.machine.sick = True
        story.cancel(1, at_once=True)
        story.until(lambda: 1 in story.told.cancelled)
        story.disk.full, story.disk.lying = 1, lying
        story.ask(story.engine.pause("", "ann"))
        story.pass_time(0.1)
        story.machine.sick = False
        story.calm()
        assert story.state(1) == "cancelled" and story.state(2) == "running"


def test_everything_stops_when_the_daemon_is_told_to_end_now() -> None:
    with told() as story:
        story.submit([job(), job("stubborn", name="b"), job(name="c", needs=["a"]), job(name="d", begin="+1h")])
        story.until(lambda: runs(story, 1)() and runs(story, 2)())
        story.machine.delay = 1.0
        gone: list[Any] = []
        story.ask(story.engine.shut_down(now=True), gone.append)
        story.until(lambda: gone)
        assert story.engine.stopping.is_set() and not story.machine.running
        assert [story.state(id) for id in (1, 2, 3, 4)] == ["cancelled"] * 4
