"""What one transaction writes: collected on the loop as values, turned into rows on the writer's thread.

Many rows go in one statement. Python's sqlite3 lets go of the interpreter lock at every step, and a busy loop takes
milliseconds to give it back: 200 rows by `executemany` took 650 ms beside a busy loop, in statements of many rows 6 ms.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runners.api import JobState, SummaryView, XidView
from runnersd import lifecycle
from runnersd.model import Booking, BookingId, Drain, GpuId, Intrusion, Job, JobId, Pipeline, PipelineId, Reason
from runnersd.notices.notice import Notice
from runnersd.past.experience import Experience, Sample
from runnersd.past.kinds import Kind
from runnersd.past.usage import Charge
from runnersd.snapshot import Learned
from runnersd.store import intrusions, notices, summaries
from runnersd.store.rows import (
    booking_row,
    drain_text,
    environment_blob,
    event_data,
    pipeline_detail,
    reason_text,
    samples_text,
    searchable,
    spec_text,
    text,
)

#: Rows in a statement, largest first; few sizes, so that SQLite's compiled statements are found again.
_SIZES = (128, 32, 8, 2, 1)

#: What comes of a submission: each pipeline, with its jobs' ids and names.
Accepted = list[tuple[Pipeline, list[tuple[JobId, str]]]]


@dataclass(slots=True)
class News:
    """An event on its way to its row and to those who listen. ``about`` is the job after it, or a status object.

    ``xid`` is what was reported of the job's card, if that is the event.
    """

    id: int
    at: float
    type: str
    about: Job | Mapping[str, Any]
    xid: XidView | None = None


@dataclass(slots=True, eq=False)
class Intake:
    """A submission on its way to disk: all of its pipelines or none."""

    uid: int
    key: bytes | None
    pipelines: Sequence[tuple[Pipeline, Sequence[Job], Mapping[str, str]]]
    dependencies: dict[JobId, Job]  #: jobs of other pipelines that these wait for, as they are now
    accepted: asyncio.Future[Accepted]
    news: Sequence[News] = ()
    error: BaseException | None = None  #: why this one alone could not be written


@dataclass(slots=True)
class _Try:
    """What an attempt's row says, when it was reserved apart."""

    state: JobState
    reason: Reason | None
    exit_code: int | None
    gpus: tuple[GpuId, ...]
    started_at: float | None
    finished_at: float | None
    reserved_at: float
    peak_memory: int | None


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a kind of job, when that changed."""

    count: int
    samples: tuple[Sample, ...]
    at: float


@dataclass(slots=True)
class Batch:
    """Changes to write together. Of a job that changes twice only the last is written; its events all are."""

    jobs: dict[JobId, Job] = field(default_factory=dict)
    revised: set[JobId] = field(default_factory=set)
    tries: dict[tuple[JobId, int], _Try] = field(default_factory=dict)
    experience: dict[tuple[int, Kind], _Known | None] = field(default_factory=dict)  #: None: forgotten
    charges: dict[int, Charge] = field(default_factory=dict)
    intrusions: dict[tuple[JobId, int, GpuId, int, float], Intrusion] = field(default_factory=dict)
    summaries: dict[tuple[JobId, int], SummaryView] = field(default_factory=dict)  #: by job and attempt
    notices: list[Notice] = field(default_factory=list)
    told: list[Notice] = field(default_factory=list)  #: of earlier batches; they are kept no longer
    released: set[JobId] = field(default_factory=set)
    reserved: set[JobId] = field(default_factory=set)
    ended: dict[PipelineId, float] = field(default_factory=dict)
    news: list[News] = field(default_factory=list)
    intakes: list[Intake] = field(default_factory=list)
    drained: dict[GpuId, Drain | None] = field(default_factory=dict)
    bookings: dict[BookingId, Booking | None] = field(default_factory=dict)  #: None for one that is taken back
    meta: dict[str, Any] = field(default_factory=dict)
    waiters: list[asyncio.Future[None]] = field(default_factory=list)

    def change(self, before: Job, job: Job, event: lifecycle.Event, at: float) -> None:
        """A job has moved from ``before`` to ``job`` by ``event``."""
        self.jobs[job.id] = job
        if isinstance(event, lifecycle.Revised):
            self.revised.add(job.id)
        if job.live:
            self._try(job, job.state, job.reason, None, at)
            if not before.live and job.gpus:
                self.reserved.add(job.id)
        elif before.live:
            if isinstance(event, lifecycle.Requeued):
                ended = event.at or at
                self._try(before, JobState.FAILED, event.reason, event.exit_code, at, ended, event.peak_memory)
            else:
                peak = event.peak_memory if isinstance(event, lifecycle.Ended) else None
                self._try(before, job.state, job.reason, job.exit_code, at, job.finished_at, peak)
            if before.gpus:
                self.released.add(job.id)

    def learn(self, learned: Learned, experience: Experience, at: float) -> None:
        """Something was learned then, which ``experience`` has (Unix seconds)."""
        for kind in learned.kinds:
            samples = experience.samples(learned.uid, kind)
            if samples is not None:
                self.experience[learned.uid, kind] = _Known(samples.count, tuple(samples.latest), at)
        for kind in learned.forgotten:
            self.experience[learned.uid, kind] = None
        if learned.charge is not None:
            self.charges[learned.uid] = learned.charge

    def write(self, connection: sqlite3.Connection) -> None:
        """Everything in it, inside the transaction that the caller has begun. On the writer's thread."""
        for intake in self.intakes:
            self._take_in(connection, intake)
        self._write_jobs(connection)
        self._write_reservations(connection)
        self._write_experience(connection)
        intrusions.write(connection, self.intrusions.values())
        summaries.write(connection, self.summaries)
        _many(connection, notices.INSERT, [notices.row_of(one) for one in self.notices])
        _many(connection, notices.DELETE, [notices.key_of(one) for one in self.told])
        ended = [(id, at) for id, at in self.ended.items()]
        _many(
            connection,
            "UPDATE pipeline SET finished_at = new.column2 FROM (VALUES {}) AS new WHERE pipeline.id = new.column1",
            ended,
            exact=True,
        )
        events = [_event(news) for news in self.all_news()]
        _many(connection, "INSERT INTO event (id, at, type, job, uid, data) VALUES {}", events)
        for gpu, drain in self.drained.items():
            if drain is None:
                connection.execute("DELETE FROM gpu WHERE uuid = ?", (gpu,))
            else:
                connection.execute(
                    "INSERT INTO gpu (uuid, drained) VALUES (?, ?) "
                    "ON CONFLICT (uuid) DO UPDATE SET drained = excluded.drained",
                    (gpu, drain_text(drain)),
                )
        for id, booking in self.bookings.items():
            if booking is None:
                connection.execute("DELETE FROM booking WHERE id = ?", (id,))
            else:
                connection.execute(
                    "INSERT INTO booking (id, uid, starts_at, ends_at, made_at, gpus, detail) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    booking_row(booking),
                )
        for key, value in self.meta.items():
            connection.execute(
                "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (key, text(value)),
            )

    def all_news(self) -> list[News]:
        """Every event of it that counts, in the order of their ids."""
        news = [*self.news]
        for intake in self.intakes:
            if intake.error is None:
                news += intake.news
        return sorted(news, key=lambda one: one.id)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _try(
        self, job: Job, state: JobState, reason: Reason | None, code: int | None, at: float,
        ended: float | None = None, peak: int | None = None,
    ) -> None:  # fmt: skip
        """What the job's attempt has come to. The time of its reservation is the first that is told."""
        key = (job.id, job.attempt)
        known = self.tries.get(key)
        reserved_at = at if known is None else known.reserved_at
        self.tries[key] = _Try(state, reason, code, job.gpus, job.started_at, ended, reserved_at, peak)

    def _write_jobs(self, connection: sqlite3.Connection) -> None:
        revised = [(id, searchable(self.jobs[id].spec.name), spec_text(self.jobs[id].spec)) for id in self.revised]
        _many(
            connection,
            "UPDATE job SET name = new.column2, spec = new.column3, original = coalesce(original, spec) "
            "FROM (VALUES {}) AS new WHERE job.id = new.column1",
            revised,
            exact=True,
        )
        moved = [
            (
                job.id, job.state.value, job.attempt, job.failures, job.exit_code, reason_text(job.reason),
                job.started_at, job.finished_at, job.not_before, job.stopping_at, job.preempted, job.idle_since,
            )
            for job in self.jobs.values()
        ]  # fmt: skip
        _many(
            connection,
            "UPDATE job SET state = new.column2, attempt = new.column3, failures = new.column4, "
            "exit_code = new.column5, reason = new.column6, started_at = new.column7, finished_at = new.column8, "
            "not_before = new.column9, stopping_at = new.column10, preempted = new.column11, "
            "idle_since = new.column12 "
            "FROM (VALUES {}) AS new WHERE job.id = new.column1",
            moved,
            exact=True,
        )
        tries = [
            (
                job, attempt, one.state.value, reason_text(one.reason), one.exit_code, text(one.gpus),
                one.reserved_at, one.started_at, one.finished_at, one.peak_memory,
            )
            for (job, attempt), one in self.tries.items()
        ]  # fmt: skip
        _many(
            connection,
            "INSERT INTO attempt (job, attempt, state, reason, exit_code, gpus, reserved_at, started_at, finished_at, "
            "peak_memory) VALUES {} ON CONFLICT (job, attempt) DO UPDATE SET state = excluded.state, "
            "reason = excluded.reason, exit_code = excluded.exit_code, started_at = excluded.started_at, "
            "finished_at = excluded.finished_at, peak_memory = excluded.peak_memory",
            tries,
        )

    def _write_reservations(self, connection: sqlite3.Connection) -> None:
        # What is let go goes first: within one batch a card may pass from one job to the next.
        released = [(id,) for id in self.released]
        _many(connection, "DELETE FROM reservation WHERE job IN (VALUES {})", released)
        holds = [
            (gpu, id, 0 if job.spec.gpu_shared else 1, job.spec.gpu_memory if job.spec.gpu_shared else None)
            for id in self.reserved
            if (job := self.jobs[id]).live
            for gpu in job.gpus
        ]
        _many(connection, "INSERT INTO reservation (gpu, job, exclusive, share) VALUES {}", holds)

    def _write_experience(self, connection: sqlite3.Connection) -> None:
        known = [
            (uid, text(kind), one.count, samples_text(one.samples), one.at)
            for (uid, kind), one in self.experience.items()
            if one is not None
        ]
        _many(
            connection,
            "INSERT INTO experience (uid, kind, count, samples, changed_at) VALUES {} "
            "ON CONFLICT (uid, kind) DO UPDATE SET count = excluded.count, samples = excluded.samples, "
            "changed_at = excluded.changed_at",
            known,
        )
        forgotten = [(uid, text(kind)) for (uid, kind), one in self.experience.items() if one is None]
        _many(connection, "DELETE FROM experience WHERE (uid, kind) IN (VALUES {})", forgotten)
        charges = [(uid, *charge) for uid, charge in self.charges.items()]
        _many(
            connection,
            "INSERT INTO charge (uid, card_seconds, at) VALUES {} "
            "ON CONFLICT (uid) DO UPDATE SET card_seconds = excluded.card_seconds, at = excluded.at",
            charges,
        )

    def _take_in(self, connection: sqlite3.Connection, intake: Intake) -> None:
        try:
            rows = [(_pipeline(pipeline), environment_blob(env)) for pipeline, _, env in intake.pipelines]
            jobs = [_job(job) for _, jobs, _ in intake.pipelines for job in jobs]
        except (TypeError, ValueError, RecursionError) as error:
            # What cannot be written in any row is its sender's mistake, and must not fail the others' commit.
            intake.error = error
            return
        _many(
            connection,
            "INSERT INTO pipeline (id, uid, user, size, submitted_at, detail) VALUES {}",
            [row for row, _ in rows],
        )
        _many(
            connection,
            "INSERT INTO environment (pipeline, data) VALUES {}",
            [(row[0], blob) for row, blob in rows],
        )
        _many(
            connection,
            "INSERT INTO job (id, pipeline, position, name, state, reason, not_before, spec) VALUES {}",
            jobs,
        )
        if intake.key is not None:
            connection.execute(
                "INSERT INTO submission (uid, key, first_pipeline, last_pipeline) VALUES (?, ?, ?, ?)",
                (intake.uid, intake.key, rows[0][0][0], rows[-1][0][0]),
            )


def _pipeline(pipeline: Pipeline) -> tuple[Any, ...]:
    who = pipeline.submitter
    return (
        pipeline.id, who.uid, searchable(who.user), pipeline.size, pipeline.submitted_at, pipeline_detail(pipeline),
    )  # fmt: skip


def _job(job: Job) -> tuple[Any, ...]:
    return (
        job.id, job.pipeline.id, job.position, searchable(job.spec.name), job.state.value, reason_text(job.reason),
        job.not_before, spec_text(job.spec),
    )  # fmt: skip


def _event(news: News) -> tuple[Any, ...]:
    about = news.about
    if isinstance(about, Job):
        fresh = about.state is JobState.QUEUED and about.attempt == 0 and about.not_before is None
        data = None if fresh else event_data(about, news.xid)
        return (news.id, news.at, news.type, about.id, about.pipeline.submitter.uid, data)
    return (news.id, news.at, news.type, None, None, text(dict(about)))


def _many(connection: sqlite3.Connection, statement: str, rows: Sequence[tuple[Any, ...]], exact: bool = False) -> None:
    """Run the statement for all rows, many at a time. ``exact``: a row that finds nothing to change is an error."""
    at = 0
    for size in _SIZES:
        while len(rows) - at >= size:
            some = rows[at : at + size]
            row = f"({', '.join('?' * len(some[0]))})"
            cursor = connection.execute(statement.format(", ".join([row] * size)), _flat(some))
            if exact and cursor.rowcount != size:
                raise sqlite3.IntegrityError(f"{size - cursor.rowcount} of {size} rows to change are not there")
            at += size


def _flat(rows: Iterable[tuple[Any, ...]]) -> list[Any]:
    return [value for row in rows for value in row]
