"""Taking in pipelines: `POST /v1/pipelines`, and trying again what ended badly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from aiohttp import web

from runners.errors import InvalidPipeline, InvalidRequest, Problem
from runners.pipeline.schema import read_submission
from runners.spec import Submission
from runnersd.engine import Engine
from runnersd.forecast import Foreseen
from runnersd.in_thread import in_thread
from runnersd.model import JobId, Pipeline
from runnersd.server.call import Call, as_object, reply
from runnersd.server.parameters import Target, target
from runnersd.views import foreseen_view

#: Pipelines in one request.
MAX_PIPELINES = 1000
#: From so many jobs on, a request is checked by a thread, so that the loop goes on meanwhile.
MANY_JOBS = 200


async def submit(call: Call) -> web.StreamResponse:
    """Queue one pipeline or several, all or none; the answer comes when they are on disk."""
    body = dict(as_object(call.body))
    dry_run = body.pop("dry_run", False)
    if not isinstance(dry_run, bool):
        raise InvalidRequest("cannot read the body: dry_run must be true or false")
    several = "pipelines" in body
    documents = _documents(body) if several else [body]
    submissions = await _read(documents, several, call.engine.clock())
    submissions = [await _with_jobs_awaited(one, call.engine) for one in submissions]
    key = call.idempotency_key()
    if dry_run:
        foreseen = await call.engine.foresee(submissions, call.submitter, operator=call.operator)
        answers = [_foreseen(one, jobs) for one, jobs in zip(submissions, foreseen, strict=True)]
        return reply({"pipelines": answers} if several else answers[0])
    accepted = await call.engine.submit(submissions, call.submitter, key=key, operator=call.operator)
    shown = [_shown(pipeline, jobs) for pipeline, jobs in accepted]
    return reply({"pipelines": shown} if several else shown[0], 201)


async def retry(call: Call) -> web.StreamResponse:
    """Queue what ended badly as a new pipeline of its owner, whoever asks."""
    pipeline, jobs = call.pipeline, call.jobs
    chosen: tuple[Target, ...] | None = call.body["jobs"]
    only = None if chosen is None else {str(one) for one in chosen}
    if pipeline is None:
        if only is not None:
            raise InvalidRequest("cannot read the body: jobs chooses among a pipeline's, and one job is named")
        only = {str(jobs[0].id)}
        pipeline, jobs = await call.engine.store.pipeline(jobs[0].pipeline.id)
    found = None if only is None else [job.id for job in jobs if str(job.id) in only]
    if found is not None and only is not None and len(found) < len(only):
        raise InvalidRequest(f"cannot read the body: jobs must be numbers of jobs of p{pipeline.id}")
    accepted = await call.engine.retry(pipeline, jobs, found)
    return reply(_shown(*accepted), 201)


def _documents(body: dict[str, Any]) -> list[Any]:
    documents = body.pop("pipelines")
    if body:
        raise InvalidRequest(f"cannot read the body: beside pipelines only dry_run is allowed, not {min(body)!a}")
    if not isinstance(documents, list) or not 0 < len(documents) <= MAX_PIPELINES:
        raise InvalidRequest(f"cannot read the body: pipelines must be a list of 1 to {MAX_PIPELINES}")
    return documents


async def _read(documents: Sequence[Any], several: bool, now: float) -> list[Submission]:
    jobs = sum(len(one["jobs"]) for one in documents if isinstance(one, dict) and isinstance(one.get("jobs"), list))
    if jobs < MANY_JOBS:
        return _read_all(documents, several, now)
    return await in_thread(_read_all, documents, several, now)


def _read_all(documents: Sequence[Any], several: bool, now: float) -> list[Submission]:
    """Every document checked; the problems of all of them at once."""
    submissions: list[Submission] = []
    problems: list[Problem] = []
    for number, document in enumerate(documents):
        try:
            submissions.append(read_submission(document, now=now))
        except InvalidPipeline as error:
            if not several:
                raise
            prefix = f"pipelines[{number}]"
            problems += [one._replace(path=f"{prefix}.{one.path}" if one.path else prefix) for one in error.problems]
    if problems:
        raise InvalidPipeline("cannot queue the pipelines: not all of them are right", problems)
    return submissions


async def _with_jobs_awaited(submission: Submission, engine: Engine) -> Submission:
    """The submission with every pipeline in `after` replaced by its jobs; they all exist.

    Raises:
        NotFound: one of them does not.
    """
    if not submission.after:
        return submission
    ids: dict[JobId, None] = {}
    for named in submission.after:
        one = target(str(named))
        if one.kind == "pipeline":
            _, jobs = await engine.store.pipeline(one.number)
            ids.update((job.id, None) for job in jobs)
        else:
            ids[(await engine.store.job(one.number)).id] = None
    return replace(submission, after=tuple(ids))


def _shown(pipeline: Pipeline, jobs: Sequence[tuple[JobId, str]]) -> dict[str, Any]:
    return {"pipeline": f"p{pipeline.id}", "jobs": [{"id": id, "name": name} for id, name in jobs]}


def _foreseen(submission: Submission, foreseen: Sequence[Foreseen]) -> dict[str, Any]:
    """What would become of its jobs: of the first ones; the others are only named."""
    rest = submission.pipeline.jobs[len(foreseen) :]
    return {
        "pipeline": None,
        "jobs": [*map(foreseen_view, foreseen), *({"id": None, "name": job.name} for job in rest)],
    }
