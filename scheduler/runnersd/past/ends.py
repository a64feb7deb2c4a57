"""What the end of an attempt teaches: a sample of its kind, and what its user has used."""

from __future__ import annotations

from typing import NamedTuple

from runners.api import Code
from runnersd import lifecycle
from runnersd.model import Job
from runnersd.past.experience import Sample

#: Ends that nobody saw: when they came is not known.
_UNSEEN = frozenset({Code.SUPERVISOR_LOST, Code.MACHINE_RESTARTED, Code.CONTAINER_LOST})


class Lesson(NamedTuple):
    """An attempt that is over. Times in Unix seconds."""

    sample: Sample | None  #: None where its duration says nothing
    start: float
    end: float


def lesson_of(before: Job, event: lifecycle.Event, at: float) -> Lesson | None:
    """What is learned when a live job takes this event; None while its attempt goes on, or if it never ran."""
    if not before.live or before.started_at is None:
        return None
    if not isinstance(event, lifecycle.Ended | lifecycle.Requeued):
        return None
    end = max(event.at or at, before.started_at)
    if event.reason.code in _UNSEEN:
        return Lesson(None, before.started_at, end)
    whole = isinstance(event, lifecycle.Succeeded) or event.reason.code is Code.TIME_LIMIT
    sample = Sample(end - before.started_at, before.spec.time_limit, event.peak_memory, whole)
    return Lesson(sample, before.started_at, end)
