"""Stories of disks that fail."""

from __future__ import annotations

from typing import Any

import pytest

from runners.api import Code
from runners.errors import Unavailable
from simulation.stories import job, run_of, runs, told


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
                await story.engine.jobs.update(1, {"name": "b"}, operator=False)

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
        before = story.loop.turned
        story.pass_time(2.0)
        assert story.loop.turned - before < 200
