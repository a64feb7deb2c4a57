"""Which cards the first job in line may get next, so that its container can be made before they are free."""

from __future__ import annotations

import math
from collections.abc import Sequence

from runnersd.model import Gpu, Job
from runnersd.planner.decisions import Start
from runnersd.planner.stops import time_limit_of
from runnersd.planner.world import World

#: Sets of cards for which containers are made ready at a time.
FORESEEN = 4


def foresee(job: Job, able: Sequence[Gpu], world: World, room: int) -> list[Start]:
    """At most ``room`` ways the job may start next: on the cards whose holders are expected to leave first."""

    def leaves(gpu: Gpu) -> tuple[float, float, int]:
        holders = world.snapshot.holders.get(gpu.uuid, {}).values()
        limits = [time_limit_of(holder) or math.inf for holder in holders]
        started = [holder.started_at or math.inf for holder in holders]
        return max(limits, default=0.0), max(started, default=0.0), gpu.index

    first = sorted(able, key=leaves)
    sets = [[gpu] for gpu in first[:room]] if job.spec.num_gpus == 1 else [first]
    chosen = [sorted(cards[: job.spec.num_gpus], key=able.index) for cards in sets[:room]]
    return [Start(job, tuple(gpu.uuid for gpu in cards)) for cards in chosen]
