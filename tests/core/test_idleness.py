"""Which jobs leave their cards idle, from look to look."""

from __future__ import annotations

from core.builders import Queue, spec
from runners.api import Code, JobState
from runnersd import lifecycle
from runnersd.explain import explain
from runnersd.model import Outcome
from runnersd.planner import Plan, Stop
from runnersd.planner.planning import plan
from runnersd.telemetry.idleness import BUSY, Look, look
from runnersd.views import job_view

AFTER = 60.0


class Watch:
    """One running job on two cards, looked at as the engine does."""

    def __init__(self, **keys: object) -> None:
        self.queue = Queue()
        [self.id] = self.queue.add(spec("train", num_gpus=2, **keys))
        self.queue.take(lifecycle.Reserved(self.id, 1, ("GPU-0", "GPU-1")))
        self.seen = Look({})
        self.events: list[float | None] = []

    def run(self) -> Watch:
        self.queue.take(lifecycle.Started(self.id, 1, 0.0))
        return self

    @property
    def job(self):  # type: ignore[no-untyped-def]
        return self.queue.snapshot.jobs[self.id]

    def look(self, now: float, *percent: int | None, after: float | None = AFTER) -> float | None:
        """See the cards so busy; returns since when the job is idle."""
        use = dict(zip(("GPU-0", "GPU-1"), percent, strict=True)) if percent else {}
        self.seen = look([self.job], use, self.seen, after, now, gap=500.0)
        for job, since in self.seen.idle:
            self.queue.take(lifecycle.Idled(job.id, job.attempt, since))
            self.events.append(since)
        for job in self.seen.busy:
            self.queue.take(lifecycle.Idled(job.id, job.attempt, None))
            self.events.append(None)
        since: float | None = self.job.idle_since
        return since


def test_a_job_is_idle_once_all_its_cards_did_nothing_for_so_long_and_it_is_said_once() -> None:
    watch = Watch().run()
    assert watch.look(10.0, 0, BUSY - 1) is None
    assert watch.look(69.9, 0, 0) is None
    assert watch.look(70.0, 0, 0) == 10.0
    assert watch.look(500.0, 0, 0) == 10.0
    assert watch.events == [10.0]


def test_work_on_any_card_ends_it_and_it_counts_anew() -> None:
    watch = Watch().run()
    watch.look(0.0, 0, 0)
    watch.look(50.0, 0, BUSY)
    assert watch.look(70.0, 0, 0) is None
    assert watch.look(130.0, 0, 0) == 70.0
    assert watch.look(140.0, 99, 0) is None
    assert watch.look(150.0, 0, 0) is None
    assert watch.look(210.0, 0, 0) == 150.0
    assert watch.events == [70.0, None, 150.0]


def test_a_card_of_which_nothing_is_known_is_not_idle() -> None:
    watch = Watch().run()
    watch.look(0.0, 0, 0)
    watch.look(59.0, 0, None)
    assert watch.look(61.0, 0, 0) is None
    assert watch.look(121.0, 0, 0) == 61.0
    assert watch.look(130.0) == 61.0  # the driver does not answer: what was said stays
    assert watch.look(140.0, None, 80) is None


def test_what_nobody_saw_is_not_idle() -> None:
    watch = Watch().run()
    watch.look(0.0, 0, 0)
    assert watch.look(3600.0, 0, 0) is None  # the machine slept, or its clock was set
    assert watch.look(3000.0, 0, 0) is None
    assert watch.look(3060.0, 0, 0) == 3000.0


def test_a_job_that_is_being_launched_is_not_idle() -> None:
    watch = Watch()
    watch.look(0.0, 0, 0)
    assert watch.look(100.0, 0, 0) is None
    watch.run()
    assert watch.look(110.0, 0, 0) is None


def test_switched_off_it_is_taken_back() -> None:
    watch = Watch().run()
    watch.look(0.0, 0, 0)
    watch.look(60.0, 0, 0)
    assert watch.look(61.0, 0, 0, after=None) is None
    assert watch.events == [0.0, None]


def test_an_idle_job_is_shown_as_such_and_stopped_only_where_that_is_wanted() -> None:
    watch = Watch(retries=3).run()
    watch.look(0.0, 0, 0)
    watch.look(60.0, 0, 0)
    world = watch.queue.world(2)
    reason = explain(watch.job, world, Plan(), 1800.0)
    assert (reason.code, reason.text) == (Code.IDLE, "runs; its 2 cards have done nothing for 30m")
    assert job_view(watch.job, reason)["idle_since"] == 0.0
    assert not plan(world, 60.0).decisions
    [stop] = plan(watch.queue.world(2, stop_idle=True), 60.0).decisions
    assert isinstance(stop, Stop) and stop.reason.code is Code.IDLE
    watch.queue.take(lifecycle.Stopping(watch.id, 1, stop.reason, 60.0))
    ended = watch.queue.take(lifecycle.verdict(watch.job, Outcome(None, signal=15, stopped=True), 61.0))
    assert (ended.state, ended.idle_since) == (JobState.CANCELLED, None)
    assert ended.reason is not None and ended.reason.code is Code.IDLE
