"""Stories of restarts: of the machine, and of a daemon that died at the worst moment."""

from __future__ import annotations

import pytest

from runners.api import Code
from simulation.stories import MOMENTS, job, run_of, runs, told


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
        story.turns(moment)
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
        story.turns(2)
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


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("finish", [False, True])
def test_a_daemon_that_died_at_every_moment_of_a_start(moment: int, finish: bool) -> None:
    with told(moment) as story:
        story.submit([job()])
        story.turns(moment)
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
        story.turns(moment)
        story.die()
        story.boot()
        story.calm()
        ended = ("failed", Code.EXIT_CODE) if code else ("succeeded", Code.OK)
        assert story.attempts(1) == [ended]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_launch_before_a_power_cut_is_never_repeated(moment: int) -> None:
    """Not even by the second daemon of that boot, when the first has died at once."""
    with told(moment) as story:
        story.submit([job(retries=1, retry_delay=0)])
        story.until(lambda: story.state(1) == "starting")
        story.turns(moment % 7)
        story.reboot(downtime=1.0, power_cut=True, killed_after=moment)
        story.calm()
        assert story.attempts(1) == [("failed", Code.MACHINE_RESTARTED), ("running", "")]


def test_after_a_restart_a_sick_machine_is_asked_again_and_starts_nothing_twice() -> None:
    with told() as story:
        story.machine.latency = 12
        story.submit([job()])
        story.until(lambda: bool(story.machine.starts))
        story.machine.sick = True
        story.reboot(power_cut=True)
        story.pass_time(7.0)
        assert story.state(1) == "starting"
        story.machine.sick = False
        story.calm()
        assert story.attempts(1) == [("failed", Code.MACHINE_RESTARTED)]


def test_a_card_that_another_daemon_took_before_the_launch_is_not_used() -> None:
    with told() as story:
        story.disk.pace = 0
        story.submit([job(retries=1, retry_delay=0)])
        story.until(lambda: story.state(1) == "starting")
        story.die()
        story.machine.owners["GPU-0"] = "them"
        story.boot()
        story.calm()
        assert story.attempts(1) == [("failed", Code.GPU_LOST), ("running", "")]
        assert [running.launch.gpus for running in story.machine.running.values()] == [("GPU-1",)]


def test_a_launch_goes_on_while_the_driver_is_silent() -> None:
    with told() as story:
        story.disk.pace = 0
        story.submit([job()])
        story.until(lambda: story.state(1) == "starting")
        story.die()
        story.machine.stale = True
        story.boot()
        story.calm()
        assert runs(story)()


def test_a_read_that_fails_once_does_not_leave_a_job_behind() -> None:
    with told() as story:
        story.disk.pace = 0
        story.submit([job()])
        story.until(lambda: story.state(1) == "starting")
        story.die()
        story.boot()
        story.disk.unreadable = 1  # the environment, which is not at hand after a restart
        story.pass_time(2.0)
        assert story.disk.unreadable == 0 and story.store.healthy and not story.machine.running
        story.calm()
        assert runs(story)()


def test_a_clean_up_that_failed_is_done_again_and_leaves_the_next_attempt_alone() -> None:
    with told() as story:
        story.submit([job(retries=1, retry_delay=0)])
        story.until(runs(story))
        story.machine.finish(run_of(story), 1)
        story.until(lambda: story.attempts(1)[0][0] == "failed")
        story.machine.sick = True
        story.pass_time(1.0)
        assert run_of(story) in story.machine.ended
        story.machine.sick = False
        story.calm()
        assert run_of(story) not in story.machine.ended
        assert story.attempts(1) == [("failed", Code.EXIT_CODE), ("running", "")]
