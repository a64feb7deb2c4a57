"""Which cards the first job in line may get next, so that its container can be made before they are free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runnersd.model import Gpu, Job, JobId
from runnersd.planner.decisions import Start
from runnersd.planner.world import World

#: Sets of cards for which containers are made ready at a time.
FORESEEN = 4


def foresee(job: Job, able: Sequence[Gpu], world: World, ends: Mapping[JobId, float]) -> list[Start]:
    """The ways in which the job may start next: on the cards whose holders are expected to leave first.

    ``ends`` says when live jobs are expected to end (Unix seconds).
    """

    def leaves(gpu: Gpu) -> tuple[float, int]:
        holders = world.snapshot.holders.get(gpu.uuid, {})
        return max((ends[id] for id in holders), default=0.0), gpu.index

    first = sorted(able, key=leaves)
    sets = [[gpu] for gpu in first[:FORESEEN]] if job.spec.num_gpus == 1 else [first[: job.spec.num_gpus]]
    return [Start(job, tuple(gpu.uuid for gpu in sorted(cards, key=able.index))) for cards in sets]
