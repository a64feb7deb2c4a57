"""Values to columns and back. Free text travels as ASCII JSON, so that no string a client sends can break a row."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from runners.api import LIVE, AttemptView, Code, JobState, ReasonView, XidView
from runners.spec import Barrier, JobSpec
from runnersd.model import Booking, Drain, Job, Pipeline, Reason, Submitter
from runnersd.past.experience import Sample, Samples
from runnersd.store.shared import Shared

#: The type of the event that an Xid was reported of a card of the job.
XID = "job.xid"

#: What `job_of` takes, in its order: of `job`, then the cards of a live attempt.
JOB_COLUMNS = (
    "job.id, job.position, job.state, job.attempt, job.failures, job.exit_code, job.reason, job.started_at, "
    "job.finished_at, job.not_before, job.stopping_at, job.preempted, job.idle_since, job.spec, attempt.gpus"
)
#: Joins a live job to the attempt that has its cards.
JOB_TABLES = (
    "job LEFT JOIN attempt ON attempt.job = job.id AND attempt.attempt = job.attempt "
    f"AND job.state IN ({', '.join(repr(state.value) for state in sorted(LIVE))})"
)
#: What `booking_of` takes, in its order.
BOOKING_COLUMNS = "id, uid, starts_at, ends_at, made_at, gpus, detail"
#: What `pipeline_of` takes, in its order.
PIPELINE_COLUMNS = "pipeline.id, pipeline.uid, pipeline.size, pipeline.submitted_at, pipeline.detail"

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def text(value: Any) -> str:
    """A value as compact ASCII JSON."""
    return _encode(value)


def searchable(name: str) -> str:
    """A name as SQL can hold and compare it: what UTF-8 cannot say, and NUL, are escaped."""
    return name.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def pipeline_detail(pipeline: Pipeline) -> str:
    """What a pipeline's row keeps beyond its columns."""
    who = pipeline.submitter
    return text(
        {
            "name": pipeline.name,
            "gid": who.gid,
            "groups": who.groups,
            "user": who.user,
            "cwd": pipeline.cwd,
            "umask": pipeline.umask,
            "num_jobs": pipeline.num_jobs,
            "barriers": [(barrier.first, barrier.last, barrier.on) for barrier in pipeline.barriers],
            "items": pipeline.items,
            "after": pipeline.after,
        }
    )


def pipeline_of(row: tuple[Any, ...], shared: Shared) -> Pipeline:
    """The pipeline of a row of `PIPELINE_COLUMNS`."""
    id, uid, size, submitted_at, detail = row
    values = json.loads(detail)
    who = Submitter(uid, values["gid"], tuple(values["groups"]), values["user"])
    return Pipeline(
        id=id,
        name=shared.value(values["name"]),
        submitter=shared.value(who),
        cwd=shared.value(values["cwd"]),
        umask=values["umask"],
        num_jobs=values["num_jobs"],
        submitted_at=submitted_at,
        size=size,
        barriers=tuple(Barrier(first, last, on) for first, last, on in values["barriers"]),
        items=tuple(values["items"]),
        after=tuple(values["after"]),
    )


def spec_text(spec: JobSpec) -> str:
    """A job's keys as JSON, without the defaults."""
    values = spec.to_json()
    if "env" in values:
        values["env"] = dict(values["env"])
    return text(values)


def job_of(row: tuple[Any, ...], pipeline: Pipeline, shared: Shared) -> Job:
    """The job of a row of `JOB_COLUMNS`."""
    (
        id, position, state, attempt, failures, exit_code, reason, started, finished, not_before, stopping, preempted,
        idle_since, spec, gpus,
    ) = row  # fmt: skip
    return Job(
        id=id,
        pipeline=pipeline,
        position=position,
        spec=shared.spec(JobSpec.from_json(json.loads(spec))),
        state=JobState(state),
        attempt=attempt,
        gpus=tuple(json.loads(gpus)) if gpus else (),
        reason=reason_of(reason),
        exit_code=exit_code,
        submitted_at=pipeline.submitted_at,
        started_at=started,
        finished_at=finished,
        not_before=not_before,
        failures=failures,
        stopping_at=stopping,
        preempted=preempted,
        idle_since=idle_since,
    )


def reason_text(reason: Reason | None) -> str | None:
    """A reason as JSON; None stays None."""
    if reason is None:
        return None
    about = () if reason.about is None else (reason.about,)
    return text((reason.code.value, reason.text, *about))


def reason_of(column: str | None) -> Reason | None:
    """The reason that `reason_text` wrote."""
    if column is None:
        return None
    code, sentence, *about = json.loads(column)
    return Reason(Code(code), sentence, *about)


def drain_text(drain: Drain) -> str:
    """A drain as JSON."""
    return text((drain.reason, drain.by, drain.at))


def drain_of(column: str) -> Drain:
    """The drain that `drain_text` wrote, or an older daemon, which kept the reason alone."""
    kept = json.loads(column)
    return Drain(kept) if isinstance(kept, str) else Drain(*kept)


def booking_row(booking: Booking) -> tuple[Any, ...]:
    """A booking's row, of `BOOKING_COLUMNS`."""
    detail = text({"user": booking.user, "reason": booking.reason})
    return (
        booking.id, booking.uid, booking.starts_at, booking.ends_at, booking.made_at, text(booking.gpus), detail,
    )  # fmt: skip


def booking_of(row: tuple[Any, ...]) -> Booking:
    """The booking of a row of `BOOKING_COLUMNS`."""
    id, uid, starts_at, ends_at, made_at, gpus, detail = row
    said = json.loads(detail)
    return Booking(id, uid, said["user"], tuple(json.loads(gpus)), starts_at, ends_at, made_at, said["reason"])


def environment_blob(environment: Mapping[str, str]) -> bytes:
    """An environment, deflated."""
    return zlib.compress(text(dict(environment)).encode(), 1)


def environment_of(blob: bytes) -> dict[str, str]:
    """The environment that `environment_blob` wrote."""
    values: dict[str, str] = json.loads(zlib.decompress(blob))
    return values


def attempt_view(row: tuple[Any, ...]) -> AttemptView:
    """The view of a row (attempt, state, reason, exit_code, gpus, started_at, finished_at, peak_memory)."""
    number, state, reason, exit_code, gpus, started_at, finished_at, peak_memory = row
    return {
        "attempt": number,
        "state": state,
        "reason": _reason_view(reason_of(reason), JobState(state)),
        "exit_code": exit_code,
        "gpus": json.loads(gpus),
        "started_at": started_at,
        "finished_at": finished_at,
        "peak_memory": peak_memory,
    }


def samples_text(samples: Iterable[Sample]) -> str:
    """What attempts did, as JSON, the latest last."""
    return text([tuple(sample) for sample in samples])


def samples_of(column: str, count: int) -> Samples:
    """The samples that `samples_text` wrote."""
    return Samples((Sample(*values) for values in json.loads(column)), count)


def reason_then(job: Job) -> Reason:
    """Why a job is in its state, as far as its record says; only the planner knows what a queued one waits for."""
    if job.reason is not None:
        return job.reason
    match job.state:
        case JobState.STARTING:
            return Reason(Code.LAUNCHING, "being launched")
        case JobState.RUNNING:
            return Reason(Code.RUNNING, "runs")
    if job.not_before is not None:
        if job.failures:
            return Reason(Code.RETRY_DELAY, f"attempt {job.attempt} failed; another follows")
        return Reason(Code.BEGIN_TIME, "has a begin time")
    return Reason(Code.STARTING_SOON, "in the queue")


def _reason_view(reason: Reason | None, state: JobState) -> ReasonView:
    if reason is None:
        code = Code.LAUNCHING if state is JobState.STARTING else Code.RUNNING
        return {"code": code.value, "text": "being launched" if state is JobState.STARTING else "runs"}
    return {"code": reason.code.value, "text": reason.text}


def event_data(job: Job, xid: XidView | None = None) -> str:
    """What a job's event keeps of it, as JSON: what its row may no longer say later, and the ``xid`` it is about."""
    kept: dict[str, Any] = {"state": job.state.value, "attempt": job.attempt}
    reason = reason_then(job)
    kept["reason"] = (reason.code.value, reason.text)
    if job.gpus:
        kept["gpus"] = job.gpus
    for name in ("exit_code", "started_at", "finished_at", "idle_since"):
        value = getattr(job, name)
        if value is not None:
            kept[name] = value
    if xid is not None:
        kept["xid"] = xid
    return text(kept)


def xid_of(data: str | None) -> XidView | None:
    """The Xid that an event is about."""
    found: XidView | None = json.loads(data).get("xid") if data else None
    return found


def job_then(job: Job, data: str | None) -> tuple[Job, Reason]:
    """The job as it was at an event, and why, from what the event kept. ``job`` gives what does not change."""
    kept: dict[str, Any] = json.loads(data) if data else {"state": "queued", "attempt": 0}
    reason = kept.get("reason")
    state = JobState(kept["state"])
    then = Job(
        id=job.id,
        pipeline=job.pipeline,
        position=job.position,
        spec=job.spec,
        state=state,
        attempt=kept["attempt"],
        gpus=tuple(kept.get("gpus", ())),
        exit_code=kept.get("exit_code"),
        submitted_at=job.submitted_at,
        started_at=kept.get("started_at"),
        finished_at=kept.get("finished_at"),
        idle_since=kept.get("idle_since"),
    )
    return then, Reason(Code(reason[0]), reason[1]) if reason else reason_then(then)
