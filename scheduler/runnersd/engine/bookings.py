"""What may be asked of the engine about bookings: to see them, to make one and to take one back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from runners.api import BookingView
from runners.errors import InvalidRequest, NotFound
from runnersd.booking_rules import cards_at_once, check_allowed, check_times
from runnersd.engine.loop import Loop
from runnersd.model import Booking, BookingId, Submitter
from runnersd.planner.bookings import Wish, choose
from runnersd.store import Store
from runnersd.views import booking_view


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks for. Seconds, and Unix seconds; ``at`` None is now, ``count`` None as many as are named."""

    seconds: float
    at: float | None = None
    count: int | None = None
    model: str | None = None
    capability: str | None = None
    cards: tuple[str, ...] = ()
    reason: str = ""

    def wish(self, uid: int, now: float) -> Wish:
        """The request as the planner takes it.

        Raises:
            InvalidRequest: it does not say how many cards, or says it twice.
        """
        count = len(self.cards) if self.count is None else self.count
        if not count:
            raise InvalidRequest("cannot book cards: say how many (gpus), or which (cards)")
        if self.cards and (count != len(self.cards) or (self.model, self.capability) != (None, None)):
            raise InvalidRequest(
                "cannot book cards: say how many (gpus, gpu_model, gpu_capability) or which (cards), not both"
            )
        start = now if self.at is None else self.at
        return Wish(uid, start, start + self.seconds, count, self.model, self.capability, self.cards)


class Bookings:
    """The engine's bookings. An answer waits for the commit of what it says."""

    def __init__(self, store: Store, loop: Loop, clock: Callable[[], float]) -> None:
        self._store, self._loop, self._clock = store, loop, clock

    def views(self) -> list[BookingView]:
        """The status objects of those that are not over, by when they begin."""
        world, now = self._loop.world(), self._clock()
        return [booking_view(booking, world, now) for booking in world.bookings]

    def find(self, id: BookingId) -> Booking:
        """The booking.

        Raises:
            NotFound: there is none, or it is over.
        """
        for booking in self._store.bookings(self._clock()):
            if booking.id == id:
                return booking
        raise NotFound(f"cannot find booking {id}: there is none, or it is over; `runners-client reserve` lists them")

    async def make(self, request: Request, who: Submitter, *, operator: bool) -> BookingView:
        """Book cards.

        Raises:
            InvalidRequest, NoSuchCard: there are no such cards, or no such time.
            NotAllowed: it is more than somebody who is no operator may book.
            AlreadyTaken: they are taken then.
            Unavailable: it could not be made durable.
        """
        now, world = self._clock(), self._loop.world()
        wish = request.wish(who.uid, now)
        check_times(wish.starts_at, wish.ends_at, now)
        if not operator:
            most = cards_at_once(len(world.inventory.gpus), self._quota(who))
            check_allowed(wish, most, world.bookings, now)
        gpus = choose(wish, world, now)
        booking = Booking(0, who.uid, who.user, gpus, wish.starts_at, wish.ends_at, now, request.reason)
        made = self._store.book(booking)
        view = booking_view(made, replace(world, bookings=(made,)), now)
        await self._loop.saved()
        return view

    async def cancel(self, id: BookingId) -> BookingView:
        """Take a booking back. What runs on its cards goes on.

        Raises:
            NotFound: there is none, or it is over.
            Unavailable: it could not be made durable.
        """
        view = booking_view(self.find(id), self._loop.world(), self._clock())
        self._store.unbook(id)
        await self._loop.saved()
        return view

    def _quota(self, who: Submitter) -> int | None:
        """How many cards the user may hold at a time: the least of the own quota and those of the user's groups."""
        quotas = (account.quota.gpus for account in self._loop.quotas.accounts(who))
        return min((gpus for gpus in quotas if gpus is not None), default=None)
