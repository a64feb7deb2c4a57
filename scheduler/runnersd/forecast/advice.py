"""What would let a waiting job start now: each thing found by asking the planner, so that only what is true is said."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from runners.api import JobState
from runners.pipeline.quantities import format_duration
from runnersd.lines import shape_of
from runnersd.model import Gpu, Job
from runnersd.planner import Start, World, plan
from runnersd.planner.walk import Walk
from runnersd.planner.words import cards_text

#: So many drained cards are looked at.
_DRAINED = 4
#: So many time limits are tried, the longest first.
_LIMITS = 4
#: No shorter time limit is worth saying (seconds).
_SHORTEST = 60.0
#: Time limits as people say them, in seconds: whole minutes below an hour, whole five minutes below a day, then hours.
_GRAINS = ((3600.0, 60.0), (86_400.0, 300.0), (math.inf, 3600.0))


@dataclass(frozen=True, slots=True)
class Advice:
    """Something with which a job would start now: a key of the job, or `undrain`, its value, and words that follow
    "would start now"."""

    key: str
    value: Any
    text: str


def advice(job: Job, world: Callable[[], World], now: Callable[[], float]) -> Iterator[Advice | None]:
    """What would let the job start now, tried a thing at a time; None for one that would not.

    Between two of them the world may change. They are tried for as long as the job waits as it did.
    """
    for attempt in (_with_a_limit, _with_other_cards, _with_drained_cards):
        for found in attempt(job, world, now):
            yield found
            if world().snapshot.jobs.get(job.id) is not job:
                return


def starts(world: World, job: Job, now: float) -> bool:
    """Whether the planner would start the job now."""
    return any(isinstance(one, Start) and one.job.id == job.id for one in plan(world, now).decisions)


def can_be_advised(job: Job, world: World) -> bool:
    """Whether nothing but resources stands in the job's way."""
    open_ = world.paused is None and world.low_disk is None
    return open_ and job.state is JobState.QUEUED and world.snapshot.ready(job)


def _with_a_limit(job: Job, world: Callable[[], World], now: Callable[[], float]) -> Iterator[Advice | None]:
    seen, at = world(), now()
    walk = Walk(seen, at)
    walk.run()
    kept = walk.grants.space.reservations.get(job.id)
    if kept is not None:
        walk.grants.space.lift(kept)
    ends = {at + walk.grants.space.fit(job, shape_of(job), heeds=True).seconds}
    ends |= {booking.starts_at for booking in seen.bookings if booking.uid != job.pipeline.submitter.uid}
    for end in sorted((end for end in ends if _SHORTEST <= end - at < math.inf), reverse=True)[:_LIMITS]:
        seen, at = world(), now()
        grain = next(grain for most, grain in _GRAINS if end - at < most)
        limit = math.floor((end - at) / grain) * grain
        if job.spec.time_limit is not None and job.spec.time_limit <= limit:
            continue
        if _would_start(job, seen, at, time_limit=limit):
            yield Advice("time_limit", limit, f"with a time limit of at most {format_duration(limit)}")
            return
        yield None


def _with_other_cards(job: Job, world: Callable[[], World], now: Callable[[], float]) -> Iterator[Advice | None]:
    spec = job.spec
    if spec.gpu_model is not None and _would_start(job, world(), now(), gpu_model=None):
        yield Advice("gpu_model", None, f"on {cards_text(spec.num_gpus)} of any model")
    yield None
    if spec.gpu_capability is not None and _would_start(job, world(), now(), gpu_capability=None):
        yield Advice("gpu_capability", None, f"on {cards_text(spec.num_gpus)} of any compute capability")
    yield None
    if spec.gpus:
        return
    for number in _fewer(spec.num_gpus):
        if _would_start(job, world(), now(), num_gpus=number):
            yield Advice("num_gpus", number, f"with {cards_text(number)}")
            return
        yield None


def _with_drained_cards(job: Job, world: Callable[[], World], now: Callable[[], float]) -> Iterator[Advice | None]:
    for gpu in _drained(job, world())[:_DRAINED]:
        seen = world()
        used = replace(seen, drained={uuid: why for uuid, why in seen.drained.items() if uuid != gpu.uuid})
        if starts(used, job, now()):
            yield Advice("undrain", gpu.index, f"if card {gpu.index} were undrained")
            return
        yield None


def _fewer(number: int) -> Sequence[int]:
    return sorted({number - 1, number // 2, 1} - {number, 0, -1}, reverse=True)


def _drained(job: Job, world: World) -> list[Gpu]:
    return [gpu for gpu in world.inventory.gpus if job.spec.num_gpus and gpu.uuid in world.drained]


def _would_start(job: Job, world: World, now: float, **keys: Any) -> bool:
    changed = replace(job, spec=replace(job.spec, **keys))
    with world.snapshot.imagining([changed]):
        return starts(world, changed, now)
