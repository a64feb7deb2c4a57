"""What jobs wait in: lines of those that are alike to the planner, each as long as it may be."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

from runnersd.model import Job
from runnersd.past.kinds import Kind, kind_of


class Shape(NamedTuple):
    """What a job asks of the machine. Jobs of one shape fit, or do not, alike, but for how long they run."""

    num_gpus: int
    gpu_memory: int | None
    gpu_shared: bool
    gpu_model: str | None
    gpu_capability: str | None
    gpus: tuple[str, ...]
    cpus: float | None
    memory: int | None
    image: str | None  #: of a container; None on the host

    @property
    def each_card(self) -> Hashable:
        """What it asks of each card, however many it needs and whatever else."""
        return self.gpu_memory, self.gpu_shared, self.gpu_model, self.gpu_capability, self.gpus


class Line(NamedTuple):
    """Jobs that are alike in all that the planner asks of them, and go in the order in which they were submitted."""

    priority: int
    uid: int
    shape: Shape
    kind: Kind
    limit: float | None  #: seconds
    resumed: bool = False  #: they had started before, and made way for others


def shape_of(job: Job) -> Shape:
    """The job's shape."""
    spec = job.spec
    image = spec.image if spec.run_in == "container" else None
    return Shape(
        spec.num_gpus,
        spec.gpu_memory,
        spec.gpu_shared,
        spec.gpu_model,
        spec.gpu_capability,
        spec.gpus,
        spec.cpus,
        spec.memory,
        image,
    )


def line_of(job: Job) -> Line:
    """Where the job waits."""
    spec = job.spec
    return Line(
        spec.priority, job.pipeline.submitter.uid, shape_of(job), kind_of(spec), spec.time_limit, job.preempted > 0
    )
