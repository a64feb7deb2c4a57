"""Which running jobs leave their cards idle, from one look at the cards after the other. Pure.

A job is idle when each of its cards has done next to nothing in every look for so long. A card whose utilisation is not
known is never idle: it ends a spell that is not long enough yet, and leaves one that was told alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from runners.api import JobState
from runners.pipeline.quantities import format_duration
from runnersd.model import GpuId, Job, JobId

#: A card that is busy for less than so many per cent of the time does next to nothing.
BUSY = 5

#: Since when (Unix seconds) the attempts whose cards do nothing now have done nothing: by job and attempt.
Spells = Mapping[tuple[JobId, int], float]


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the cards says: whose spells go on, who has been idle for too long, and who is busy again."""

    spells: Spells
    at: float | None = None  #: when that was (Unix seconds)
    idle: tuple[tuple[Job, float], ...] = ()  #: since when
    busy: tuple[Job, ...] = ()


def look(
    jobs: Iterable[Job],
    utilization: Mapping[GpuId, int | None],
    before: Look,
    after: float | None,
    now: float,
    *,
    gap: float,
) -> Look:
    """What the cards' ``utilization`` (per cent) now says of live jobs, after the look ``before``.

    ``after`` is for how long (seconds) cards may do nothing; None: for ever. ``now`` in Unix seconds. What happened
    nobody saw if the looks are further apart than ``gap`` seconds, or the clock was set: all spells begin anew then.
    """
    seen_since = before.at is not None and 0 <= now - before.at <= gap
    spells: Spells = before.spells if seen_since else {}
    going: dict[tuple[JobId, int], float] = {}
    idle: list[tuple[Job, float]] = []
    busy: list[Job] = []
    for job in jobs:
        if job.state is not JobState.RUNNING or not job.gpus:
            continue
        if after is None:
            busy += [job] if job.idle_since is not None else []
            continue
        seen = [utilization.get(gpu) for gpu in job.gpus]
        if any(value is not None and value >= BUSY for value in seen):
            busy += [job] if job.idle_since is not None else []
        elif job.idle_since is None and None not in seen:
            key = (job.id, job.attempt)
            going[key] = since = spells.get(key, now)
            if now - since >= after:
                idle.append((job, since))
    return Look(going, now, tuple(idle), tuple(busy))


def idle_text(job: Job, now: float) -> str:
    """For how long an idle job's cards have done nothing, in words."""
    cards = "its card has" if len(job.gpus) == 1 else f"its {len(job.gpus)} cards have"
    since = now if job.idle_since is None else job.idle_since
    return f"{cards} done nothing for {format_duration(max(now - since, 0.0))}"
