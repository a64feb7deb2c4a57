"""One pass over what is ready, best first, handing out what is free."""

from __future__ import annotations

from typing import Literal

from runners.api import Code
from runnersd.model import GpuId, Job, PipelineId, Reason
from runnersd.planner.cards import Cards
from runnersd.planner.decisions import Start
from runnersd.planner.images import Images
from runnersd.planner.order import Order
from runnersd.planner.room import Room
from runnersd.planner.world import World
from runnersd.snapshot import Shape


class Walk:
    """What starts, what fails, and why each shape that is left waits. Made for one plan, and run once."""

    def __init__(self, world: World, now: float) -> None:
        self.starts: list[Start] = []
        self.failed: list[tuple[Job, Reason]] = []
        self.blocked: dict[Shape, Reason] = {}
        self.images = Images(world, now)
        self.cards = Cards(world)
        self._room = Room(world)
        self._snapshot = world.snapshot
        self._started: dict[PipelineId, int] = {}

    def run(self) -> None:
        """Look at every job that could start, and no others."""
        order = Order(self._snapshot)
        while (first := order.first()) is not None:
            match self._look_at(*first):
                case "taken":
                    order.take()
                case "blocked":
                    order.leave_shape()
                case "passed over":
                    order.pass_over()

    def _look_at(self, job: Job, shape: Shape) -> Literal["taken", "blocked", "passed over"]:
        """Start the job if it fits, or settle it if it never will; block its shape if it does not fit now.

        It is passed over if its pipeline is at its limit.
        """
        pipeline = job.pipeline.id
        live = self._snapshot.progress[pipeline].live + self._started.get(pipeline, 0)
        if live >= job.pipeline.num_jobs:
            return "passed over"
        if shape.image is not None:
            image = self.images.lacks(job, shape.image)
            if image is not None and image.code is Code.LAUNCH_FAILED:
                self.failed.append((job, image))
                return "taken"
            if image is not None:
                self.blocked[shape] = image
                return "blocked"
        gpus: tuple[GpuId, ...] = ()
        reason = self._room.lacks(job)
        if shape.num_gpus:
            chosen = self.cards.choose(job, reason is not None)
            if isinstance(chosen, Reason):
                reason = reason or chosen
            else:
                gpus = chosen
        if reason is not None:
            self.blocked[shape] = reason
            return "blocked"
        self.cards.take(gpus)
        self._room.take(job)
        self._started[pipeline] = self._started.get(pipeline, 0) + 1
        self.starts.append(Start(job, gpus))
        return "taken"
