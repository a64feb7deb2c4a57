"""What a plan does, in one line that a person can follow: who is stopped, what starts where, and what is kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from runners.api import JobState
from runnersd.model import GpuId, Job, JobId
from runnersd.planner.decisions import Plan, Reservation, Start, Stop
from runnersd.planner.words import clock_text, user_of
from runnersd.planner.world import World

#: Jobs that are named of those that start at once.
_NAMED = 5
#: A reservation has moved when it is so many seconds away from where it was said to be, and so large a part of the time
#: for which there has been one: where nobody knows when a job ends, it moves on and on.
_MOVED, _PART = 300.0, 0.5


@dataclass(frozen=True, slots=True)
class Told:
    """The line, and what it is about. ``minor``: only jobs without cards start."""

    text: str
    started: tuple[JobId, ...]
    kept: tuple[JobId, ...]
    passed: tuple[JobId, ...]  #: that wait with cards kept for them, and which a later one goes before
    minor: bool


@dataclass(frozen=True, slots=True)
class _Said:
    at: float  #: from when on cards are kept
    since: float  #: when that was first said


class Telling:
    """Remembers what it has told of reservations, so that nothing is told again that has hardly changed."""

    def __init__(self) -> None:
        self._said: dict[JobId, _Said] = {}

    def tell(self, plan: Plan, world: World, now: float) -> Told | None:
        """What is to be told of a plan; None when it is nothing new."""
        starts = [one for one in plan.decisions if isinstance(one, Start)]
        stops = [one for one in plan.decisions if isinstance(one, Stop)]
        news = [(made, self._said.get(made.job.id)) for made in plan.reservations if self._is_news(made, now)]
        for made, before in news:
            self._said[made.job.id] = _Said(made.at, before.since if before is not None else now)
        if not starts and not stops and not news:
            return None
        indices = {gpu.uuid: gpu.index for gpu in world.inventory.gpus}
        parts = [f"stops {_named(one.job)}{_on(one.job.gpus, indices)}: {one.reason.text}" for one in stops]
        passed: dict[JobId, None] = {}
        for one in starts[:_NAMED]:
            before_it = [made.job.id for made in plan.reservations if _passes(one.job, made.job)]
            passed.update(dict.fromkeys(before_it))
            past = f" before {_listed(before_it)}" if before_it else ""
            kept = " as kept for it" if one.job.id in self._said else ""
            parts.append(f"starts {_named(one.job)}{_on(one.gpus, indices)}{kept}{past}")
        if len(starts) > _NAMED:
            parts.append(f"starts {len(starts) - _NAMED} more")
        parts += [_keeps(made, before, indices, now) for made, before in news]
        self._forget(world, [one.job.id for one in starts])
        return Told(
            "; ".join(parts),
            tuple(one.job.id for one in starts),
            tuple(made.job.id for made, _ in news),
            tuple(passed),
            minor=not news and not stops and not any(one.gpus for one in starts),
        )

    def _is_news(self, made: Reservation, now: float) -> bool:
        said = self._said.get(made.job.id)
        return said is None or abs(made.at - said.at) >= max(_MOVED, _PART * (now - said.since))

    def _forget(self, world: World, started: Iterable[JobId]) -> None:
        """Only of jobs that wait is there more to tell."""
        gone = set(started)
        for id in list(self._said):
            job = world.snapshot.jobs.get(id)
            if id in gone or job is None or job.state is not JobState.QUEUED:
                del self._said[id]


def _passes(job: Job, kept_for: Job) -> bool:
    """Whether a job that starts goes before one that has waited for longer, and is as urgent."""
    earlier = (kept_for.submitted_at, kept_for.id) < (job.submitted_at, job.id)
    return earlier and kept_for.priority >= job.priority and bool(job.spec.num_gpus) == bool(kept_for.spec.num_gpus)


def _keeps(made: Reservation, before: _Said | None, indices: Mapping[GpuId, int], now: float) -> str:
    what = _cards(made.gpus, indices) or "room"
    moved = "" if before is None else f" (was {clock_text(before.at, now)})"
    does, to = ("owes", "to") if made.owed else ("keeps", "for")
    return f"{does} {what} {to} {_named(made.job)} from {clock_text(made.at, now)}{moved}"


def _named(job: Job) -> str:
    return f"{job.id} {job.spec.name} ({user_of(job)})"


def _on(gpus: Sequence[GpuId], indices: Mapping[GpuId, int]) -> str:
    cards = _cards(gpus, indices)
    return f" on {cards}" if cards else ""


def _cards(gpus: Sequence[GpuId], indices: Mapping[GpuId, int]) -> str:
    numbers = [str(indices.get(uuid, uuid)) for uuid in gpus]
    return f"card{'s' if len(numbers) > 1 else ''} {','.join(numbers)}" if numbers else ""


def _listed(ids: Sequence[JobId]) -> str:
    return ", ".join(map(str, ids[:_NAMED])) + (" ..." if len(ids) > _NAMED else "")
