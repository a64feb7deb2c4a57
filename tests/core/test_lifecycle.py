"""Every state with every event: what the table says happens, and nothing else does."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from core.builders import ANN, spec
from runners.api import LIVE, SETTLED, WAITING, Code, JobState
from runners.errors import IllegalTransition
from runnersd import lifecycle
from runnersd.lifecycle import TRANSITIONS, Event, apply, exit_reason, verdict
from runnersd.model import Job, Outcome, Pipeline, Reason

S = JobState
DIAGRAM = Path(__file__).parents[2] / "scheduler" / "lifecycle.mmd"
PIPELINE = Pipeline(1, "p", ANN, "/work", 0o022, 10, 0.0, 1)
WHY = Reason(Code.CANCELLED_BY, "cancelled by ann")
TOLD: dict[type[Event], dict[str, Any]] = {
    lifecycle.Reserved: {"gpus": ("GPU-1",)},
    lifecycle.Started: {"at": 10.0},
    lifecycle.Stopping: {"reason": WHY, "at": 11.0},
    lifecycle.Succeeded: {"reason": Reason(Code.OK, ""), "exit_code": 0, "at": 12.0},
    lifecycle.Failed: {"reason": Reason(Code.EXIT_CODE, ""), "exit_code": 3, "at": 12.0},
    lifecycle.TimedOut: {"reason": Reason(Code.TIME_LIMIT, ""), "exit_code": 143, "at": 12.0},
    lifecycle.Cancelled: {"reason": WHY, "exit_code": None, "at": 12.0},
    lifecycle.Skipped: {"reason": Reason(Code.NEED_FAILED, ""), "exit_code": None, "at": 12.0},
    lifecycle.Requeued: {"reason": Reason(Code.EXIT_CODE, ""), "exit_code": 3, "at": 12.0, "not_before": 17.0},
    lifecycle.Held: {"reason": Reason(Code.HELD, "held by ann")},
    lifecycle.Released: {},
    lifecycle.Revised: {"spec": spec("other", priority=3), "not_before": 99.0},
    lifecycle.Idled: {"since": 77.0},
}


def job(state: JobState, **facts: Any) -> Job:
    """A job as it looks in that state, on its second attempt."""
    held: dict[str, Any] = {}
    if state in LIVE:
        held = {"gpus": ("GPU-0",), "started_at": None if state is S.STARTING else 5.0}
    if state is S.STOPPING:
        held |= {"reason": WHY, "stopping_at": 6.0}
    if state is S.HELD:
        held = {"reason": Reason(Code.HELD, "")}
    if state in SETTLED:
        held = {"reason": Reason(Code.OK, ""), "finished_at": 7.0}
    return Job(4, PIPELINE, 0, spec(), state, 2, **{**held, **facts})


def event(kind: type[Event], attempt: int = 2) -> Event:
    return kind(4, attempt, **TOLD[kind])


def test_every_kind_of_event_has_an_example_and_a_place_in_the_table() -> None:
    assert set(TOLD) == {kind for _, kind in TRANSITIONS}


@pytest.mark.parametrize("kind", TOLD, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("state", JobState)
def test_the_table_decides(state: JobState, kind: type[Event]) -> None:
    attempt = 3 if kind is lifecycle.Reserved else 2
    before = job(state)
    expected = TRANSITIONS.get((state, kind))
    if expected is None:
        with pytest.raises(IllegalTransition, match=f"job 4 is {state}"):
            apply(before, event(kind, attempt))
        return
    after = apply(before, event(kind, attempt))
    assert after.state is expected
    assert (after.id, after.pipeline, after.position) == (4, PIPELINE, 0)
    # Holding is being live, and only a job that is over has an end.
    assert bool(after.gpus) == after.live
    assert (after.finished_at is not None) == after.settled
    assert (after.reason is not None) == (after.settled or after.state in (S.HELD, S.STOPPING))
    assert (after.stopping_at is not None) == (after.state is S.STOPPING)


@pytest.mark.parametrize(("state", "kind"), TRANSITIONS, ids=lambda value: getattr(value, "__name__", value))
def test_news_of_another_attempt_is_refused(state: JobState, kind: type[Event]) -> None:
    for attempt in (1, 2, 3, 4):
        if attempt == (3 if kind is lifecycle.Reserved else 2):
            continue
        with pytest.raises(IllegalTransition, match=f"of attempt {attempt}"):
            apply(job(state), event(kind, attempt))


def test_what_is_over_never_changes() -> None:
    assert not {state for state, _ in TRANSITIONS} & SETTLED
    assert {state for state, _ in TRANSITIONS} == WAITING | LIVE


def test_a_new_attempt_starts_clean() -> None:
    tired = job(S.QUEUED, exit_code=3, not_before=9.0, failures=1)
    fresh = apply(tired, event(lifecycle.Reserved, 3))
    assert (fresh.attempt, fresh.gpus, fresh.exit_code, fresh.not_before) == (3, ("GPU-1",), None, None)
    assert fresh.failures == 1


def test_the_first_reason_to_stop_stays() -> None:
    late = replace(job(S.RUNNING), reason=Reason(Code.TIME_LIMIT, ""), state=S.STOPPING, stopping_at=6.0)
    again = apply(late, lifecycle.Stopping(4, 2, Reason(Code.GPU_LOST, ""), 60.0))
    assert again.reason is not None and again.reason.code is Code.TIME_LIMIT
    assert again.stopping_at == 6.0


def test_a_preempted_attempt_costs_no_retry() -> None:
    before = job(S.STOPPING)
    counted = apply(before, event(lifecycle.Requeued))
    spared = apply(before, lifecycle.Requeued(4, 2, Reason(Code.PREEMPTED, ""), None, 1.0))
    assert (counted.failures, spared.failures) == (1, 0)


def test_revising_keeps_everything_else() -> None:
    before = job(S.RUNNING)
    after = apply(before, event(lifecycle.Revised))
    changed = {field.name for field in fields(Job) if getattr(after, field.name) != getattr(before, field.name)}
    assert changed == {"spec", "not_before"}


RUNNING = job(S.RUNNING)
LOST = Reason(Code.SUPERVISOR_LOST, "")


def stopping(code: Code) -> Job:
    """A job that is to end, for this reason."""
    return job(S.STOPPING, reason=Reason(code, ""))


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        (Code.TIME_LIMIT, Code.CANCELLED_BY, Code.CANCELLED_BY),
        (Code.TIME_LIMIT, Code.GPU_LOST, Code.TIME_LIMIT),
        (Code.CANCELLED_BY, Code.TIME_LIMIT, Code.CANCELLED_BY),
        (Code.GPU_LOST, Code.CANCELLED_BY, Code.CANCELLED_BY),
        (Code.PREEMPTED, Code.CANCELLED_BY, Code.CANCELLED_BY),
        (Code.GPU_LOST, Code.PREEMPTED, Code.GPU_LOST),
        (Code.CANCELLED_BY, Code.GPU_LOST, Code.CANCELLED_BY),
    ],
)
def test_the_first_reason_to_stop_stays_unless_it_would_mean_another_attempt_or_was_no_cancel(
    first: Code, second: Code, kept: Code
) -> None:
    after = apply(stopping(first), lifecycle.Stopping(4, 2, Reason(second, ""), 60.0))
    assert after.reason is not None and after.reason.code is kept


def test_who_cancels_what_has_just_failed_at_its_time_limit_gets_no_other_attempt() -> None:
    before = stopping(Code.TIME_LIMIT)
    before = replace(before, spec=replace(before.spec, retries=3))
    cancelled = apply(before, lifecycle.Stopping(4, 2, Reason(Code.CANCELLED_BY, ""), 60.0))
    assert isinstance(lifecycle.verdict(before, Outcome(3), 61.0), lifecycle.Requeued)
    assert isinstance(lifecycle.verdict(cancelled, Outcome(3), 61.0), lifecycle.Cancelled)


@pytest.mark.parametrize(
    ("before", "outcome", "kind", "code"),
    [
        (RUNNING, Outcome(0), lifecycle.Succeeded, Code.OK),
        (RUNNING, Outcome(3), lifecycle.Failed, Code.EXIT_CODE),
        (RUNNING, Outcome(139, 11), lifecycle.Failed, Code.SIGNAL),
        (job(S.STARTING), Outcome(None, failure=Reason(Code.LAUNCH_FAILED, "")), lifecycle.Failed, Code.LAUNCH_FAILED),
        (job(S.STARTING), Outcome(0), lifecycle.Succeeded, Code.OK),
        (job(S.STOPPING), Outcome(143, 15), lifecycle.Cancelled, Code.CANCELLED_BY),
        (job(S.STOPPING), Outcome(0), lifecycle.Cancelled, Code.CANCELLED_BY),
        (stopping(Code.TIME_LIMIT), Outcome(143, 15, stopped=True), lifecycle.TimedOut, Code.TIME_LIMIT),
        (stopping(Code.TIME_LIMIT), Outcome(0, stopped=True), lifecycle.TimedOut, Code.TIME_LIMIT),
        (stopping(Code.TIME_LIMIT), Outcome(0), lifecycle.Succeeded, Code.OK),
        (stopping(Code.TIME_LIMIT), Outcome(3), lifecycle.Failed, Code.EXIT_CODE),
        (stopping(Code.TIME_LIMIT), Outcome(None, failure=LOST), lifecycle.TimedOut, Code.TIME_LIMIT),
        (stopping(Code.PREEMPTED), Outcome(143, 15, stopped=True), lifecycle.Requeued, Code.PREEMPTED),
        (stopping(Code.GPU_LOST), Outcome(137, 9, stopped=True), lifecycle.Failed, Code.GPU_LOST),
        (stopping(Code.GPU_LOST), Outcome(3), lifecycle.Failed, Code.GPU_LOST),
        (stopping(Code.GPU_LOST), Outcome(0), lifecycle.Succeeded, Code.OK),
    ],
)
def test_how_an_attempt_ended_says_what_becomes_of_its_job(
    before: Job, outcome: Outcome, kind: type[Event], code: Code
) -> None:
    made = verdict(before, outcome, 50.0)
    assert type(made) is kind
    after = apply(before, made)
    reason = made.reason if isinstance(made, lifecycle.Requeued) else after.reason
    assert reason is not None and reason.code is code
    assert after.exit_code == outcome.exit_code


@pytest.mark.parametrize("code", Code)
def test_retries_are_for_the_ends_the_contract_names(code: Code) -> None:
    again = replace(RUNNING, spec=spec(retries=1))
    made = verdict(again, Outcome(1, failure=Reason(code, "")), 50.0)
    named = {
        "exit_code", "signal", "out_of_memory", "gpu_lost", "container_lost", "supervisor_lost", "machine_restarted",
    }  # fmt: skip
    assert isinstance(made, lifecycle.Requeued) == (code.value in named)


def test_the_delay_doubles_up_to_a_day_and_counts_from_the_end() -> None:
    delays = []
    for failures in range(20):
        before = replace(RUNNING, spec=spec(retries=99, retry_delay=5.0), failures=failures)
        made = verdict(before, Outcome(1, finished_at=100.0), 105.0)
        assert isinstance(made, lifecycle.Requeued) and made.not_before is not None
        delays.append(made.not_before - 100.0)
    assert delays[:4] == [5.0, 10.0, 20.0, 40.0]
    assert delays[-1] == 86_400.0
    assert type(verdict(replace(RUNNING, spec=spec(retries=2), failures=2), Outcome(1), 1.0)) is lifecycle.Failed


def test_no_delay_is_longer_for_an_end_by_a_clock_that_was_set_back_since() -> None:
    before = replace(RUNNING, spec=spec(retries=1, retry_delay=5.0))
    made = lifecycle.verdict(before, Outcome(1, finished_at=3700.0), 100.0)
    assert isinstance(made, lifecycle.Requeued)
    assert (made.at, made.not_before) == (3700.0, 105.0)


def test_an_end_that_nobody_saw_is_dated_now() -> None:
    made = verdict(RUNNING, Outcome(0), 50.0)
    assert isinstance(made, lifecycle.Succeeded) and made.at == 50.0


def test_an_exit_reads_well() -> None:
    assert exit_reason(0, None).text == "ended well"
    assert exit_reason(3, None).text == "exited with code 3"
    assert exit_reason(137, 9).text == "killed by SIGKILL (9)"
    assert exit_reason(190, 62).text == "killed by signal 62 (62)"


def drawn() -> str:
    """The table as a Mermaid diagram."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (before, kind), after in TRANSITIONS.items():
        if kind not in (lifecycle.Revised, lifecycle.Idled):
            arrows.setdefault((before.value, after.value), []).append(kind.__name__)
    lines = ["%% Drawn from lifecycle.TRANSITIONS by tests/core/test_lifecycle.py, which also compares them."]
    lines += [
        "%% Revised and Idled say something of a job, and never change its state.",
        "stateDiagram-v2",
        "    [*] --> queued",
    ]
    lines += ["    [*] --> held"]
    lines += [f"    {before} --> {after}: {', '.join(kinds)}" for (before, after), kinds in arrows.items()]
    lines += [f"    {state.value} --> [*]" for state in JobState if state in SETTLED]
    return "\n".join(lines) + "\n"


def test_the_diagram_is_the_table() -> None:
    assert DIAGRAM.read_text() == drawn(), (
        "draw it again: PYTHONPATH=client:scheduler:tests python tests/core/test_lifecycle.py"
    )


if __name__ == "__main__":
    DIAGRAM.write_text(drawn())
