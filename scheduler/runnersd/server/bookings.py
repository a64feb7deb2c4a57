"""Bookings: everybody may look and book; who made one, or an operator, takes it back."""

from __future__ import annotations

import logging

from aiohttp import web

from runners.errors import InvalidRequest, NotFound
from runnersd.engine.bookings import Request
from runnersd.server.call import Call, reply

log = logging.getLogger(__name__)


async def listing(call: Call) -> web.StreamResponse:
    """Those that are not over."""
    bookings = call.engine.bookings.views()
    await call.saved()
    return reply({"bookings": bookings})


async def make(call: Call) -> web.StreamResponse:
    """Book cards for the caller."""
    body = call.body
    if body["for"] is None:
        raise InvalidRequest('cannot book cards: the body must say for how long, such as {"gpus": 1, "for": "4h"}')
    request = Request(
        body["for"],
        body["at"],
        body["gpus"],
        body["gpu_model"],
        body["gpu_capability"],
        body["cards"],
        body["reason"] or "",
    )
    view = await call.engine.bookings.make(request, call.submitter, operator=call.operator)
    log.info("cards booked", extra={"booking": view["id"], "cards": len(view["gpus"]), "by": call.user})
    return reply(view, 201)


async def cancel(call: Call) -> web.StreamResponse:
    """Take one back."""
    word = call.arguments["booking"]
    if not (word.isascii() and word.isdigit() and len(word) < 19):
        raise NotFound(f"cannot find booking {word[:60]!a}: a booking's id is a number such as 3")
    booking = call.engine.bookings.find(int(word))
    call.access.check_booker(call.peer, booking)
    view = await call.engine.bookings.cancel(booking.id)
    log.info("booking taken back", extra={"booking": view["id"], "by": call.user})
    return reply(view)
