"""Random pipelines and random but lawful histories of them, for properties that must hold whatever happens."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from core.builders import spec
from runners.api import Code, JobState
from runners.spec import Barrier, JobSpec, Need
from runnersd import lifecycle
from runnersd.model import Job, Reason

#: Names as files make them: plain ones, a matrix, two nested items.
NAMES = ("prepare", "train[lr=1]", "train[lr=2]", "report", "a.load", "a.fit[x=1]", "a.fit[x=2]", "b.c.deep", "last")
ITEMS = ("a", "b", "b.c")
NEEDED = (*NAMES, "train", "a.fit", *ITEMS, "all")

needs = st.lists(st.builds(Need, st.sampled_from(NEEDED), st.sampled_from(["success", "finished"])), max_size=2)


@st.composite
def specs(draw: st.DrawFn) -> list[JobSpec]:
    """Between one and nine jobs, each with few or no needs. Some of them wait in a circle, and so for ever."""
    count = draw(st.integers(1, len(NAMES)))
    return [
        spec(
            name,
            needs=draw(needs),
            num_gpus=draw(st.integers(0, 1)),
            gpu_shared=True,
            priority=draw(st.sampled_from([0, 0, 0, -3, 5])),
            allow_failure=draw(st.booleans()),
            retries=draw(st.integers(0, 1)),
            begin=draw(st.sampled_from([None, None, None, 5.0, 20.0])),
        )
        for name in NAMES[:count]
    ]


@st.composite
def barriers(draw: st.DrawFn, count: int) -> tuple[Barrier, ...]:
    """Stretches of positions that hold back what is below them."""
    found = []
    for _ in range(draw(st.integers(0, 2))):
        first = draw(st.integers(0, count - 1))
        found.append(
            Barrier(first, draw(st.integers(first, count - 1)), draw(st.sampled_from(["success", "finished"])))
        )
    return tuple(found)


def possible(job: Job, openly: bool) -> list[type[lifecycle.Event]]:
    """The events that the job's state lets happen, `Reserved` only to a job that may start."""
    return [
        kind
        for state, kind in lifecycle.TRANSITIONS
        if state is job.state and (openly or kind is not lifecycle.Reserved)
    ]


def happen(job: Job, kind: type[lifecycle.Event], now: float, number: int) -> lifecycle.Event:
    """An event of that kind for the job as it is; ``number`` varies what it says."""
    attempt = job.attempt
    if kind is lifecycle.Reserved:
        gpus = (f"GPU-{number % 3}",) if job.spec.num_gpus else ()
        return lifecycle.Reserved(job.id, attempt + 1, gpus)
    if kind is lifecycle.Started:
        return lifecycle.Started(job.id, attempt, now)
    if kind is lifecycle.Stopping:
        return lifecycle.Stopping(job.id, attempt, Reason(Code.CANCELLED_BY, "cancelled by ann"), now)
    if kind is lifecycle.Requeued:
        not_before = None if number % 2 else now + number % 7
        return lifecycle.Requeued(job.id, attempt, Reason(Code.EXIT_CODE, "exited with code 1"), 1, now, not_before)
    if kind is lifecycle.Held:
        return lifecycle.Held(job.id, attempt, Reason(Code.HELD, "held by ann"))
    if kind is lifecycle.Released:
        return lifecycle.Released(job.id, attempt)
    if kind is lifecycle.Revised:
        waiting = job.state in (JobState.QUEUED, JobState.HELD)
        changed = replace(
            job.spec,
            name=f"renamed-{number}",
            priority=number % 5 - 2,
            num_gpus=number % 2 if waiting else job.spec.num_gpus,
        )
        return lifecycle.Revised(job.id, attempt, changed, now + number % 9 if number % 3 == 0 and waiting else None)
    if kind is lifecycle.Idled:
        return lifecycle.Idled(job.id, attempt, now - number if number % 2 else None)
    assert issubclass(kind, lifecycle.Ended)
    code = 0 if kind is lifecycle.Succeeded else None if kind is lifecycle.Skipped else number
    return kind(job.id, attempt, Reason(Code.OK, kind.__name__), code, now)
