"""The rows of what attempts did with their cards and processes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping

from runners.api import LIVE, SummaryView
from runnersd.model import JobId
from runnersd.store.rows import text

_LIVE = ", ".join(f"'{state.value}'" for state in sorted(LIVE))


def write(connection: sqlite3.Connection, summaries: Mapping[tuple[JobId, int], SummaryView]) -> None:
    """Write them, each over what was written of the same attempt. One of an attempt that has no row is left out."""
    for (job, attempt), summary in summaries.items():
        connection.execute(
            "INSERT INTO telemetry (job, attempt, summary) "
            "SELECT job, attempt, ? FROM attempt WHERE job = ? AND attempt = ? "
            "ON CONFLICT (job, attempt) DO UPDATE SET summary = excluded.summary",
            (text(summary), job, attempt),
        )


def of_live_attempts(connection: sqlite3.Connection) -> dict[tuple[JobId, int], SummaryView]:
    """Those of attempts that are not over."""
    rows = connection.execute(
        "SELECT telemetry.job, telemetry.attempt, summary FROM telemetry "
        "JOIN job ON job.id = telemetry.job AND job.attempt = telemetry.attempt "
        f"WHERE job.state IN ({_LIVE})"
    )
    return {(job, attempt): json.loads(summary) for job, attempt, summary in rows}


def of_job(connection: sqlite3.Connection, job: JobId) -> dict[int, SummaryView]:
    """Those of a job's attempts, by attempt."""
    rows = connection.execute("SELECT attempt, summary FROM telemetry WHERE job = ?", (job,))
    return {attempt: json.loads(summary) for attempt, summary in rows}
