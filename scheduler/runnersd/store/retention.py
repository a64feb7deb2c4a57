"""Old pipelines and bookings deleted, a few at a time, so that no commit waits long behind it."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass, field

from runners.api import JobState
from runnersd.model import JobId, PipelineId

#: Jobs deleted in one transaction, about; a larger pipeline goes alone.
_AT_ONCE = 500


@dataclass(slots=True)
class Pruned:
    """What one transaction deleted: jobs with the state they had, and every attempt."""

    jobs: dict[JobId, JobState] = field(default_factory=dict)
    attempts: list[tuple[JobId, int]] = field(default_factory=list)


def prune(connection: sqlite3.Connection, before: float, keep: Collection[JobId]) -> Pruned:
    """Delete some of the pipelines that ended before then (Unix seconds). Nothing left to do: nothing in the answer.

    Pipelines with a job in ``keep`` stay: others still ask how it ended.
    """
    pruned = Pruned()
    for id, size in connection.execute(
        "SELECT id, size FROM pipeline WHERE finished_at < ? ORDER BY finished_at LIMIT ?", (before, _AT_ONCE)
    ).fetchall():
        if pruned.jobs and len(pruned.jobs) + size > _AT_ONCE:
            break
        jobs = {
            job: JobState(state)
            for job, state in connection.execute("SELECT id, state FROM job WHERE pipeline = ?", (id,))
        }
        if keep and not jobs.keys().isdisjoint(keep):
            continue
        _delete(connection, id, pruned)
        pruned.jobs |= jobs
    connection.execute("DELETE FROM booking WHERE ends_at < ?", (before,))
    connection.execute(
        "DELETE FROM event WHERE job IS NULL AND at < ? AND id IN "
        "(SELECT id FROM event WHERE job IS NULL ORDER BY id LIMIT 1000)",
        (before,),
    )
    return pruned


def _delete(connection: sqlite3.Connection, pipeline: PipelineId, pruned: Pruned) -> None:
    # Ids are never given twice, not even those of deleted rows: a run name names one attempt for ever.
    for table in ("pipeline", "job", "event"):
        connection.execute(
            "INSERT INTO meta (key, value) "
            f"SELECT ?, cast(max(id) AS TEXT) FROM {table} WHERE true "
            "ON CONFLICT (key) DO UPDATE SET value = max(cast(value AS INTEGER), cast(excluded.value AS INTEGER))",
            (f"last_{table}",),
        )
    mine = "(SELECT id FROM job WHERE pipeline = ?)"
    pruned.attempts += connection.execute(
        f"SELECT job, attempt FROM attempt WHERE job IN {mine}", (pipeline,)
    ).fetchall()
    connection.execute(f"DELETE FROM event WHERE job IN {mine}", (pipeline,))
    connection.execute("DELETE FROM pipeline WHERE id = ?", (pipeline,))
