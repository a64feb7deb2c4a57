"""Answers that go on: a job's output, followed while it grows, and the events of everything, resumable by id.

A stream ends with what it tells of, with its client, or with the server; its task is known to its connection, so a
client that vanishes leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable

from aiohttp import web

from runners.errors import InvalidRequest, NotFound
from runnersd.in_thread import in_thread
from runnersd.model import Job
from runnersd.server.call import Call
from runnersd.server.logfile import PIECE, LogFile
from runnersd.server.parameters import Target
from runnersd.store import EventRecord, Subscription

log = logging.getLogger(__name__)

#: Seconds between looks at a growing file, while somebody follows it.
POLL = 0.1
#: Seconds between looks at a job that has nothing to show yet; news of it come at once.
PATIENCE = 5.0
#: Seconds of silence after which an event stream shows that it lives.
KEEP_ALIVE = 15.0
#: Seconds for more events to come in after some were sent, so that a busy queue costs few writes.
GATHER = 0.01
#: Events read from disk at one go.
PAGE = 500


# -- logs --------------------------------------------------------------------------------------------------------------


async def logs(call: Call) -> web.StreamResponse:
    """One stream of a job's output, raw. Following it goes on to the end of the attempt named, else of the job."""
    if call.pipeline is not None:
        raise InvalidRequest(f"cannot show the logs of {call.target}: name one of its jobs")
    [job] = call.jobs
    attempt: int | None = call.query["attempt"]
    if attempt is not None and attempt > max(job.attempt, 1):
        raise NotFound(f"cannot show attempt {attempt} of job {job.id}: it has had {job.attempt}")
    if call.query["follow"]:
        return await _follow(call, job, attempt)
    file = _file(call, job, attempt or job.attempt)
    try:
        size = await in_thread(_size, file)
        start = await _start(call, file)
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        response.content_length = max(size - start, 0)
        await _begin(call, response)
        while start < size and (piece := await in_thread(file.read, start, min(PIECE, size - start))):
            await response.write(piece)
            start += len(piece)
        return response
    finally:
        file.close()


async def _follow(call: Call, job: Job, attempt: int | None) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    response.enable_chunked_encoding()
    await _begin(call, response)
    store = call.engine.store
    number = attempt or max(job.attempt, 1)
    tail = True
    with call.feed.watch(job.id) as changed:
        while True:
            file = _file(call, job, number)
            try:
                offset = await _start(call, file) if tail else 0
                tail = False
                while True:
                    changed.clear()
                    job = await store.job(job.id)
                    # Asked before the copy: what an attempt wrote before its end is all there once it has ended.
                    over = job.settled or job.attempt > number or (job.attempt == number and not job.live)
                    offset = await _copy(file, offset, response)
                    if over:
                        break
                    await _wait(changed, POLL if job.live else PATIENCE)
            finally:
                file.close()
            if attempt is not None or (job.settled and job.attempt <= number):
                await call.saved()
                return response
            number += 1
            while not job.settled and job.attempt < number:
                await _wait(changed, PATIENCE)
                changed.clear()
                job = await store.job(job.id)
            if job.attempt < number:
                await call.saved()
                return response


async def _copy(file: LogFile, offset: int, response: web.StreamResponse) -> int:
    """Send all there is from ``offset`` on; where that ends."""
    if _size(file) <= offset:
        return offset
    while piece := await in_thread(file.read, offset):
        await response.write(piece)
        offset += len(piece)
    return offset


async def _start(call: Call, file: LogFile) -> int:
    tail: int | None = call.query["tail"]
    return 0 if tail is None else await in_thread(file.start_of_tail, tail)


async def _wait(changed: asyncio.Event, longest: float) -> None:
    try:
        async with asyncio.timeout(longest):
            await changed.wait()
    except TimeoutError:
        return


def _file(call: Call, job: Job, attempt: int) -> LogFile:
    stdout, stderr = call.engine.logs(job, attempt)
    return LogFile(stderr if call.query["stream"] == "stderr" else stdout)


def _size(file: LogFile) -> int:
    """The file's length; one that cannot be read is the daemon's trouble, told in its log, and shows as empty."""
    try:
        return file.size()
    except OSError as error:
        log.warning("cannot read a job's output", extra={"error": str(error)})
        return 0


# -- events ------------------------------------------------------------------------------------------------------------


async def events(call: Call) -> web.StreamResponse:
    """Server-sent events: those after an id from disk, then the new ones as they come, without gap or repeat."""
    store = call.engine.store
    last = _resume_from(call)
    if last is None or last > store.events.last:  # that of a database that is no more: nothing would come up to it
        last = store.events.last
    wanted = _filter(call.query["job"])
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    response.enable_chunked_encoding()
    await _begin(call, response)
    await response.write(b": events\n\n")
    while True:
        # Subscribed first, so that nothing falls between what is on disk and what comes.
        subscription = store.events.subscribe()
        try:
            while page := await store.archive.events_after(last, PAGE):
                last = page[-1].id
                await _send(response, [record for record in page if wanted(record)])
            while (record := await _next(subscription, response)) is not None:
                fresh = [one for one in (record, *subscription.rest()) if one.id > last]
                if fresh:
                    last = fresh[-1].id
                    await _send(response, [one for one in fresh if wanted(one)])
                    await asyncio.sleep(GATHER)
        finally:
            subscription.close()
        if not subscription.lagged:
            return response
        # Dropped for reading too slowly: it goes on from disk.


async def _next(subscription: Subscription, response: web.StreamResponse) -> EventRecord | None:
    """The next event, however long it takes; None when the subscription has ended."""
    while True:
        try:
            async with asyncio.timeout(KEEP_ALIVE):
                return await anext(subscription, None)
        except TimeoutError:
            await response.write(b": still here\n\n")


async def _send(response: web.StreamResponse, records: list[EventRecord]) -> None:
    if records:
        await response.write(b"".join(map(_encode, records)))


def _encode(record: EventRecord) -> bytes:
    data = json.dumps(record.data, separators=(",", ":"), allow_nan=False)
    return f"id: {record.id}\nevent: {record.type}\ndata: {data}\n\n".encode()


def _resume_from(call: Call) -> int | None:
    """The id of the last event that the client has seen; its own header goes before the address it began with."""
    header = call.header("Last-Event-ID")
    if header is None or header == "":
        after: int | None = call.query["after"]
        return after
    if not (header.isascii() and header.isdigit() and len(header) <= 18):
        raise InvalidRequest("cannot resume: Last-Event-ID must be an event's id")
    return int(header)


def _filter(target: Target | None) -> Callable[[EventRecord], bool]:
    if target is None:
        return lambda record: True
    if target.kind == "job":
        return lambda record: record.job == target.number
    return lambda record: record.data.get("pipeline") == str(target)


async def _begin(call: Call, response: web.StreamResponse) -> None:
    """Send the head; from now on the stream ends when its client goes."""
    call.connection.stream = asyncio.current_task()
    await response.prepare(call.request)
