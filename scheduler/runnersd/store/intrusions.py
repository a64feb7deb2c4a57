"""The rows of processes that were on a job's cards and did not belong there."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable

from runners.api import LIVE, IntruderView
from runnersd.model import Intrusion, JobId
from runnersd.store.rows import text

_LIVE = ", ".join(f"'{state.value}'" for state in sorted(LIVE))


def write(connection: sqlite3.Connection, intrusions: Iterable[Intrusion]) -> None:
    """Write them, each over what was written of it before. One of an attempt that has no row is left out."""
    for one in intrusions:
        detail = {"uid": one.uid, "user": one.user, "program": one.program, "memory": one.memory}
        connection.execute(
            "INSERT INTO intrusion (job, attempt, gpu, pid, since, until, detail) "
            "SELECT job, attempt, ?, ?, ?, ?, ? FROM attempt WHERE job = ? AND attempt = ? "
            "ON CONFLICT (job, attempt, gpu, pid, since) "
            "DO UPDATE SET until = excluded.until, detail = excluded.detail",
            (one.gpu, one.pid, one.since, one.until, text(detail), one.job, one.attempt),
        )


def of_live_attempts(connection: sqlite3.Connection) -> list[Intrusion]:
    """Those of attempts that are not over, in the order in which they came."""
    rows = connection.execute(
        "SELECT intrusion.job, intrusion.attempt, gpu, pid, since, until, detail FROM intrusion "
        "JOIN job ON job.id = intrusion.job AND job.attempt = intrusion.attempt "
        f"WHERE job.state IN ({_LIVE}) ORDER BY since"
    )
    return [Intrusion(*row, **json.loads(detail)) for *row, detail in rows]


def of_job(connection: sqlite3.Connection, job: JobId) -> dict[int, list[IntruderView]]:
    """Who was on the cards of a job's attempts, by attempt."""
    found: dict[int, list[IntruderView]] = {}
    rows = connection.execute(
        "SELECT attempt, gpu, pid, since, until, detail FROM intrusion WHERE job = ? ORDER BY since, gpu, pid", (job,)
    )
    for attempt, gpu, pid, since, until, detail in rows:
        said = json.loads(detail)
        found.setdefault(attempt, []).append(
            {
                "gpu": gpu,
                "pid": pid,
                "user": said["user"] or None,
                "uid": said["uid"],
                "program": said["program"] or None,
                "memory": said["memory"],
                "since": since,
                "until": until,
            }
        )
    return found
