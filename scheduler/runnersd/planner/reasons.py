"""Why a job does not start now, in a sentence with names."""

from __future__ import annotations

from collections.abc import Sequence

from runners.api import Code
from runners.pipeline.quantities import format_size
from runnersd.lines import Shape
from runnersd.model import Job, JobId, Reason
from runnersd.planner.cards import Card
from runnersd.planner.decisions import Reservation
from runnersd.planner.lengths import end_is_known
from runnersd.planner.space import Space
from runnersd.planner.words import clock_text, user_of, wanted_text
from runnersd.planner.world import World


def why_not_now(job: Job, shape: Shape, space: Space, world: World, now: float) -> Reason:
    """What keeps a job from starting that could run if others ended."""
    fit = space.fit(job, shape)
    if fit.never is not None:
        return fit.never
    ahead = _ahead(job, shape, space) if fit.seconds > 0 or not shape.num_gpus else None
    if fit.seconds > 0 and ahead is not None:
        return _behind(ahead, now)
    booking = _booked(job, shape, space, now)
    if booking is not None:
        return booking
    lacking = space.room.lacks(job.spec)
    if lacking is not None:
        return lacking
    able = space.cards.able(job, shape) if shape.num_gpus else []
    if isinstance(able, Reason):
        return able
    if shape.num_gpus:
        return _short_of_cards(job, able, space, world, now)
    return _behind(ahead, now) if ahead is not None else Reason(Code.STARTING_SOON, "ready")


def _ahead(job: Job, shape: Shape, space: Space) -> Reservation | None:
    """The first of the reservations that stand in the way of a job of that shape."""
    able = space.cards.able(job, shape) if shape.num_gpus else []
    mine = set() if isinstance(able, Reason) else {card.gpu.uuid for card in able}
    kept = list(space.reservations.values())
    if space.owed is not None and shape.num_gpus and space.fit(job, shape, heeds=True) != space.fit(job, shape):
        kept.append(space.owed)
    others = [made for made in kept if made.job.id != job.id]
    inside = [made for made in others if mine.intersection(made.gpus)] or others
    return min(inside, key=lambda made: (made.at, made.job.id), default=None)


def _booked(job: Job, shape: Shape, space: Space, now: float) -> Reason | None:
    """The booking of somebody else without which the job could start; None if there is none."""
    asker = space.asker(job)
    if space.fit(job, shape).seconds > 0 or space.fit_unbooked(job, shape).seconds <= 0:
        return None
    able = space.cards.able(job, shape)
    cards = [] if isinstance(able, Reason) else [card for card in able if card.room(job.spec, None, now) > 0]
    found = [booking for card in cards if (booking := card.in_the_way(asker, now)) is not None]
    if not found:
        return None
    first = min(found, key=lambda booking: (booking.starts_at, booking.id))
    indices = sorted(card.gpu.index for card in cards if card.gpu.uuid in first.gpus)
    which = f"card{'s' if len(indices) > 1 else ''} {', '.join(map(str, indices))}"
    whose = first.user or str(first.uid)
    if first.active(now):
        text = f"{whose} has booked {which} until {clock_text(first.ends_at, now)} (booking {first.id})"
    else:
        why = "this job's time limit reaches into that"
        if job.spec.time_limit is None:
            why = "this job may still run then; one with a short time_limit could go first"
        times = f"from {clock_text(first.starts_at, now)} to {clock_text(first.ends_at, first.starts_at)}"
        text = f"{whose} has booked {which} {times} (booking {first.id}): {why}"
    return Reason(Code.BEHIND_RESERVATION, text)


def _behind(ahead: Reservation, now: float) -> Reason:
    job = ahead.job
    needs = f"needs {wanted_text(job.spec)}" if job.spec.num_gpus else "waits for the same"
    kept = "owed to" if ahead.owed else "kept for"
    return Reason(
        Code.BEHIND_RESERVATION,
        f"job {job.id} ({user_of(job)}) is ahead and {needs}, {kept} it from about {clock_text(ahead.at, now)}",
    )


def _short_of_cards(job: Job, able: Sequence[Card], space: Space, world: World, now: float) -> Reason:
    spec = job.spec
    free = [card for card in able if not card.time.taken(now)]
    held = _held(able, space, world, now)
    if spec.gpu_shared and spec.gpu_memory is not None:
        return _short_of_shares(spec.gpu_memory, job, able, space, held, now)
    roomy = [card for card in free if card.roomy(spec)]
    if len(free) >= spec.num_gpus and spec.gpu_memory is not None:
        return Reason(
            Code.NO_GPU_MEMORY,
            f"needs {wanted_text(spec)} with {format_size(spec.gpu_memory)} free: {len(roomy)} of {len(free)} have it",
        )
    foreign = [reason for reason in space.cards.refused(spec) if reason.code is Code.FOREIGN_GPU_USE]
    # The code names what would let it start now; the sentence names everything.
    code = Code.FOREIGN_GPU_USE if foreign and len(free) + len(foreign) >= spec.num_gpus else Code.NO_FREE_GPU
    others = "".join(f", {reason.text}" for reason in foreign[:2])
    return Reason(code, f"needs {wanted_text(spec)}: {len(free)} free{held}{others}")


def _short_of_shares(size: int, job: Job, able: Sequence[Card], space: Space, held: str, now: float) -> Reason:
    count = job.spec.num_gpus
    left = [max(card.left(now), 0.0) for card in able]
    if count == 1:
        text = f"needs {format_size(size)} of a card's memory: at most {format_size(int(max(left)))} left"
    else:
        enough = sum(one >= size for one in left)
        text = f"needs {format_size(size)} of the memory of each of {count} cards: {enough} with so much left"
    beside = [card.beside.reason for card in able if card.beside is not None]
    beside += [card.in_use for card in able if card.unclaimed][:2]
    closed = [reason for reason in space.cards.refused(job.spec) if reason.code is Code.FOREIGN_GPU_USE]
    others = "".join(f", {reason.text}" for reason in (*beside, *closed[:2]))
    return Reason(Code.NO_GPU_MEMORY, f"{text}{held}{others}")


def _held(able: Sequence[Card], space: Space, world: World, now: float) -> str:
    """Who has the cards, how many of them, and until when as far as that is known: who leaves first comes first."""
    counts: dict[JobId, int] = {}
    holders: dict[JobId, Job] = {}
    for card in able:
        uuid = card.gpu.uuid
        for holder in (*world.snapshot.holders.get(uuid, {}).values(), *space.given.get(uuid, ())):
            counts[holder.id] = counts.get(holder.id, 0) + 1
            holders[holder.id] = holder
    parts = []
    for id in sorted(holders, key=lambda id: (space.ends.get(id, now), id))[:3]:
        holder = holders[id]
        until = ""
        if holder.live and end_is_known(holder, world):
            until = f" until about {clock_text(space.ends[id], now)}"
        parts.append(f", {counts[id]} held by {id} ({user_of(holder)}){until}")
    return "".join(parts) + (", ..." if len(holders) > 3 else "")
