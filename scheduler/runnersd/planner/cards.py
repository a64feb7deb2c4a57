"""Which cards a job can have, for how long, and from when on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from runners.api import Code
from runners.spec import JobSpec
from runnersd.inventory import matches
from runnersd.lines import Shape
from runnersd.model import Gpu, GpuId, Job, JobId, Reason
from runnersd.planner.timeline import Timeline
from runnersd.planner.words import cards_text
from runnersd.planner.world import Outsiders, World, outsiders, usable


class Card:
    """A card that may be given out, and when it is taken. What is taken of it is its memory, in bytes.

    A card whose memory is not known is given to one job at a time. One that somebody else uses (``beside``) is given to
    shared jobs only, as far as they leave some of it.
    """

    def __init__(self, gpu: Gpu, margin: int, beside: Outsiders | None = None) -> None:
        self.gpu, self.beside = gpu, beside
        held = (beside.memory if beside is not None else None) or 0
        self._total = None if gpu.memory_total is None else max(gpu.memory_total - margin - held, 1)
        self.time = Timeline(float(self._total or 1))

    def open_to(self, spec: JobSpec) -> bool:
        """Whether the job could have it if none of ours did."""
        if self.beside is not None and not (spec.gpu_shared and spec.gpu_memory is not None):
            return False
        return matches(self.gpu, spec) and self.amount(spec) <= self.time.capacity

    def amount(self, spec: JobSpec) -> float:
        """How much of the card the job takes: its share, or all of it."""
        if spec.gpu_shared and spec.gpu_memory is not None and self._total is not None:
            return float(spec.gpu_memory)
        return self.time.capacity

    def roomy(self, spec: JobSpec) -> bool:
        """Whether enough of the card's memory is free, as it was seen, for a job that has the card alone."""
        if spec.gpu_memory is None or spec.gpu_shared or self.gpu.memory_total is None:
            return True
        return self.gpu.memory_total - (self.gpu.memory_used or 0) >= spec.gpu_memory


class Cards:
    """The cards as they are given out and kept. ``ends`` says when live jobs are expected to end (Unix seconds)."""

    def __init__(self, world: World, now: float, ends: Mapping[JobId, float]) -> None:
        self._world, self._now = world, now
        self.cards: dict[GpuId, Card] = {}
        self.unusable: dict[GpuId, Reason] = {}
        self._able: dict[Shape, list[Card]] = {}
        for gpu in world.inventory.gpus:
            reason = usable(gpu, world)
            if reason is not None:
                self.unusable[gpu.uuid] = reason
                continue
            card = self.cards[gpu.uuid] = Card(gpu, world.margin, outsiders(gpu, world))
            for id, job in world.snapshot.holders.get(gpu.uuid, {}).items():
                card.time.take(now, max(ends[id], math.nextafter(now, math.inf)), card.amount(job.spec))

    def able(self, job: Job, shape: Shape) -> list[Card] | Reason:
        """The cards that the job could have if nobody else did; or why there are too few for it to run at all."""
        spec = job.spec
        if self._world.inventory.stale:
            return Reason(Code.INVENTORY_STALE, self._world.inventory.problem or "the driver does not answer")
        found = self._able.get(shape)
        if found is None:
            found = self._able[shape] = [card for card in self.cards.values() if card.open_to(spec)]
        if len(found) >= spec.num_gpus:
            return found
        reasons = self.refused(spec)
        code = reasons[0].code if reasons else Code.NO_FREE_GPU
        why = "; ".join(reason.text for reason in reasons[:3]) or "no card of this machine fits"
        return Reason(code, f"needs {cards_text(spec.num_gpus)}, {len(found)} can be had: {why}")

    def refused(self, spec: JobSpec) -> list[Reason]:
        """Why the job cannot have cards that it could use if nobody but us did, in the cards' order."""
        reasons = []
        for gpu in self._world.inventory.gpus:
            if not matches(gpu, spec):
                continue
            if gpu.uuid in self.unusable:
                reasons.append(self.unusable[gpu.uuid])
            elif (beside := self.cards[gpu.uuid].beside) is not None and not self.cards[gpu.uuid].open_to(spec):
                reasons.append(beside.reason)
        return reasons

    def rooms(self, spec: JobSpec, able: Sequence[Card]) -> list[float]:
        """For how many seconds each of the cards could be had now, longest first."""
        now = self._now
        rooms = [card.time.room(card.amount(spec), now) if card.roomy(spec) else 0.0 for card in able]
        return sorted(rooms, reverse=True)

    def choose(self, spec: JobSpec, able: Sequence[Card], seconds: float) -> tuple[GpuId, ...]:
        """Cards that can be had for so long now, of which there are enough.

        A shared job goes where least is left. Others go where they are least in the way: to cards that are kept for
        somebody soon, before those that are nobody's.
        """
        now = self._now
        fitting: list[tuple[float, int, Card]] = []
        for place, card in enumerate(able):
            room = card.time.room(card.amount(spec), now) if card.roomy(spec) else 0.0
            if room > 0 and room >= seconds:
                fitting.append((card.time.capacity - card.time.taken(now) if spec.gpu_shared else room, place, card))
        best = sorted(fitting, key=lambda one: one[:2])[: spec.num_gpus]
        return tuple(card.gpu.uuid for _, _, card in sorted(best, key=lambda one: one[1]))

    def next_room(
        self, spec: JobSpec, able: Sequence[Card], at: float, seconds: float
    ) -> tuple[float, tuple[GpuId, ...]]:
        """The first time, not before ``at``, from which on enough of the cards can be had for so long, and which."""
        while True:
            firsts = sorted(
                (card.time.next_room(card.amount(spec), at, seconds), place) for place, card in enumerate(able)
            )
            first = firsts[spec.num_gpus - 1][0]
            if first <= at or first == math.inf:
                chosen = sorted(place for _, place in firsts[: spec.num_gpus])
                return first, tuple(able[place].gpu.uuid for place in chosen)
            at = first

    def take(self, spec: JobSpec, gpus: Sequence[GpuId], start: float, end: float) -> None:
        """The job has the cards then."""
        for uuid in gpus:
            card = self.cards[uuid]
            card.time.take(start, end, card.amount(spec))

    def give_back(self, spec: JobSpec, gpus: Sequence[GpuId], start: float, end: float) -> None:
        """Undo a :meth:`take`."""
        for uuid in gpus:
            card = self.cards[uuid]
            card.time.give_back(start, end, card.amount(spec))
