"""What the rows say: everything that memory holds, one job, or a page of many."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from runners.api import SETTLED, AttemptView, EventView, JobState, SummaryView
from runnersd.model import Booking, Drain, GpuId, Intrusion, Job, JobId, Pipeline, PipelineId
from runnersd.notices.notice import Notice
from runnersd.past.experience import Samples
from runnersd.past.kinds import Kind
from runnersd.past.usage import Charge
from runnersd.store import intrusions, notices, summaries
from runnersd.store.feed import EventRecord
from runnersd.store.rows import (
    BOOKING_COLUMNS,
    JOB_COLUMNS,
    JOB_TABLES,
    PIPELINE_COLUMNS,
    XID,
    attempt_view,
    booking_of,
    drain_of,
    environment_of,
    job_of,
    job_then,
    pipeline_of,
    samples_of,
    searchable,
    xid_of,
)
from runnersd.store.shared import Shared
from runnersd.views import job_view

#: How many settled jobs `status` shows.
RECENT = 10
#: A search looks at this many jobs at a time, so that it never keeps a commit waiting for long.
STRIDE = 5_000
_ROOM = 500  # ids in one statement


@dataclass(slots=True)
class Unsettled:
    """A pipeline with work to do, its jobs, and the names they were submitted under."""

    pipeline: Pipeline
    jobs: list[Job] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Loaded:
    """Everything that memory is made of."""

    pipelines: list[Unsettled]
    dependencies: dict[JobId, Job]  #: settled jobs of other pipelines that some of them wait for
    recent: list[Job]
    settled: Counter[JobState]  #: jobs of pipelines that are over
    drained: dict[GpuId, Drain]
    paused: str | None
    intrusions: list[Intrusion]  #: of live attempts
    summaries: dict[tuple[JobId, int], SummaryView]  #: of live attempts
    notices: list[Notice]  #: that are not told yet
    experience: list[tuple[int, Kind, Samples]]  #: by uid and kind, the least lately changed first
    charges: dict[int, Charge]  #: by uid
    bookings: list[Booking]
    last_pipeline: int
    last_job: int
    last_event: int
    last_booking: int
    shared: Shared


@dataclass(frozen=True, slots=True)
class Search:
    """Which jobs are looked for, and from where on. ``states`` None means any; ``name`` stands for its matrix too."""

    states: frozenset[JobState] | None = None
    user: str | int | None = None
    pipeline: PipelineId | None = None
    name: str | None = None
    newest_first: bool = True

    def finds(self, job: Job) -> bool:
        """Whether the job is one of them."""
        who = job.pipeline.submitter
        return (
            (self.states is None or job.state in self.states)
            and (self.user is None or self.user in (who.user, who.uid))
            and (self.pipeline is None or self.pipeline == job.pipeline.id)
            and (self.name is None or self.name in (job.spec.name, job.spec.base_name))
        )


def load(connection: sqlite3.Connection) -> Loaded:
    """Everything that memory is made of, in one consistent look."""
    shared = Shared()
    open_ = "SELECT id FROM pipeline WHERE finished_at IS NULL"
    found = {
        row[0]: Unsettled(pipeline_of(row, shared))
        for row in connection.execute(f"SELECT {PIPELINE_COLUMNS} FROM pipeline WHERE finished_at IS NULL ORDER BY id")
    }
    for *row, owner, original in connection.execute(
        f"SELECT {JOB_COLUMNS}, job.pipeline, job.original FROM {JOB_TABLES} "
        f"WHERE job.pipeline IN ({open_}) ORDER BY job.pipeline, job.position"
    ):
        one = found[owner]
        job = job_of(tuple(row), one.pipeline, shared)
        one.jobs.append(job)
        one.names.append(json.loads(original)["name"] if original else job.spec.name)
    loaded = {job.id: job for one in found.values() for job in one.jobs}
    awaited = {id for one in found.values() for id in one.pipeline.after}
    dependencies = {id: loaded[id] for id in awaited if id in loaded and loaded[id].settled}
    dependencies |= jobs_by_id(connection, awaited - loaded.keys(), shared)
    settled = Counter[JobState]()
    for state, count in connection.execute(
        "SELECT state, count(*) FROM job WHERE finished_at IS NOT NULL GROUP BY state"
    ):
        settled[JobState(state)] = count
    settled -= Counter(job.state for job in loaded.values() if job.settled)
    meta = {key: json.loads(value) for key, value in connection.execute("SELECT key, value FROM meta")}
    return Loaded(
        pipelines=list(found.values()),
        dependencies=dependencies,
        recent=_recent(connection, shared),
        settled=settled,
        drained={uuid: drain_of(why) for uuid, why in connection.execute("SELECT uuid, drained FROM gpu")},
        paused=meta.get("paused"),
        intrusions=intrusions.of_live_attempts(connection),
        summaries=summaries.of_live_attempts(connection),
        notices=notices.waiting(connection),
        experience=[
            (uid, json.loads(kind), samples_of(samples, count))
            for uid, kind, samples, count in connection.execute(
                "SELECT uid, kind, samples, count FROM experience ORDER BY changed_at"
            )
        ],
        charges={uid: Charge(*row) for uid, *row in connection.execute("SELECT uid, card_seconds, at FROM charge")},
        bookings=[booking_of(row) for row in connection.execute(f"SELECT {BOOKING_COLUMNS} FROM booking")],
        last_pipeline=_last(connection, "pipeline", meta),
        last_job=_last(connection, "job", meta),
        last_event=_last(connection, "event", meta),
        last_booking=_last(connection, "booking", meta),
        shared=shared,
    )


def jobs_by_id(connection: sqlite3.Connection, ids: Iterable[JobId], shared: Shared) -> dict[JobId, Job]:
    """Those of the jobs that exist."""
    wanted = sorted(set(ids))
    found: dict[JobId, Job] = {}
    for at in range(0, len(wanted), _ROOM):
        some = wanted[at : at + _ROOM]
        marks = ", ".join("?" * len(some))
        found |= {job.id: job for job in _jobs(connection, shared, f"job.id IN ({marks})", some)}
    return found


def pipeline_with_jobs(
    connection: sqlite3.Connection, id: PipelineId, shared: Shared
) -> tuple[Pipeline, list[Job]] | None:
    """A pipeline and all of its jobs, in the order of its file."""
    row = connection.execute(f"SELECT {PIPELINE_COLUMNS} FROM pipeline WHERE id = ?", (id,)).fetchone()
    if row is None:
        return None
    jobs = list(_jobs(connection, shared, "job.pipeline = ?", (id,), "job.position"))
    return pipeline_of(row, shared), jobs


def submitted_names(connection: sqlite3.Connection, id: PipelineId) -> list[str]:
    """The names that a pipeline's jobs were submitted under, in the order of its file."""
    rows = connection.execute("SELECT coalesce(original, spec) FROM job WHERE pipeline = ? ORDER BY position", (id,))
    return [json.loads(spec)["name"] for (spec,) in rows]


def submitted_before(connection: sqlite3.Connection, uid: int, key: bytes) -> tuple[PipelineId, PipelineId] | None:
    """The first and last pipeline that a submission with that key made."""
    row: tuple[PipelineId, PipelineId] | None = connection.execute(
        "SELECT first_pipeline, last_pipeline FROM submission WHERE uid = ? AND key = ?", (uid, key)
    ).fetchone()
    return row


def search(
    connection: sqlite3.Connection, wanted: Search, after: JobId | None, limit: int, shared: Shared
) -> tuple[list[Job], JobId | None]:
    """Jobs of the next stretch of ids, and the id to go on after; None when there is nothing further."""
    where, values = _condition(wanted)
    first, last = _range(connection, wanted)
    if wanted.newest_first:
        top = last if after is None else min(last, after - 1)
        low, high, order = max(first, top - STRIDE + 1), top, "job.id DESC"
    else:
        bottom = first if after is None else max(first, after + 1)
        low, high, order = bottom, min(last, bottom + STRIDE - 1), "job.id"
    if low > high:
        return [], None
    found = list(_jobs(connection, shared, f"job.id BETWEEN ? AND ?{where}", [low, high, *values], order, limit))
    if len(found) == limit:
        return found, found[-1].id
    if wanted.newest_first:
        return found, low if low > first else None
    return found, high if high < last else None


def attempts(connection: sqlite3.Connection, job: JobId) -> list[AttemptView]:
    """The job's attempts, first to last."""
    rows = connection.execute(
        "SELECT attempt, state, reason, exit_code, gpus, started_at, finished_at, peak_memory FROM attempt "
        "WHERE job = ? ORDER BY attempt",
        (job,),
    )
    found = [attempt_view(row) for row in rows]
    others, measured = intrusions.of_job(connection, job), summaries.of_job(connection, job)
    for one in found:
        one["contaminated"] = others.get(one["attempt"], [])
        one["telemetry"] = measured.get(one["attempt"])
    return found


def events_of(connection: sqlite3.Connection, job: JobId) -> list[EventView]:
    """What happened to the job, oldest first."""
    found: list[EventView] = []
    for id, at, type, data in connection.execute(
        "SELECT id, at, type, data FROM event WHERE job = ? ORDER BY id", (job,)
    ):
        one: EventView = {"id": id, "at": at, "type": type}
        if type == XID and (xid := xid_of(data)) is not None:
            one["xid"] = xid
        found.append(one)
    return found


def events_after(connection: sqlite3.Connection, id: int, limit: int, shared: Shared) -> list[EventRecord]:
    """The history from the event after ``id`` on."""
    rows = connection.execute(
        "SELECT id, at, type, job, uid, data FROM event WHERE id > ? ORDER BY id LIMIT ?", (id, limit)
    ).fetchall()
    jobs = jobs_by_id(connection, {row[3] for row in rows if row[3] is not None}, shared)
    records = []
    for number, at, type, job, uid, data in rows:
        if job is None:
            records.append(EventRecord(number, at, type, None, None, json.loads(data)))
        elif job in jobs:
            view = dict(job_view(*job_then(jobs[job], data)))
            if type == XID:
                view["xid"] = xid_of(data)
            records.append(EventRecord(number, at, type, job, uid, view))
    return records


def environment(connection: sqlite3.Connection, pipeline: PipelineId) -> dict[str, str] | None:
    """What a pipeline's submitter had in the environment."""
    row = connection.execute("SELECT data FROM environment WHERE pipeline = ?", (pipeline,)).fetchone()
    return None if row is None else environment_of(row[0])


def _jobs(
    connection: sqlite3.Connection,
    shared: Shared,
    where: str,
    values: Sequence[Any],
    order: str = "job.id",
    limit: int = -1,
) -> Iterator[Job]:
    pipelines: dict[PipelineId, Pipeline] = {}
    rows = connection.execute(
        f"SELECT {JOB_COLUMNS}, {PIPELINE_COLUMNS} FROM {JOB_TABLES} JOIN pipeline ON pipeline.id = job.pipeline "
        f"WHERE {where} ORDER BY {order} LIMIT ?",
        [*values, limit],
    )
    for row in rows:
        job, owner = row[:-5], row[-5:]
        if owner[0] not in pipelines:
            pipelines[owner[0]] = pipeline_of(owner, shared)
        yield job_of(job, pipelines[owner[0]], shared)


def _condition(wanted: Search) -> tuple[str, list[Any]]:
    where: list[str] = [""]
    values: list[Any] = []
    if wanted.states is not None:
        if wanted.states <= SETTLED:
            where.append("job.finished_at IS NOT NULL")
        where.append(f"job.state IN ({', '.join('?' * len(wanted.states))})")
        values += [state.value for state in wanted.states]
    if wanted.user is not None:
        by_uid = isinstance(wanted.user, int)
        where.append("pipeline.uid = ?" if by_uid else "pipeline.user = ?")
        values.append(wanted.user if isinstance(wanted.user, int) else searchable(wanted.user))
    if wanted.pipeline is not None:
        where.append("job.pipeline = ?")
        values.append(wanted.pipeline)
    if wanted.name is not None:
        name = searchable(wanted.name)
        where.append("(job.name = ? OR substr(job.name, 1, ?) = ?)")
        values += [name, len(name) + 1, f"{name}["]
    return " AND ".join(where), values


def _range(connection: sqlite3.Connection, wanted: Search) -> tuple[JobId, JobId]:
    """The first and last id that can be looked for."""
    where, values = ("WHERE pipeline = ?", [wanted.pipeline]) if wanted.pipeline is not None else ("", [])
    first, last = connection.execute(
        f"SELECT (SELECT min(id) FROM job {where}), (SELECT max(id) FROM job {where})", values * 2
    ).fetchone()
    return (first, last) if first is not None else (1, 0)


def _recent(connection: sqlite3.Connection, shared: Shared) -> list[Job]:
    types = ", ".join(repr(f"job.{state.value}") for state in sorted(SETTLED))
    rows = connection.execute(
        f"SELECT job FROM event WHERE job IS NOT NULL AND type IN ({types}) ORDER BY id DESC LIMIT {RECENT}"
    )
    ids = [row[0] for row in rows]
    jobs = jobs_by_id(connection, ids, shared)
    return [jobs[id] for id in ids if id in jobs]


def _last(connection: sqlite3.Connection, table: str, meta: dict[str, Any]) -> int:
    """The highest id ever given in the table, also when its row is long gone."""
    highest: int = connection.execute(f"SELECT coalesce(max(id), 0) FROM {table}").fetchone()[0]
    ever: int = meta.get(f"last_{table}", 0)
    return max(highest, ever)
