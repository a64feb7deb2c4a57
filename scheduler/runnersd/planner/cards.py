"""Which cards a job can have, for how long, and from when on."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence, Set
from typing import NamedTuple

from runners.api import Code
from runners.pipeline.quantities import format_size
from runners.spec import JobSpec
from runnersd.closeness import closeness
from runnersd.inventory import matches
from runnersd.lines import Shape
from runnersd.model import Booking, Gpu, GpuId, Job, JobId, Reason
from runnersd.planner.closest import Candidate, closest
from runnersd.planner.stops import time_limit_of
from runnersd.planner.timeline import Timeline
from runnersd.planner.words import wanted_text
from runnersd.planner.world import Outsiders, World, outsiders, unclaimed_memory, usable

#: Seconds that are as good as for ever.
_FAR = 1e15


class Asker(NamedTuple):
    """What of a job says which bookings stand in its way: whose it is, and how long it must be taken to run (seconds).

    Where nothing is booked, all jobs are alike.
    """

    uid: int | None = None
    seconds: float = 0.0


#: Cards that are closed to a job for bookings of others, and cards that are its user's own by one.
Standing = tuple[frozenset[GpuId], frozenset[GpuId]]


class Card:
    """A card that may be given out, and when it is taken. What is taken of it is its memory, in bytes.

    A card whose memory is not known is given to one job at a time. One that somebody else uses (``beside``) is given to
    shared jobs only, as far as they leave some of it.
    """

    def __init__(
        self,
        gpu: Gpu,
        margin: int,
        beside: Outsiders | None = None,
        bookings: Sequence[Booking] = (),
        *,
        vacant: bool = False,
        unclaimed: int = 0,
    ) -> None:
        self.gpu, self.beside = gpu, beside
        self.vacant = vacant  #: whether none of ours was on it when it was seen, so that none gives memory back
        self.bookings = bookings  #: of this card, by when they begin; no two at a time
        held = (beside.memory if beside is not None else None) or 0
        #: What is used of it and counted for nobody, in bytes, where that is more than the margin.
        self.unclaimed = unclaimed if unclaimed > margin else 0
        spare = max(margin, self.unclaimed) if vacant else margin  # where ours are, it may go with them
        self._total = None if gpu.memory_total is None else max(gpu.memory_total - spare - held, 1)
        self._measured = math.inf if gpu.memory_total is None else gpu.memory_total - self.unclaimed - held
        self.time = Timeline(float(self._total or 1))
        self.cleared = False  #: whether it is thought of as left by those who were on it when it was seen
        self.owed = math.inf  #: from when on it is owed to somebody for whom nothing is kept yet (Unix seconds)
        self.surely = -math.inf  #: when its holders have left it even if they need all of their limits
        self.holders: dict[JobId, float] = {}  #: when each of ours that had it when it was seen has surely left it

    def open_to(self, spec: JobSpec) -> bool:
        """Whether the job could have it if none of ours did."""
        if self.beside is not None and not (spec.gpu_shared and spec.gpu_memory is not None):
            return False
        return matches(self.gpu, spec) and self.amount(spec) <= self.time.capacity

    @property
    def in_use(self) -> Reason:
        """What is used of it, and counted for nobody, in a sentence."""
        return Reason(
            Code.NO_GPU_MEMORY, f"card {self.gpu.index} has {format_size(self.unclaimed)} in use by nobody known"
        )

    def amount(self, spec: JobSpec) -> float:
        """How much of the card the job takes: its share, or all of it."""
        if spec.gpu_shared and spec.gpu_memory is not None and self._total is not None:
            return float(spec.gpu_memory)
        return self.time.capacity

    def roomy(self, spec: JobSpec) -> bool:
        """Whether enough of the card's memory is free, as it was seen, for a job that has the card alone."""
        if spec.gpu_memory is None or spec.gpu_shared or self.gpu.memory_total is None or self.cleared:
            return True
        return self.gpu.memory_total - (self.gpu.memory_used or 0) >= spec.gpu_memory

    def left(self, now: float) -> float:
        """How much of the card is left for one more share, by what is declared and by what is measured."""
        most = self.time.capacity if self.cleared else min(self.time.capacity, self._measured)
        return most - self.time.taken(now)

    def in_the_way(self, asker: Asker, at: float) -> Booking | None:
        """The first booking of somebody else that a job which starts then would run into."""
        for booking in self.bookings:
            if booking.uid != asker.uid and booking.ends_at > at and booking.starts_at < at + asker.seconds:
                return booking
        return None

    def awaited(self, uid: int | None, now: float) -> bool:
        """Whether somebody else has booked the card for a time that is not over."""
        return any(booking.uid != uid and booking.ends_at > now for booking in self.bookings)

    def booked_for(self, uid: int | None, now: float) -> bool:
        """Whether the card is that user's by a booking now."""
        return any(booking.uid == uid and booking.active(now) for booking in self.bookings)

    def room(self, spec: JobSpec, asker: Asker | None, now: float, heeds: bool = False) -> float:
        """For how many seconds from now on a job can have the card; 0 when it cannot. None asks for as if nothing were
        booked. One that ``heeds`` what is owed to others must leave it by then.

        Who has booked it need not heed what is kept for others.
        """
        if not self.roomy(spec):
            return 0.0
        amount = self.amount(spec)
        if spec.gpu_shared and self.unclaimed and amount > self.left(now):
            return 0.0
        room = self.time.room(amount, now)
        if asker is not None and self.bookings:
            if self.in_the_way(asker, now) is not None:
                return 0.0
            if room and self.booked_for(asker.uid, now):
                return math.inf
        return min(room, max(self.owed - now, 0.0)) if heeds else room

    def next_room(self, spec: JobSpec, asker: Asker, at: float, seconds: float) -> float:
        """The first time, not before ``at``, from which on a job can have the card for so long; infinity if nobody can
        tell, because none of ours has the memory that it lacks."""
        if self.vacant and not self.roomy(spec):
            return math.inf
        longest = Asker(asker.uid, max(asker.seconds, seconds))
        while True:
            first = self._first(spec, at, seconds)
            booking = self.in_the_way(longest, first) if self.bookings else None
            if booking is None:
                return first
            at = booking.ends_at

    def _first(self, spec: JobSpec, at: float, seconds: float) -> float:
        """When the job's amount is first free for so long: of a share beside what is in use by nobody known, which may
        go with those who were on the card when it was seen."""
        amount, over = self.amount(spec), self.time.capacity - self._measured
        if not spec.gpu_shared or self.cleared or over <= 0:
            return self.time.next_room(amount, at, seconds)
        gone = max(self.holders.values(), default=at)
        beside = self.time.next_room(amount + over, at, seconds)
        return min(beside, self.time.next_room(amount, max(at, gone), seconds))


class Cards:
    """The cards as they are given out and kept. ``ends`` says when live jobs are expected to end (Unix seconds)."""

    def __init__(self, world: World, now: float, ends: Mapping[JobId, float]) -> None:
        self._world, self._now = world, now
        self.cards: dict[GpuId, Card] = {}
        self.unusable: dict[GpuId, Reason] = {}
        self._able: dict[Hashable, list[Card]] = {}
        self._rooms: dict[Hashable, list[float]] = {}
        self._standings: dict[Asker, Standing] = {}
        self._near = closeness(world.inventory.topology)
        booked: dict[GpuId, list[Booking]] = {}
        for booking in world.bookings:
            if booking.ends_at > now:
                for uuid in booking.gpus:
                    booked.setdefault(uuid, []).append(booking)
        self.bookable = bool(booked)  #: whether anything is booked
        for gpu in world.inventory.gpus:
            reason = usable(gpu, world)
            if reason is not None:
                self.unusable[gpu.uuid] = reason
                continue
            holders = world.snapshot.holders.get(gpu.uuid, {})
            vacant = not holders and not world.ended
            beside = outsiders(gpu, world)
            unclaimed = unclaimed_memory(gpu, world, beside, now)
            card = Card(gpu, world.margin, beside, booked.get(gpu.uuid, ()), vacant=vacant, unclaimed=unclaimed)
            self.cards[gpu.uuid] = card
            for id, job in holders.items():
                card.holders[id] = max(ends[id], time_limit_of(job, world) or ends[id])
                card.surely = max(card.surely, card.holders[id])
                card.time.take(now, max(ends[id], math.nextafter(now, math.inf)), card.amount(job.spec))

    def able(self, job: Job, shape: Shape) -> list[Card] | Reason:
        """The cards that the job could have if nobody else did; or why there are too few for it to run at all."""
        spec = job.spec
        if self._world.inventory.stale:
            return Reason(Code.INVENTORY_STALE, self._world.inventory.problem or "the driver does not answer")
        found = self._able.get(shape.each_card)
        if found is None:
            found = self._able[shape.each_card] = [card for card in self.cards.values() if card.open_to(spec)]
        if len(found) >= spec.num_gpus:
            return found
        reasons = self.refused(spec)
        code = reasons[0].code if reasons else Code.NO_FREE_GPU
        why = "; ".join(reason.text for reason in reasons[:3]) or "no card of this machine fits"
        return Reason(code, f"needs {wanted_text(spec)}, {len(found)} can be had: {why}")

    def refused(self, spec: JobSpec) -> list[Reason]:
        """Why the job cannot have cards that it could use if nobody but us did, in the cards' order."""
        reasons = []
        for gpu in self._world.inventory.gpus:
            if not matches(gpu, spec):
                continue
            if gpu.uuid in self.unusable:
                reasons.append(self.unusable[gpu.uuid])
                continue
            card = self.cards[gpu.uuid]
            if card.open_to(spec):
                continue
            if card.beside is not None:
                reasons.append(card.beside.reason)
            if card.unclaimed:
                reasons.append(card.in_use)
        return reasons

    def standing(self, asker: Asker) -> Standing:
        """Which cards are closed to such a job now, for bookings of others, and which are its user's own."""
        found = self._standings.get(asker)
        if found is None:
            cards = [card for card in self.cards.values() if card.bookings]
            closed = frozenset(card.gpu.uuid for card in cards if card.in_the_way(asker, self._now) is not None)
            own = frozenset(card.gpu.uuid for card in cards if card.booked_for(asker.uid, self._now))
            found = self._standings[asker] = (closed, own)
        return found

    def rooms(
        self, job: Job, shape: Shape, able: Sequence[Card], asker: Asker | None, heeds: bool = False
    ) -> list[float]:
        """For how many seconds each of the cards could be had now, longest first."""
        key = (shape.each_card, None if asker is None else self.standing(asker), heeds)
        found = self._rooms.get(key)
        if found is None:
            rooms = (card.room(job.spec, asker, self._now, heeds) for card in able)
            found = self._rooms[key] = sorted(rooms, reverse=True)
        return found

    def choose(
        self, spec: JobSpec, able: Sequence[Card], seconds: float, asker: Asker, heeds: bool = False
    ) -> tuple[GpuId, ...]:
        """Cards that can be had for so long now, of which there are enough.

        Those that the job's user has booked come first. Then a shared job goes where least is left. Others get cards of
        one model, the smallest that do if they say what they need, close to each other and far from those that stay
        free. Among equals they go where they are least in the way: to cards that are kept for somebody soon, before
        those that are nobody's; and without a time limit last of all to those that somebody has booked for later.
        """
        now = self._now
        fitting: list[tuple[bool, float, int, Card]] = []
        for place, card in enumerate(able):
            room = card.room(spec, asker, now, heeds)
            if room > 0 and room >= seconds:
                left = card.time.capacity - card.time.taken(now) if spec.gpu_shared else min(room, _FAR)
                if spec.time_limit is None and card.awaited(asker.uid, now):
                    left = math.inf  # only a guess says that it will be over in time
                fitting.append((not card.booked_for(asker.uid, now), left, place, card))
        if spec.gpu_shared:
            best = sorted(fitting, key=lambda one: one[:3])[: spec.num_gpus]
            return tuple(card.gpu.uuid for *_, card in sorted(best, key=lambda one: one[2]))
        fitting.sort(key=lambda one: (one[0], one[2]))
        free = [uuid for uuid, card in self.cards.items() if not card.time.taken(now)]
        own = sum(not others for others, *_ in fitting)
        return self._closest(spec, [(card, way) for _, way, _, card in fitting], free, own)

    def next_room(
        self, spec: JobSpec, able: Sequence[Card], at: float, seconds: float, asker: Asker
    ) -> tuple[float, tuple[GpuId, ...]]:
        """The first time, not before ``at``, from which on enough of the cards can be had for so long, and which.

        They are those that are free first if their holders need all of their limits, though they are expected earlier.
        A guess that proves wrong may then delay the job, but nobody who took other cards meanwhile and keeps a limit.
        """
        now = self._now
        while True:
            firsts = []
            for place, card in enumerate(able):
                first = card.next_room(spec, asker, at, seconds)
                sure = first if card.time.room(card.amount(spec), now) else max(first, card.surely)
                firsts.append((sure, first, place))
            firsts.sort()
            surest = firsts[spec.num_gpus - 1][0]
            latest = max(first for _, first, _ in firsts[: spec.num_gpus])
            if latest <= at or latest == math.inf:
                fitting = [able[place] for sure, first, place in firsts if sure <= surest and first <= latest]
                if spec.gpu_shared or latest == math.inf:
                    fitting = fitting[: spec.num_gpus]
                free = [card.gpu.uuid for card in fitting]
                return latest, self._closest(spec, [(card, 0.0) for card in fitting], free)
            at = latest

    def _closest(
        self, spec: JobSpec, fitting: Sequence[tuple[Card, float]], free: Sequence[GpuId], own: int = 0
    ) -> tuple[GpuId, ...]:
        """The best of the cards, each with how much it is in the way, in PCI order."""
        exact = spec.gpu_memory is not None and not spec.gpu_shared
        candidates = [
            Candidate(
                card.gpu.uuid, (card.gpu.name, card.gpu.memory_total), card.gpu.memory_total or 0 if exact else 0, way
            )
            for card, way in fitting
        ]
        chosen = {one.uuid for one in closest(candidates, spec.num_gpus, self._near, free, own)}
        return tuple(uuid for uuid in self.cards if uuid in chosen)

    def think_left(self, gpus: Set[GpuId]) -> None:
        """From now on these cards, and no others, are thought of as left by those who were on them."""
        for uuid, card in self.cards.items():
            card.cleared = uuid in gpus
        self._rooms.clear()

    def leaves(self, id: JobId, gpus: Sequence[GpuId], surely: float) -> None:
        """A job that had these cards when they were seen has surely left them then. Nobody was given them since."""
        for uuid in gpus:
            card = self.cards[uuid]
            card.holders[id] = surely
            card.surely = max(card.holders.values())

    def owe(self, gpus: Sequence[GpuId], at: float) -> None:
        """These cards are owed to somebody from then on."""
        self._rooms.clear()
        for uuid in gpus:
            self.cards[uuid].owed = at

    def take(self, spec: JobSpec, gpus: Sequence[GpuId], start: float, end: float) -> None:
        """The job has the cards then."""
        self._rooms.clear()
        for uuid in gpus:
            card = self.cards[uuid]
            card.time.take(start, end, card.amount(spec))

    def give_back(self, spec: JobSpec, gpus: Sequence[GpuId], start: float, end: float) -> None:
        """Undo a :meth:`take`."""
        self._rooms.clear()
        for uuid in gpus:
            card = self.cards[uuid]
            card.time.give_back(start, end, card.amount(spec))
