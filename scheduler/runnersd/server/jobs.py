"""Looking at jobs and changing them."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from aiohttp import web

import runners
from runners.api import SETTLED, WAITING, JobState
from runners.errors import IllegalTransition, InvalidRequest
from runnersd.engine import Engine
from runnersd.forecast import Forecast
from runnersd.model import Job
from runnersd.server.call import Call, as_object, encode, reply
from runnersd.server.parameters import Target
from runnersd.views import detail_view

#: Views made at one go before the loop gets its turn.
SLICE = 500
#: Seconds that a table of jobs waits for a new forecast; with a long queue it shows the last one.
PATIENCE = 0.05
#: Finished jobs that `status` shows.
RECENT = 10
#: Finished jobs read from disk at one go.
PAGE = 1000
#: Jobs of a pipeline changed at one go; they share commits.
TOGETHER = 1000


# -- looking -----------------------------------------------------------------------------------------------------------


async def status(call: Call) -> web.StreamResponse:
    """Cards, then live jobs, then waiting ones in the order they will run, then finished ones, newest first."""
    engine = call.engine
    forecast = await engine.answers.forecast(PATIENCE)
    limit: int | None = call.query["limit"]
    uid = call.peer.uid if call.query["mine"] else None
    if call.query["ids"] is not None:
        jobs = await _named(call.query["ids"], engine)
        jobs = [job for job in jobs if uid is None or job.pipeline.submitter.uid == uid][:limit]
    else:
        settled = await _settled(call, uid, limit)
        unsettled = _unsettled(engine, uid, forecast)
        # A long queue does not push all that has just finished off the screen.
        room = None if limit is None else limit - min(len(settled), limit // 5)
        jobs = list(itertools.islice(unsettled, room))
        jobs += settled if limit is None else settled[: limit - len(jobs)]
    store = engine.store
    head = {
        "daemon": {
            "version": runners.__version__,
            "pid": os.getpid(),
            "uptime": max(engine.clock() - engine.started_at, 0.0),
            "engine": engine.config.engine,
            "paused": store.paused,
            **({"notice": engine.notice} if engine.notice else {}),
            "directories": engine.directories(),
            **({"default_script_args": scripts} if (scripts := engine.script_args()) else {}),
        },
        "gpus": engine.gpus(),
        "bookings": engine.bookings.views(),
        "counts": store.counts(),
    }
    body = encode(head)[:-1] + b',"jobs":[' + await _encoded(engine, jobs, forecast) + b"]}"
    await call.saved()
    return web.Response(body=body, content_type="application/json")


async def listing(call: Call) -> web.StreamResponse:
    """Jobs that fit the filters, a page at a time."""
    query = call.query
    jobs = await call.engine.store.jobs(
        states=query["state"],
        user=query["user"],
        pipeline=query["pipeline"],
        name=query["name"],
        limit=query["limit"],
        after=query["after"],
        newest_first=query["newest"],
    )
    follows = jobs[-1].id if len(jobs) == query["limit"] else None
    forecast = await call.engine.answers.forecast(PATIENCE) if any(job.state in WAITING for job in jobs) else None
    body = b'{"jobs":[' + await _encoded(call.engine, jobs, forecast) + b'],"next":' + encode(follows) + b"}"
    await call.saved()
    return web.Response(body=body, content_type="application/json")


async def detail(call: Call) -> web.StreamResponse:
    """Everything known of a job; of a pipeline, the status objects of its jobs."""
    engine = call.engine
    forecast = await engine.answers.forecast()
    if call.pipeline is not None:
        body = b'{"jobs":[' + await _encoded(engine, call.jobs, forecast) + b"]}"
        await call.saved()
        return web.Response(body=body, content_type="application/json")
    [job] = await _current(engine, call.jobs)
    while True:
        attempts = await engine.attempts(job)
        events = await engine.store.archive.events_of(job.id)
        seen, [job] = job, await _current(engine, [job])
        if job == seen:  # else it has moved on meanwhile: an answer is of one moment
            break
    private = call.access.owns(call.peer, job)
    view = detail_view(job, engine.views([job], forecast)[0], attempts, events, private)
    ahead, helps = engine.answers.ahead(job, forecast), await engine.answers.would_start_now(job)
    if ahead is not None:
        view["ahead"] = ahead
    if helps is not None:
        view["would_start_now"] = helps
    if private and job.attempt:
        stdout, stderr = engine.logs(job, job.attempt)
        view["logs"] = {"stdout": str(stdout), "stderr": str(stderr)}
    await call.saved()
    return reply(view)


# -- changing ----------------------------------------------------------------------------------------------------------


async def change(call: Call) -> web.StreamResponse:
    """Hold, release, or change what a job asks for."""
    changes = dict(as_object(call.body))
    held = changes.pop("held", None)
    if held is not None and not isinstance(held, bool):
        raise InvalidRequest("cannot read the body: held must be true or false")
    dry_run = changes.pop("dry_run", False)
    if not isinstance(dry_run, bool):
        raise InvalidRequest("cannot read the body: dry_run must be true or false")
    if held is None and not changes:
        raise InvalidRequest("cannot change the job: no key was given; give held, or a job's key such as priority")

    if dry_run:

        async def imagine(job: Job) -> Job:
            return await call.engine.jobs.changed(job.id, changes, held, call.user, operator=call.operator)

        return await _effects(call, await _done(call, imagine, "change"))

    async def act(job: Job) -> Job:
        if changes:
            job = await call.engine.jobs.update(job.id, changes, operator=call.operator)
        if held is not None:
            job = await (call.engine.jobs.hold(job.id, call.user) if held else call.engine.jobs.release(job.id))
        return job

    return await _each(call, act, "change")


async def cancel(call: Call) -> web.StreamResponse:
    """End live jobs, take waiting ones out of the queue."""

    if call.body["dry_run"]:

        async def imagine(job: Job) -> Job:
            return await call.engine.jobs.cancelled(job.id)

        return await _effects(call, await _done(call, imagine, "cancel"))

    async def act(job: Job) -> Job:
        return await call.engine.jobs.cancel(job.id, call.user, at_once=call.body["now"])

    return await _each(call, act, "cancel")


async def signal(call: Call) -> web.StreamResponse:
    """Pass a signal on to live jobs."""
    number = call.body["signal"]
    if number is None:
        raise InvalidRequest('cannot signal: the body must say which, such as {"signal": 2}')

    async def act(job: Job) -> Job:
        return await call.engine.jobs.signal(job.id, number)

    return await _each(call, act, "signal")


async def _each(call: Call, act: Callable[[Job], Awaitable[Job]], verb: str) -> web.StreamResponse:
    """Do it to the job, or to every job of the pipeline that it can be done to."""
    done = await _done(call, act, verb)
    if call.pipeline is None:
        return reply(call.engine.views(await _current(call.engine, done))[0])
    body = b'{"jobs":[' + await _encoded(call.engine, done) + b"]}"
    return web.Response(body=body, content_type="application/json")


async def _effects(call: Call, changed: Sequence[Job]) -> web.StreamResponse:
    """What it would do to them and to others if they were as they are here; a live job that is stopping ends."""
    waiting = [job for job in changed if job.state is not JobState.STOPPING]
    ending = [job for job in changed if job.state is JobState.STOPPING]
    return reply({"dry_run": True, "effects": await call.engine.answers.of_change(waiting, ending)})


async def _done(call: Call, act: Callable[[Job], Awaitable[Job]], verb: str) -> list[Job]:
    """What came of doing it to the job, or to every job of the pipeline that it can be done to."""
    if call.pipeline is None:
        return [await act(call.jobs[0])]
    # What waits goes first, last things first: no job starts because another one of its pipeline has just ended.
    todo = sorted((job for job in call.jobs if not job.settled), key=lambda job: (job.live, -job.position))
    if not todo:
        raise IllegalTransition(f"cannot {verb} {call.target}: all of its jobs are over")
    done: list[Job] = []
    refused: list[IllegalTransition] = []
    for start in range(0, len(todo), TOGETHER):
        outcomes = await asyncio.gather(*map(act, todo[start : start + TOGETHER]), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, IllegalTransition):
                refused.append(outcome)
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                done.append(outcome)
    if not done:
        raise refused[0]
    return sorted(done, key=lambda job: job.position)


# -- inside ------------------------------------------------------------------------------------------------------------


def _unsettled(engine: Engine, uid: int | None, forecast: Forecast) -> Iterable[Job]:
    """Live jobs, then waiting ones as they are expected to start, then the rest of the queue in order, as far as the
    reader goes on asking."""
    snapshot = engine.store.snapshot
    known = [snapshot.jobs[id] for id in forecast.in_time if id in snapshot.jobs]
    first = [job for job in known if job.state is JobState.QUEUED]
    rest = (job for job in snapshot.in_order() if job.state is not JobState.QUEUED or job.id not in forecast.expected)
    every = itertools.chain(list(snapshot.live.values()), first, rest)
    return every if uid is None else (job for job in every if job.pipeline.submitter.uid == uid)


async def _settled(call: Call, uid: int | None, limit: int | None) -> list[Job]:
    """The finished jobs that were asked for, newest first."""
    store = call.engine.store
    if not call.query["all"]:
        if uid is None:
            return list(store.recent)[:RECENT]
        return await store.jobs(states=tuple(SETTLED), user=uid, limit=RECENT, newest_first=True)
    found: list[Job] = []
    after = None
    while limit is None or len(found) < limit:
        page = await store.jobs(
            states=tuple(SETTLED),
            user=uid,
            limit=PAGE,
            after=after,
            newest_first=True,
        )
        found += page
        if len(page) < PAGE:
            break
        after = page[-1].id
    return found


async def _named(targets: Sequence[Target], engine: Engine) -> list[Job]:
    """The jobs that these IDs name, each once, in the order they were named."""
    found: dict[int, Job] = {}
    for one in targets:
        if one.kind == "pipeline":
            _, jobs = await engine.store.pipeline(one.number)
            found.update((job.id, job) for job in jobs)
        else:
            found[one.number] = await engine.store.job(one.number)
    return list(found.values())


async def _current(engine: Engine, jobs: Sequence[Job]) -> list[Job]:
    """The jobs as they are at the moment this returns: while a handler waited they may have moved on, or ended and left
    memory with all of their pipeline. Views are made of no others."""
    ended: dict[int, Job] = {}
    while True:
        known = engine.store.snapshot.jobs
        found = [known.get(job.id) or (job if job.settled else ended.get(job.id)) for job in jobs]
        missing = [job for job, now in zip(jobs, found, strict=True) if now is None]
        if not missing:
            return [job for job in found if job is not None]
        for job in missing:
            now = await engine.store.job(job.id)
            if now.settled:
                ended[job.id] = now


async def _encoded(engine: Engine, jobs: Sequence[Job], forecast: Forecast | None = None) -> bytes:
    """The jobs' status objects as JSON, without the brackets; many of them in slices, so that the loop goes on."""
    parts = []
    for start in range(0, len(jobs), SLICE):
        if start:
            await asyncio.sleep(0)
        views: list[Any] = engine.views(await _current(engine, jobs[start : start + SLICE]), forecast)
        parts.append(json.dumps(views, separators=(",", ":"), allow_nan=False)[1:-1])
    return ",".join(parts).encode()
