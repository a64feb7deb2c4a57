"""Which cards a job gets, and who waits for which."""

from __future__ import annotations

from collections.abc import Sequence

from runners.api import Code
from runners.pipeline.quantities import format_size
from runnersd.inventory import matches
from runnersd.model import Gpu, GpuId, Job, JobId, Reason
from runnersd.planner.decisions import Start
from runnersd.planner.foresight import FORESEEN, foresee
from runnersd.planner.words import cards_text, user_of
from runnersd.planner.world import World, usable


class Cards:
    """What is left of the cards while starts are handed out: which are free, and which are claimed, by whom."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.next_up: list[Start] = []
        self._claimed: dict[GpuId, Job] = {}
        self._seen: list[Gpu] | None = None
        self._free: dict[GpuId, Gpu] = {}
        self._unusable: dict[GpuId, Reason] = {}

    def choose(self, job: Job, held_back: bool) -> tuple[GpuId, ...] | Reason:
        """Cards for the job; or why there are none, having claimed those it could use.

        ``held_back`` says that something else keeps it from starting: then it only claims.
        """
        if self._seen is None:
            self._look()
        assert self._seen is not None, "just looked at"
        spec = job.spec
        if self._world.inventory.stale:
            return Reason(Code.INVENTORY_STALE, self._world.inventory.problem or "the driver does not answer")
        fitting = [gpu for gpu in self._seen if matches(gpu, spec)]
        able = [gpu for gpu in fitting if gpu.uuid not in self._unusable]
        if len(able) < spec.num_gpus:
            reasons = [self._unusable[gpu.uuid] for gpu in fitting if gpu.uuid in self._unusable]
            code = reasons[0].code if reasons else Code.NO_FREE_GPU
            why = "; ".join(reason.text for reason in reasons[:3]) or "no card of this machine fits"
            return Reason(code, f"needs {cards_text(spec.num_gpus)}, {len(able)} can be had: {why}")
        roomy = [gpu for gpu in able if gpu.uuid in self._free and _has_room(gpu, spec.gpu_memory)]
        unclaimed = [gpu for gpu in roomy if gpu.uuid not in self._claimed]
        if not held_back and len(unclaimed) >= spec.num_gpus:
            return tuple(gpu.uuid for gpu in unclaimed[: spec.num_gpus])
        ahead = next((self._claimed[gpu.uuid] for gpu in able if gpu.uuid in self._claimed), None)
        # One that opens ports is not made early: it would take them from whoever has them now.
        if ahead is None and spec.run_in == "container" and not spec.ports and not held_back:
            self.next_up += foresee(job, able, self._world, FORESEEN - len(self.next_up))
        for gpu in able:
            self._claimed.setdefault(gpu.uuid, job)
        if len(roomy) >= spec.num_gpus and ahead is not None:
            return Reason(
                Code.BEHIND_RESERVATION,
                f"job {ahead.id} ({user_of(ahead)}) is ahead and needs {cards_text(ahead.spec.num_gpus)}",
            )
        return self._short_of_cards(job, fitting, able, roomy)

    def take(self, gpus: Sequence[GpuId]) -> None:
        """The cards go to a job that starts."""
        for id in gpus:
            del self._free[id]

    def _short_of_cards(self, job: Job, fitting: list[Gpu], able: list[Gpu], roomy: list[Gpu]) -> Reason:
        spec = job.spec
        free = [gpu for gpu in able if gpu.uuid in self._free]
        if len(free) >= spec.num_gpus and spec.gpu_memory is not None:
            return Reason(
                Code.NO_GPU_MEMORY,
                f"needs {cards_text(spec.num_gpus)} with {format_size(spec.gpu_memory)} free: "
                f"{len(roomy)} of {len(free)} have it",
            )
        foreign = [
            self._unusable[gpu.uuid]
            for gpu in fitting
            if gpu.uuid in self._unusable and self._unusable[gpu.uuid].code is Code.FOREIGN_GPU_USE
        ]
        # The code names what would let it start now; the sentence names everything.
        code = Code.FOREIGN_GPU_USE if foreign and len(free) + len(foreign) >= spec.num_gpus else Code.NO_FREE_GPU
        others = "".join(f", {reason.text}" for reason in foreign[:2])
        return Reason(code, f"needs {cards_text(spec.num_gpus)}: {len(free)} free{self._held(able)}{others}")

    def _look(self) -> None:
        self._seen = list(self._world.inventory.gpus)
        for gpu in self._seen:
            reason = usable(gpu, self._world)
            if reason is not None:
                self._unusable[gpu.uuid] = reason
            elif gpu.uuid not in self._world.snapshot.holders:
                self._free[gpu.uuid] = gpu

    def _held(self, able: list[Gpu]) -> str:
        holders: dict[JobId, tuple[Job, int]] = {}
        for gpu in able:
            for id, job in self._world.snapshot.holders.get(gpu.uuid, {}).items():
                holders[id] = (job, holders.get(id, (job, 0))[1] + 1)
        parts = [f"{count} held by {id} ({user_of(job)})" for id, (job, count) in sorted(holders.items())[:3]]
        return "".join(f", {part}" for part in parts) + (", ..." if len(holders) > 3 else "")


def _has_room(gpu: Gpu, wanted: int | None) -> bool:
    if wanted is None or gpu.memory_total is None:
        return True
    return gpu.memory_total - (gpu.memory_used or 0) >= wanted
