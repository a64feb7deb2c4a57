"""How things may turn out: as they are likely to, sooner, or later. Times in Unix seconds, durations in seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from runners.api import JobState
from runnersd.model import Job, JobId
from runnersd.past.estimates import Estimate
from runnersd.planner.lengths import end_of, length
from runnersd.planner.world import World


@dataclass(frozen=True, slots=True)
class Outlook:
    """One way in which things may turn out: how long jobs run, as a share (0 to 1) of those like them.

    ``unknown`` is how long a job runs of which nothing is known. Without a ``share`` it is as the planner expects.
    Whoever ``passes`` goes before what is kept for others if that is over by then; else only if the planner lets them.
    Who makes way for others does so at once if all are ``prompt``, else at the end of their grace.
    """

    share: float | None
    unknown: float = 0.0
    passes: bool = False
    prompt: bool = False

    def end(self, job: Job, world: World, now: float) -> float:
        """When a live job ends."""
        if self.share is None or job.state is JobState.STOPPING:
            return end_of(job, world, now)
        estimate = world.snapshot.outlook[job.id]
        began = world.began(job)
        elapsed = 0.0 if began is None else now - began
        if not estimate.known:
            return now + self.unknown
        left = estimate.remaining(elapsed, self.share, self.unknown)
        return now + (left if estimate.likely else self._of_limit(left))

    def length(self, estimate: Estimate, world: World) -> float:
        """How long a job runs that waits."""
        if self.share is None:
            return length(estimate, world)
        if not estimate.known:
            return self.unknown
        found = estimate.quantile(self.share, self.unknown)
        return found if estimate.likely else self._of_limit(found)

    def _of_limit(self, limit: float) -> float:
        """Where only a limit is known the job may end at any time before it."""
        assert self.share is not None, "a likely length is the planner's"
        return limit * min(2 * self.share, 1.0)

    def ends(self, world: World, now: float) -> dict[JobId, float]:
        """When every live job ends."""
        return {id: self.end(job, world, now) for id, job in world.snapshot.live.items()}


#: As the planner expects, and with nearly all jobs shorter or longer than that. What runs now matters most, and
#: durations are far apart where people give no limits: `tests/benchmarks/replay.py` says how often a range was right.
LIKELY = Outlook(None)
SOONER = Outlook(0.05, passes=True, prompt=True)
LATER = Outlook(0.95, math.inf)
