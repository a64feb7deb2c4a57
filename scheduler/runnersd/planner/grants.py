"""What one plan has given so far: who starts on which cards, and what that leaves to whom."""

from __future__ import annotations

from collections.abc import Mapping

from runnersd.lines import Line, Shape, shape_of
from runnersd.model import GpuId, Job, JobId, PipelineId, Reason
from runnersd.past.usage import used
from runnersd.planner.allowance import Allowance
from runnersd.planner.decisions import Start
from runnersd.planner.images import Images
from runnersd.planner.lengths import Passing, length
from runnersd.planner.space import Space
from runnersd.planner.world import World
from runnersd.urgency import cards_of, work_of


class Grants:
    """The plan's starts, and everything that limits the next one. Readers must not change what they are given."""

    def __init__(self, world: World, now: float) -> None:
        self.starts: list[Start] = []
        self.taken: set[JobId] = set()  #: jobs that are settled by this plan
        self.space = Space(world, now)
        self.allowance = Allowance(world)
        self.images = Images(world, now)
        self.used = use_expected(world, self.space.ends, now)
        self._world, self._now = world, now
        self._started: dict[PipelineId, int] = {}

    def start(self, job: Job, line: Line, way: Passing) -> None:
        """Start the job, which fits."""
        self.starts.append(Start(job, self.give(job, line, way)))

    def give(self, job: Job, line: Line, way: Passing) -> tuple[GpuId, ...]:
        """Give the job all that it needs from now on. Returns its cards."""
        shape, lines = line.shape, self._world.snapshot.lines
        estimate = lines.estimate(line)
        gpus = self.space.start(job, shape, way.seconds, self._now + length(estimate, self._world), way.heeds)
        pipeline, uid = job.pipeline.id, line.uid
        self._started[pipeline] = self._started.get(pipeline, 0) + 1
        self.taken.add(job.id)
        self.allowance.take(uid, shape.num_gpus)
        if shape.num_gpus:
            self.used[uid] = self.used.get(uid, 0.0) + work_of(shape, estimate, self._world.measures)
        return gpus

    def bars(self, job: Job, line: Line) -> bool:
        """Whether the job is settled, or something besides the machine stands in its way."""
        shape = line.shape
        return (
            job.id in self.taken
            or self.at_limit(job)
            or self.lacks_image(job, shape) is not None
            or self.allowance.exceeded(line.uid, shape.num_gpus) is not None
        )

    def at_limit(self, job: Job) -> bool:
        """Whether as many of the job's pipeline run as may."""
        pipeline = job.pipeline
        live = self._world.snapshot.progress[pipeline.id].live
        return live + self._started.get(pipeline.id, 0) >= pipeline.num_jobs

    def lacks_image(self, job: Job, shape: Shape) -> Reason | None:
        """Why a container job cannot start, for its image's sake."""
        return None if shape.image is None else self.images.lacks(job, shape.image)


def use_expected(world: World, ends: Mapping[JobId, float], now: float) -> dict[int, float]:
    """What everybody has used and is expected to use, in card-seconds, by uid."""
    snapshot, measures = world.snapshot, world.measures
    found = {uid: snapshot.usage.of(uid, now, measures.half_life) for uid in snapshot.usage.charges}
    for job in snapshot.live.values():
        if job.gpus:
            uid = job.pipeline.submitter.uid
            cards = cards_of(shape_of(job), measures)
            had = used(cards, max(now - (job.started_at or now), 0.0), measures.half_life)
            found[uid] = found.get(uid, 0.0) + had + cards * (ends[job.id] - now)
    return found
