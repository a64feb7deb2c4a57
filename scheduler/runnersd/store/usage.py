"""Every attempt added up, by user, pipeline or script: a stretch of jobs at a time, in SQL."""

from __future__ import annotations

import json
import sqlite3
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from runnersd.model import JobId
from runnersd.past.accounts import Account, script_of
from runnersd.store.rows import text

#: Jobs added up at a time: no commit waits behind more.
STRIDE = 1_000
#: What attempts are added up by.
By = Literal["user", "pipeline", "script"]


class Owner(NamedTuple):
    """Whose account it is. What does not apply is None: a script has no uid, a user no pipeline."""

    user: str | None = None
    uid: int | None = None
    pipeline: int | None = None
    name: str | None = None  #: the pipeline's
    script: str | None = None


@dataclass(frozen=True, slots=True)
class Period:
    """From when to when (Unix seconds); of an attempt that lasts longer only what lies within counts.

    ``card_memory`` is a card's memory in bytes: what a shared job's part of a card is measured by.
    """

    since: float
    until: float
    card_memory: float


# Two paths at once: then SQLite gives JSON as it was written. One alone it would decode, which cannot be done to half a
# surrogate pair, and a command may hold that.
_SCRIPT = "script_of(json_extract(job.spec, '$.command', '$.command'))"
_KEYS = {
    "user": "pipeline.uid, max(json_extract(pipeline.detail, '$.user', '$.user')), NULL, NULL",
    "pipeline": "pipeline.uid, json_extract(pipeline.detail, '$.user', '$.name'), pipeline.id, NULL",
    "script": f"NULL, NULL, NULL, {_SCRIPT}",
}
_GROUPS = {"user": "pipeline.uid", "pipeline": "pipeline.id", "script": _SCRIPT}

#: A shared card counts as the share of its memory that was asked for, as it does for the order of the queue.
_SHARE = (
    "CASE WHEN json_extract(job.spec, '$.gpu_shared') AND json_extract(job.spec, '$.gpu_memory') IS NOT NULL "
    "THEN min(json_extract(job.spec, '$.gpu_memory') / :card_memory, 1.0) ELSE 1.0 END"
)
_WITHIN = "max(min(coalesce(attempt.finished_at, :until), :until) - max(attempt.reserved_at, :since), 0.0)"
_PREEMPTED = "coalesce(json_extract(attempt.reason, '$[0]') = 'preempted', 0)"
_ENDED = "attempt.finished_at IS NOT NULL"
#: Of every job's first start within the period: how long it had waited, since it could have started.
_WAITED = (
    "CASE WHEN attempt.attempt = 1 AND attempt.started_at >= :since THEN round(max(attempt.started_at - "
    "max(pipeline.submitted_at, coalesce(json_extract(job.spec, '$.begin'), 0.0)), 0.0), 3) END"
)
#: Of each attempt: its cards' mean utilisations added up, of how many they are known, and their idle seconds.
_MEASURED = (
    "WITH measured AS (SELECT telemetry.job, telemetry.attempt, json_extract(telemetry.summary, '$.energy') AS energy, "
    "sum(json_extract(card.value, '$.utilization.mean')) AS busy, "
    "count(json_extract(card.value, '$.utilization.mean')) AS known, sum(json_extract(card.value, '$.idle')) AS idle "
    "FROM telemetry, json_each(telemetry.summary, '$.gpus') AS card WHERE telemetry.job BETWEEN :low AND :high "
    "GROUP BY telemetry.job, telemetry.attempt) "
)
#: Which part of an attempt lies within the period: what is known of it as a whole counts in that proportion.
_PART = f"{_WITHIN} / max(coalesce(attempt.finished_at, :until) - attempt.reserved_at, 1e-6)"
_INTRUDED = (
    "CASE WHEN EXISTS (SELECT 1 FROM intrusion WHERE intrusion.job = attempt.job "
    "AND intrusion.attempt = attempt.attempt AND intrusion.until >= :since) THEN job.id END"
)


def accounts(connection: sqlite3.Connection, by: By, period: Period, low: JobId, high: JobId) -> dict[Owner, Account]:
    """What the jobs from ``low`` to ``high`` add up to."""
    found: dict[Owner, Account] = {}
    for owner, account in _rows(connection, by, period, low, high):
        known = found.setdefault(owner, account)
        if known is not account:
            known.add(account)
    return found


def last_job(connection: sqlite3.Connection) -> JobId:
    """The highest id of a job that there is; 0 where there is none."""
    found: JobId = connection.execute("SELECT coalesce(max(id), 0) FROM job").fetchone()[0]
    return found


def _rows(
    connection: sqlite3.Connection, by: By, period: Period, low: JobId, high: JobId
) -> Iterator[tuple[Owner, Account]]:
    connection.create_function("script_of", 1, _script_of, deterministic=True)
    rows = connection.execute(
        f"{_MEASURED} SELECT {_KEYS[by]}, count(DISTINCT job.id), count(*), sum({_ENDED}), "
        f"sum({_ENDED} AND attempt.state IN ('failed', 'timed_out') AND NOT {_PREEMPTED}), "
        f"sum({_ENDED} AND {_PREEMPTED}), count(DISTINCT {_INTRUDED}), "
        f"sum({_WITHIN} * json_array_length(attempt.gpus) * {_SHARE}), group_concat({_WAITED}), "
        f"coalesce(sum({_WITHIN} * {_SHARE} * measured.busy), 0.0), "
        f"coalesce(sum({_WITHIN} * {_SHARE} * measured.known), 0.0), "
        f"sum({_PART} * {_SHARE} * measured.idle), sum({_PART} * {_SHARE} * measured.energy) "
        "FROM job JOIN attempt ON attempt.job = job.id JOIN pipeline ON pipeline.id = job.pipeline "
        "LEFT JOIN measured ON measured.job = attempt.job AND measured.attempt = attempt.attempt "
        "WHERE job.id BETWEEN :low AND :high AND coalesce(job.finished_at, :until) >= :since "
        "AND coalesce(attempt.finished_at, :until) >= :since AND attempt.reserved_at <= :until "
        f"GROUP BY {_GROUPS[by]}",
        {"since": period.since, "until": period.until, "card_memory": period.card_memory, "low": low, "high": high},
    )
    for (
        uid, names, pipeline, script, jobs, attempts, ended, failed, preempted, contaminated, seconds, waits,
        busy, known, idle, energy,
    ) in rows:  # fmt: skip
        user, name = json.loads(names) if names else (None, None)
        owner = Owner(user, uid, pipeline, None if pipeline is None else name, script and json.loads(script))
        yield (
            owner,
            Account(
                jobs=jobs,
                attempts=attempts,
                ended=ended,
                failed=failed,
                preempted=preempted,
                contaminated=contaminated,
                card_seconds=seconds,
                busy=busy,
                measured=known,
                idle=idle,
                energy=energy,
                waits=array("d", map(float, waits.split(",")) if waits else ()),
            ),
        )


def _script_of(twice: str) -> str:
    """The script of a command that is written twice in a list; as JSON, which any text can be."""
    return text(script_of(json.loads(twice)[0]))
