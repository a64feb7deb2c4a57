"""Whether the image of a container job is there, and which ones have to be looked for."""

from __future__ import annotations

from runners.api import Code
from runnersd.model import Job, Reason
from runnersd.planner.world import World

#: Seconds after which what is known of an image is looked at again, and after which it does not count any more.
IMAGE_STALE, IMAGE_OLD = 10.0, 60.0


class Images:
    """What is known of images, and, as jobs ask for them, which ones are not known well enough."""

    def __init__(self, world: World, now: float) -> None:
        self._world, self._now = world, now
        self.unresolved: dict[str, None] = {}

    def lacks(self, job: Job, name: str) -> Reason | None:
        """Why a container job cannot be given cards yet, for its image's or the engine's sake; None when it can.

        With the code `launch_failed` it never can. Nothing is claimed meanwhile: a pull holds no card.
        """
        engine = self._world.engine
        if engine.problem is not None:
            return Reason(Code.ENGINE_UNAVAILABLE, f"the container engine does not answer: {engine.problem}")
        if self._world.engine_low_disk is not None:
            return Reason(Code.LOW_DISK, self._world.engine_low_disk)
        if job.spec.num_gpus and engine.cards is None:
            return Reason(Code.ENGINE_UNAVAILABLE, engine.no_cards)
        known = self._world.images.get(name)
        if known is not None and known.progress is not None:
            return Reason(Code.PULLING_IMAGE, known.progress)
        if known is not None and known.failure is not None and job.submitted_at <= known.at:
            return Reason(Code.LAUNCH_FAILED, known.failure)
        if known is None or known.failure is not None or self._now - known.at > IMAGE_OLD:
            self.unresolved[name] = None
            return Reason(Code.PULLING_IMAGE, f"looking for the image {name}")
        if self._now - known.at > IMAGE_STALE:
            self.unresolved[name] = None  # it is good enough for this job, and better for the next
        return None
