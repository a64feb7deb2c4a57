"""Which cards somebody can book for a time, when that would be possible, and whom a booking waits for. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from runners.errors import AlreadyTaken, InvalidRequest
from runners.pipeline.quantities import format_duration
from runnersd.closeness import closeness
from runnersd.inventory import find_gpu, matches_capability, matches_model
from runnersd.model import Booking, Gpu, GpuId, Job
from runnersd.planner.closest import Candidate, closest
from runnersd.planner.lengths import end_of
from runnersd.planner.stops import time_limit_of
from runnersd.planner.words import cards_text, clock_text, user_of
from runnersd.planner.world import World, usable

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86_400.0
#: So many ways to choose cards are compared; a machine has few cards.
_WAYS = 20_000


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants to book: so many cards of a model (a glob), of a capability or a higher one, or these cards.

    Times are Unix seconds.
    """

    uid: int
    starts_at: float
    ends_at: float
    count: int
    model: str | None = None
    capability: str | None = None
    cards: tuple[str, ...] = ()  #: indices, UUIDs or beginnings of them


@dataclass(frozen=True, slots=True)
class _Obstacle:
    """Why a card cannot be booked for a time, and until when that is so (Unix seconds)."""

    why: str
    until: float


def choose(wish: Wish, world: World, now: float) -> tuple[GpuId, ...]:
    """The cards for it: those that are expected to be free when it begins, and close together.

    Raises:
        NoSuchCard: a card that it names is not there.
        InvalidRequest: this machine has no such cards, or too few.
        AlreadyTaken: they are taken then; says by whom, and when it would be possible.
    """
    wanted = _wanted(wish, world)
    seconds = wish.ends_at - wish.starts_at
    free = [gpu for gpu in wanted if _obstacle(gpu, wish, wish.starts_at, seconds, world, now) is None]
    if len(free) < wish.count:
        raise AlreadyTaken(_refusal(wish, wanted, len(free), seconds, world, now))
    return _closest(free, wish, world, now)


def waits_for(booking: Booking, world: World, now: float) -> list[Job]:
    """The jobs of others that hold its cards although it has begun, by their ids: they are not stopped for it."""
    if not booking.active(now):
        return []
    found = {
        id: job
        for uuid in booking.gpus
        for id, job in world.snapshot.holders.get(uuid, {}).items()
        if job.pipeline.submitter.uid != booking.uid
    }
    return [found[id] for id in sorted(found)]


def may_outlast(booking: Booking, world: World, now: float) -> list[Job]:
    """The jobs of others on its cards that no time limit ends before it begins, by their ids."""
    found = {
        id: job
        for uuid in booking.gpus
        for id, job in world.snapshot.holders.get(uuid, {}).items()
        if job.pipeline.submitter.uid != booking.uid and job.spec.time_limit is None and booking.starts_at > now
    }
    return [found[id] for id in sorted(found)]


def check_limit(job: Job, limit: float | None, world: World, now: float) -> None:
    """Check that a job may have that time limit (seconds; None for no limit) for the bookings on its cards.

    Raises:
        AlreadyTaken: it could run on into somebody else's booking; says whose, and which limit it may have.
    """
    began = world.began(job)
    began = now if began is None else began
    before, after = (math.inf if time is None else began + time for time in (job.spec.time_limit, limit))
    if after <= before:
        return
    indices = {gpu.uuid: gpu.index for gpu in world.inventory.gpus}
    for booking in sorted(world.bookings, key=lambda one: one.starts_at):
        cards = sorted(indices[uuid] for uuid in booking.gpus if uuid in job.gpus and uuid in indices)
        if not cards or booking.uid == job.pipeline.submitter.uid or not now < booking.ends_at:
            continue
        if booking.starts_at >= after:
            continue
        wish = "no time limit" if limit is None else f"a time limit of {format_duration(limit)}"
        named = f"card{'s' if len(cards) > 1 else ''} {', '.join(map(str, cards))}"
        raise AlreadyTaken(
            f"cannot give job {job.id} {wish}: {booking.user or booking.uid} has booked {named} "
            f"from {clock_text(booking.starts_at, now)} on (booking {booking.id}){_may_have(booking, began, before)}"
        )


def _may_have(booking: Booking, began: float, before: float) -> str:
    """Which longer time limit a job that began then may have, if any, that has had ``before`` to end by."""
    free = booking.starts_at - began
    free = math.floor(free / _MINUTE) * _MINUTE if free < _DAY else math.floor(free / _HOUR) * _HOUR
    return f"; it may have {format_duration(free)}" if began + free > before else ""


def _wanted(wish: Wish, world: World) -> list[Gpu]:
    """The cards that it may be given, in PCI order."""
    inventory = world.inventory
    if wish.cards:
        named = {gpu.uuid: gpu for gpu in (find_gpu(inventory, text) for text in wish.cards)}
        if len(named) < len(wish.cards):
            raise InvalidRequest("cannot book cards: one of them is named twice")
        for gpu in named.values():
            if gpu.lost or gpu.uuid in world.drained:
                raise AlreadyTaken(f"cannot book card {gpu.index}: it is {_unfit(gpu, world)}")
        return sorted(named.values(), key=lambda gpu: gpu.index)
    fitting = [gpu for gpu in inventory.gpus if _is_like(gpu, wish)]
    like = f" like {wish.model}" if wish.model is not None else ""
    like += f" of compute capability {wish.capability} or more" if wish.capability is not None else ""
    if len(fitting) < wish.count:
        raise InvalidRequest(f"cannot book {cards_text(wish.count)}{like}: this machine has {len(fitting) or 'none'}")
    well = [gpu for gpu in fitting if not gpu.lost and gpu.uuid not in world.drained]
    if len(well) < wish.count:
        out = ", ".join(f"card {gpu.index} is {_unfit(gpu, world)}" for gpu in fitting if gpu not in well)
        raise AlreadyTaken(f"cannot book {cards_text(wish.count)}{like}: {len(well)} can be used; {out}")
    return well


def _is_like(gpu: Gpu, wish: Wish) -> bool:
    if wish.model is not None and not matches_model(gpu, wish.model):
        return False
    return wish.capability is None or matches_capability(gpu, wish.capability)


def _unfit(gpu: Gpu, world: World) -> str:
    return "lost" if gpu.lost else str(world.drained[gpu.uuid])


def _obstacle(gpu: Gpu, wish: Wish, start: float, seconds: float, world: World, now: float) -> _Obstacle | None:
    """What takes the card at some time in so many seconds from ``start`` on: a booking, or a job by its time limit."""
    for booking in world.bookings:
        if gpu.uuid in booking.gpus and booking.starts_at < start + seconds and booking.ends_at > max(start, now):
            whose = "you have" if booking.uid == wish.uid else f"{booking.user or booking.uid} has"
            times = f"from {clock_text(booking.starts_at, now)} to {clock_text(booking.ends_at, booking.starts_at)}"
            return _Obstacle(f"{whose} booked it {times} (booking {booking.id})", booking.ends_at)
    for job in world.snapshot.holders.get(gpu.uuid, {}).values():
        limit = time_limit_of(job, world)
        if limit is None and job.spec.time_limit is not None:
            limit = now + job.spec.time_limit  # it is about to start
        if limit is not None and limit > start and job.pipeline.submitter.uid != wish.uid:
            return _Obstacle(f"job {job.id} ({user_of(job)}) may run until {clock_text(limit, now)}", limit)
    return None


def _refusal(wish: Wish, wanted: Sequence[Gpu], free: int, seconds: float, world: World, now: float) -> str:
    taken = []
    ends = []
    for gpu in wanted:
        start = wish.starts_at
        while (obstacle := _obstacle(gpu, wish, start, seconds, world, now)) is not None:
            if start == wish.starts_at:
                taken.append(f"card {gpu.index}: {obstacle.why}")
            start = obstacle.until
            ends.append(start)
    first = next(time for time in sorted(ends) if _possible(wish, wanted, time, seconds, world, now))
    shown = "; ".join(taken[:4]) + ("; ..." if len(taken) > 4 else "")
    return (
        f"cannot book {cards_text(wish.count)} from {clock_text(wish.starts_at, now)} to "
        f"{clock_text(wish.ends_at, now)}: {free} can be had. {shown}. For so long it is possible from "
        f"{clock_text(first, now)} on"
    )


def _possible(wish: Wish, wanted: Iterable[Gpu], start: float, seconds: float, world: World, now: float) -> bool:
    free = sum(_obstacle(gpu, wish, start, seconds, world, now) is None for gpu in wanted)
    return free >= wish.count


def _closest(free: Sequence[Gpu], wish: Wish, world: World, now: float) -> tuple[GpuId, ...]:
    """Of the cards that are least likely to be in use when it begins, those that are closest: in PCI order, where the
    driver does not say how they are connected."""
    ranks = {gpu.uuid: _rank(gpu, wish, world, now) for gpu in free}
    worst = sorted(ranks.values())[wish.count - 1]
    sure = [gpu for gpu in free if ranks[gpu.uuid] < worst]
    rest = [gpu for gpu in free if ranks[gpu.uuid] == worst]
    near = closeness(world.inventory.topology)
    if near:
        those = [Candidate(gpu.uuid, (gpu.name, gpu.memory_total), 0, 0.0) for gpu in (*sure, *rest)]
        chosen = {one.uuid for one in closest(those, wish.count, near, [one.uuid for one in those], len(sure))}
        return tuple(gpu.uuid for gpu in free if gpu.uuid in chosen)
    missing = wish.count - len(sure)
    ways: Iterable[Sequence[Gpu]] = combinations(rest, missing)
    if math.comb(len(rest), missing) > _WAYS:
        ways = [rest[at : at + missing] for at in range(len(rest) - missing + 1)]
    indices = [gpu.index for gpu in sure]
    best = min(ways, key=lambda way: _spread([*indices, *(gpu.index for gpu in way)]))
    return tuple(gpu.uuid for gpu in sorted((*sure, *best), key=lambda gpu: gpu.index))


def _spread(indices: Sequence[int]) -> tuple[int, int]:
    return max(indices) - min(indices), min(indices)


def _rank(gpu: Gpu, wish: Wish, world: World, now: float) -> int:
    """0 for a card that is expected to be free then, more for one that may not be."""
    holders = world.snapshot.holders.get(gpu.uuid, {}).values()
    if any(end_of(job, world, now) > wish.starts_at for job in holders if job.pipeline.submitter.uid != wish.uid):
        return 2
    return 1 if usable(gpu, world) is not None else 0
