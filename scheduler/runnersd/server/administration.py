"""Cards, and the daemon itself: looking is everybody's, changing an operator's."""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web

from runners.errors import IllegalTransition, Unavailable
from runnersd.engine import Engine
from runnersd.server.call import Call, reply

log = logging.getLogger(__name__)

#: Seconds between looks whether a daemon that should end when idle is idle.
IDLE_CHECK = 0.5


async def gpus(call: Call) -> web.StreamResponse:
    """The inventory, in PCI order, and who has booked it."""
    return reply({"gpus": call.engine.gpus(), "bookings": call.engine.bookings.views()})


async def drain(call: Call) -> web.StreamResponse:
    """Let nothing new start on a card; what runs there goes on."""
    view = await call.engine.drain(call.arguments["gpu"], call.body["reason"] or "", call.user)
    log.info("card drained", extra={"gpu": view["uuid"], "by": call.user})
    return reply(view)


async def undrain(call: Call) -> web.StreamResponse:
    """Let jobs start on a card again."""
    view = await call.engine.undrain(call.arguments["gpu"])
    log.info("card undrained", extra={"gpu": view["uuid"], "by": call.user})
    return reply(view)


async def pause(call: Call) -> web.StreamResponse:
    """Start nothing new until told to resume, over restarts too."""
    await call.engine.pause(call.body["reason"] or "", call.user)
    log.info("paused", extra={"by": call.user})
    return reply({"paused": call.engine.store.paused})


async def resume(call: Call) -> web.StreamResponse:
    """Start jobs again."""
    await call.engine.resume()
    log.info("resumed", extra={"by": call.user})
    return reply({"paused": call.engine.store.paused})


async def shutdown(call: Call) -> web.StreamResponse:
    """End the daemon: at once if it is idle, when it is idle, or with its jobs. The answer does not wait."""
    now, when_idle = call.body["now"], call.body["when_idle"]
    snapshot = call.engine.store.snapshot
    busy = len(snapshot.live) + len(snapshot.waiting)
    log.info("told to stop", extra={"by": call.user, "now": now, "when_idle": when_idle})
    if now and busy:
        call.background(call.engine.shut_down(now=True, by=call.user))
    elif when_idle and busy:
        call.background(_end_when_idle(call.engine, call.user))
    else:
        await call.engine.shut_down(by=call.user)
    return reply({"status": "stopping", "jobs": busy}, 202)


async def _end_when_idle(engine: Engine, by: str) -> None:
    while True:
        try:
            await engine.shut_down(by=by)
        except IllegalTransition:
            await asyncio.sleep(IDLE_CHECK)
        else:
            return


async def health(call: Call) -> web.StreamResponse:
    """Whether the daemon does its work: what it promises is on disk, and its loop turns."""
    if not call.engine.store.healthy:
        raise Unavailable(call.engine.store.refusal)
    if not call.engine.heartbeat():
        raise Unavailable(
            "cannot start anything: the scheduling loop or the database stands still; the state directory's disk may "
            "hang, and the daemon's log may say why"
        )
    return reply({"status": "ok"})
