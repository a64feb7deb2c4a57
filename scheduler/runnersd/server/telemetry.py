"""What was measured while an attempt ran, time by time."""

from __future__ import annotations

from aiohttp import web

from runners.errors import InvalidRequest, NotFound
from runnersd.server.call import Call, encode

#: So many times are told at most: of eight cards that is 7 MB.
MOST_POINTS = 20_000


async def telemetry(call: Call) -> web.StreamResponse:
    """The series of one attempt. It comes as JSON from the process that read it, and stays as it is."""
    if call.pipeline is not None:
        raise InvalidRequest(f"cannot show the telemetry of {call.target}: name one of its jobs")
    [job] = call.jobs
    attempt: int = call.query["attempt"] or max(job.attempt, 1)
    if attempt > max(job.attempt, 1):
        raise NotFound(f"cannot show attempt {attempt} of job {job.id}: it has had {job.attempt}")
    series = await call.engine.recorder.read(job.id, attempt, call.query["points"])
    view = next((one for one in await call.engine.attempts(job) if one["attempt"] == attempt), None)
    told = {
        "job": job.id,
        "attempt": attempt,
        "submitted_at": job.submitted_at,
        "started_at": view["started_at"] if view is not None else None,
        "finished_at": view["finished_at"] if view is not None else None,
        "summary": view.get("telemetry") if view is not None else None,
    }
    if series == b"{}":
        nothing = {"every": call.engine.config.telemetry.every, "at": [], "gpus": []}
        series = encode({**nothing, "process": {"memory": [], "cpu": []}})
    await call.saved()
    body = encode(told)[:-1] + b"," + series[1:]
    return web.Response(body=body, content_type="application/json")
