"""Named stories: what went wrong once, or could, told step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from runners.api import Code
from runners.errors import Unavailable
from runnersd.config import JobsConfig
from runnersd.model import RunName

from simulation.promises import check, check_calm, check_end
from simulation.simulation import CONFIG, Simulation

#: Every moment of a short while, one by one.
MOMENTS = range(0, 26)


@contextmanager
def told(seed: int = 1, **more: Any) -> Iterator[Simulation]:
    """A story that ends well: every promise is kept when it is told, and once everybody had the time to."""
    story = Simulation(seed, **more)
    try:
        yield story
        check(story)
        story.come_to_an_end()
        check(story)
        check_end(story)
    finally:
        story.close()


def job(command: str = "serve", **keys: Any) -> dict[str, Any]:
    """A job as it travels."""
    return {"name": keys.pop("name", "a"), "command": command, "num_gpus": 1, "grace": 2, **keys}


def run_of(story: Simulation, id: int = 1, attempt: int = 1) -> RunName:
    """What the machine knows an attempt by."""
    return RunName(story.store.database, id, attempt)


def runs(story: Simulation, id: int = 1, attempt: int = 1) -> Callable[[], bool]:
    """Whether an attempt runs, and the disk says so."""
    return lambda: run_of(story, id, attempt) in story.machine.running and story.state(id) == "running"


# -- stopping ----------------------------------------------------------------------------------------------------------


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
        story.steps(moment)
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
        story.steps(moment)
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
        story.steps(9)
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
        story.submit([job(retries=1)])
        story.steps(moment)
        story.change_card(0, lost=True)
        story.pass_time(5.0)
        running = [attempt for attempt in story.attempts(1) if attempt[0] in ("starting", "running")]
        assert len(running) == 1, story.attempts(1)
        assert story.store.snapshot.jobs[1].gpus != ("GPU-0",)


def test_a_card_that_the_configuration_takes_away_lets_its_job_end() -> None:
    with told() as story:
        story.submit([job()])
        story.until(runs(story))
        story.engine.configure(replace(CONFIG, gpus=replace(CONFIG.gpus, exclude=("0",))))
        story.pass_time(10.0)
        assert story.state(1) == "running"


# -- time limits ------------------------------------------------------------------------------------------------------


def test_a_time_limit_ends_a_job_in_time() -> None:
    with told() as story:
        story.pass_time(1.3)
        story.submit([job(time_limit=2)])
        story.until(runs(story))
        story.pass_time(2.5)
        assert story.attempts(1) == [("timed_out", Code.TIME_LIMIT)]


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


# -- reboots ------------------------------------------------------------------------------------------------------------


def test_a_restart_of_the_machine_is_no_time_limit() -> None:
    for latency in (0, 8):
        with told() as story:
            story.machine.latency = latency
            story.submit([job(time_limit=20, retries=1)])
            story.until(runs(story))
            story.reboot(downtime=60.0)
            story.until(runs(story, attempt=2))
            assert story.attempts(1)[0] == ("failed", Code.MACHINE_RESTARTED)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("retries", [0, 1])
def test_a_restart_at_every_moment_of_a_start(moment: int, retries: int) -> None:
    with told(moment) as story:
        story.submit([job(retries=retries)])
        story.until(lambda: 1 in story.told.jobs)
        story.steps(moment)
        begun = story.state(1) != "queued"
        story.reboot(downtime=5.0)
        story.calm()
        attempts = story.attempts(1)
        assert len(attempts) == (1 if not begun else 1 + retries)
        if begun:
            assert attempts[0] == ("failed", Code.MACHINE_RESTARTED)


@pytest.mark.parametrize(
    ("command", "ended"),
    [
        ("true", ("succeeded", Code.OK)),
        ("exit 3", ("failed", Code.EXIT_CODE)),
        ("missing", ("failed", Code.LAUNCH_FAILED)),
    ],
)
def test_an_end_before_the_restart_is_told_as_it_was(command: str, ended: tuple[str, str]) -> None:
    with told() as story:
        story.machine.latency = 20
        story.submit([job(command)])
        story.until(lambda: bool(story.machine.ended))
        story.steps(2)
        assert story.state(1) in ("starting", "running")
        story.reboot()
        story.calm()
        assert story.attempts(1) == [ended]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_daemon_that_dies_again_while_it_recovers_from_a_restart(moment: int) -> None:
    with told(moment) as story:
        story.submit([job(retries=1, time_limit=20), job(name="b", retries=1)])
        story.until(lambda: runs(story, 1)() and runs(story, 2)())
        story.reboot(downtime=1.0, killed_after=moment)
        story.calm()
        for id in (1, 2):
            assert story.attempts(id)[0] == ("failed", Code.MACHINE_RESTARTED)
            assert len(story.attempts(id)) == 2


# -- deaths -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("finish", [False, True])
def test_a_daemon_that_died_at_every_moment_of_a_start(moment: int, finish: bool) -> None:
    with told(moment) as story:
        story.submit([job()])
        story.steps(moment)
        accepted = 1 in story.told.jobs
        story.die(finish=finish)
        story.boot()
        story.calm()
        assert story.state(1) == "running" or (story.state(1) == "nothing" and not accepted)


def test_a_daemon_that_died_between_the_record_and_the_launch() -> None:
    with told() as story:
        story.disk.pace = 0
        story.submit([job()])
        story.until(lambda: story.state(1) == "starting")
        assert not story.machine.starts and not story.machine._asked
        story.die()
        story.boot()
        story.until(runs(story))
        assert story.attempts(1) == [("running", "")]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("code", [0, 5])
def test_a_daemon_that_died_while_cleaning_up(moment: int, code: int) -> None:
    with told(moment) as story:
        story.machine.latency = 3
        story.submit([job()])
        story.until(runs(story))
        story.machine.finish(run_of(story), code)
        story.steps(moment)
        story.die()
        story.boot()
        story.calm()
        ended = ("failed", Code.EXIT_CODE) if code else ("succeeded", Code.OK)
        assert story.attempts(1) == [ended]


# -- disks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("commit", range(10))
@pytest.mark.parametrize("lying", [False, True])
def test_every_commit_of_a_life_may_fail(commit: int, lying: bool) -> None:
    with told(commit) as story:
        story.disk.spare, story.disk.full, story.disk.lying = commit, 2, lying
        story.submit([job(retries=1, retry_delay=1), job(name="b", needs=["a"])])
        story.pass_time(20.0)
        if not story.told.jobs:  # whoever was refused comes again
            story.submit([job(retries=1, retry_delay=1), job(name="b", needs=["a"])])
            story.pass_time(20.0)
        first = min(story.told.jobs)
        story.machine.finish(run_of(story, first), 1)
        story.pass_time(30.0)
        story.machine.finish(run_of(story, first, 2))
        story.pass_time(20.0)
        story.cancel(first + 1)
        story.pass_time(20.0)
        if not story.told.cancelled:
            story.cancel(first + 1)
            story.pass_time(20.0)
        assert story.attempts(first) == [("failed", Code.EXIT_CODE), ("succeeded", Code.OK)]
        assert story.attempts(first + 1) == [("cancelled", Code.CANCELLED_BY)]


def test_a_daemon_whose_disk_stays_full_ends_and_its_jobs_do_not() -> None:
    with told() as story:
        story.submit([job(), job("sleep 10", name="b")])
        story.until(lambda: runs(story, 1)() and runs(story, 2)())
        story.disk.full = 1000
        story.pass_time(90.0)
        assert story.deaths == 1
        story.disk.full = 0
        story.calm()
        assert story.state(1) == "running" and story.attempts(2) == [("succeeded", Code.OK)]


def test_nobody_hears_of_our_bugs_while_the_disk_is_full() -> None:
    with told() as story:
        story.submit([job()])
        story.until(runs(story))
        story.disk.pace = 12
        story.disk.full = 1
        story.machine.finish(run_of(story))
        story.until(lambda: not story.store.healthy)
        answers: list[Any] = []

        async def look() -> None:
            answers.extend(story.engine.views(await story.store.jobs()))
            with pytest.raises(Unavailable):
                await story.engine.update(1, {"name": "b"}, operator=False)

        story.ask(look())
        story.calm()
        assert [answer["id"] for answer in answers] == [1]
        assert story.state(1) == "succeeded"


def test_a_daemon_without_its_disk_does_not_spin() -> None:
    with told() as story:
        story.submit([job(time_limit=5)])
        story.until(runs(story))
        story.disk.full = 10
        story.ask(story.engine.pause("", "ann"))
        story.pass_time(6.0)
        before = story.loop.turns
        story.pass_time(2.0)
        assert story.loop.turns - before < 200


# -- the queue ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_hold_at_every_moment_of_a_start(moment: int) -> None:
    with told(moment) as story:
        story.submit([job()])
        story.until(lambda: 1 in story.told.jobs)
        story.steps(moment)
        story.ask(story.engine.hold(1, "ann"))
        story.calm()
        held = story.state(1) == "held"
        assert held != bool(story.machine.starts)
        story.ask(story.engine.release(1))
        story.until(runs(story))


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_hold_that_is_taken_back_while_the_queue_moves(moment: int) -> None:
    with told(moment, config=replace(CONFIG, jobs=JobsConfig(max_running=1))) as story:
        story.submit([job(name="a"), job(name="b")])
        story.until(runs(story))
        story.ask(story.engine.hold(2, "ann"))
        story.machine.finish(run_of(story))
        story.steps(moment)
        story.ask(story.engine.release(2))
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
