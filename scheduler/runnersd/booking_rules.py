"""Who may book how many cards, how far ahead and for how long. Operators may book anything. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from runners.errors import InvalidRequest, NotAllowed
from runnersd.model import Booking
from runnersd.planner.bookings import Wish
from runnersd.planner.words import cards_text

DAY = 86_400.0
#: A booking of somebody who is no operator is over so many seconds from now at the latest.
AHEAD = 7 * DAY
#: So many bookings that are not over somebody may have.
BOOKINGS = 16
#: The shortest booking, in seconds.
SHORTEST = 60.0


def cards_at_once(machine: int, quota: int | None) -> int:
    """How many cards somebody may have booked at a time: what their quota lets them hold, else half the machine's."""
    return quota if quota is not None else max(1, machine // 2)


def check_times(starts_at: float, ends_at: float, now: float) -> None:
    """Whether anybody could book that time (Unix seconds).

    Raises:
        InvalidRequest: it is over, or too short.
    """
    if starts_at < now:
        raise InvalidRequest("cannot book cards for a time that is over: `at` must be now or later")
    if ends_at - starts_at < SHORTEST:
        raise InvalidRequest(f"cannot book cards for less than {SHORTEST:.0f} s")


def check_allowed(wish: Wish, most: int, bookings: Sequence[Booking], now: float) -> None:
    """Whether somebody who is no operator may have that. ``most`` is how many cards they may have booked at a time,
    ``bookings`` are everybody's.

    Raises:
        NotAllowed: it is too far ahead, or too much.
    """
    starts_at, ends_at = wish.starts_at, wish.ends_at
    if ends_at > now + AHEAD:
        raise NotAllowed("cannot book cards beyond the next 7 days: that takes an operator")
    mine = [booking for booking in bookings if booking.uid == wish.uid and booking.ends_at > now]
    if len(mine) >= BOOKINGS:
        raise NotAllowed(f"cannot book cards: you have {len(mine)} bookings; more take an operator")
    together = [one for one in mine if one.starts_at < ends_at and one.ends_at > starts_at]
    # What overlaps the new one is most at its start, or when one of them begins.
    moments = [starts_at, *(one.starts_at for one in together if one.starts_at > starts_at)]
    had = max(sum(len(one.gpus) for one in together if one.starts_at <= at < one.ends_at) for at in moments)
    if had + wish.count > most:
        booked = f", and you have {had} booked at that time" if had else ""
        raise NotAllowed(
            f"cannot book {cards_text(wish.count)}: you may book {most} at a time{booked}; more take an operator"
        )
