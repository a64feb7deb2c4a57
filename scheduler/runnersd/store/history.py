"""What jobs that ask for cards did since a time, for a picture of the machine: their waits, attempts and cards."""

from __future__ import annotations

import json
import sqlite3

from runners.api import CardChangeView, PastAttemptView, PastIntruderView, PastJobView
from runnersd.model import JobId

#: Jobs, and events, looked at in one go: no commit waits behind more.
STRIDE = 2_000
_EVENTS = 20_000


def jobs(
    connection: sqlite3.Connection, since: float, after: JobId, limit: int
) -> tuple[list[PastJobView], JobId | None]:
    """Jobs of the next stretch of ids that ask for cards and were not over then; the id to go on after, if any."""
    last: int = connection.execute("SELECT coalesce(max(id), 0) FROM job").fetchone()[0]
    end = min(after + STRIDE, last)
    rows = connection.execute(
        "SELECT job.id, job.name, job.pipeline, pipeline.user, pipeline.uid, job.state, "
        "json_extract(job.spec, '$.num_gpus'), "
        "max(pipeline.submitted_at, coalesce(json_extract(job.spec, '$.begin'), 0.0)), job.finished_at "
        "FROM job JOIN pipeline ON pipeline.id = job.pipeline WHERE job.id > ? AND job.id <= ? "
        "AND coalesce(job.finished_at, ?) >= ? AND json_extract(job.spec, '$.num_gpus') > 0 ORDER BY job.id LIMIT ?",
        (after, end, since, since, limit),
    )
    found: dict[JobId, PastJobView] = {
        id: {
            "id": id, "name": name, "pipeline": f"p{pipeline}", "user": user, "uid": uid, "state": state,
            "num_gpus": cards, "submitted_at": submitted_at, "finished_at": finished_at, "attempts": [],
        }
        for id, name, pipeline, user, uid, state, cards, submitted_at, finished_at in rows
    }  # fmt: skip
    full = len(found) == limit
    if full:
        end = max(found)
    _add_attempts(connection, found, after, end)
    return list(found.values()), end if end < last else None


def changes(connection: sqlite3.Connection, since: float, after: int) -> tuple[list[CardChangeView], int | None]:
    """Changes of cards' states since then, of the next stretch of events; the event to go on after, if any."""
    if not after:
        after = _before(connection, since)
    last: int = connection.execute("SELECT coalesce(max(id), 0) FROM event").fetchone()[0]
    end = min(after + _EVENTS, last)
    rows = connection.execute(
        "SELECT at, data FROM event WHERE id > ? AND id <= ? AND job IS NULL AND type LIKE 'gpu.%' AND at >= ? "
        "ORDER BY id",
        (after, end, since),
    )
    return [_change(at, json.loads(data)) for at, data in rows], end if end < last else None


def _change(at: float, view: dict[str, object]) -> CardChangeView:
    reason = view.get("reason")
    return {
        "at": at,
        "uuid": str(view["uuid"]),
        "state": str(view["state"]),
        "reason": None if reason is None else str(reason),
    }


def _before(connection: sqlite3.Connection, since: float) -> int:
    """An event before all that have happened since then: ids are given in the order of time, or nearly so."""
    low, high = connection.execute("SELECT coalesce(min(id), 1) - 1, coalesce(max(id), 0) FROM event").fetchone()
    while low < high:
        middle = (low + high) // 2
        row = connection.execute("SELECT id, at FROM event WHERE id > ? ORDER BY id LIMIT 1", (middle,)).fetchone()
        if row is None or row[1] >= since:
            high = middle
        else:
            low = int(row[0])
    found: int = low
    return found


def _add_attempts(connection: sqlite3.Connection, found: dict[JobId, PastJobView], after: JobId, end: JobId) -> None:
    attempts: dict[tuple[JobId, int], PastAttemptView] = {}
    for job, number, state, gpus, reserved_at, finished_at in connection.execute(
        "SELECT job, attempt, state, gpus, reserved_at, finished_at FROM attempt WHERE job > ? AND job <= ? "
        "ORDER BY job, attempt",
        (after, end),
    ):
        if job in found:
            one: PastAttemptView = {
                "attempt": number, "state": state, "gpus": json.loads(gpus), "reserved_at": reserved_at,
                "finished_at": finished_at, "intruders": [],
            }  # fmt: skip
            attempts[job, number] = one
            found[job]["attempts"].append(one)
    for job, number, gpu, since, until, detail in connection.execute(
        "SELECT job, attempt, gpu, since, until, detail FROM intrusion WHERE job > ? AND job <= ? ORDER BY since",
        (after, end),
    ):
        if (job, number) in attempts:
            intruder: PastIntruderView = {
                "gpu": gpu, "since": since, "until": until, "user": json.loads(detail)["user"] or None,
            }  # fmt: skip
            attempts[job, number]["intruders"].append(intruder)
