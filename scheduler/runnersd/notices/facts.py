"""What can be said of a job at its event, as plain data that is kept with the notice. Pure.

No output of the job and nothing of its environment: either may hold a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runners.api import Code
from runnersd.model import GpuId, Intrusion, Job, Reason
from runnersd.telemetry.idleness import idle_text

#: Characters of a sentence that are kept; more is nothing to read in a notice.
_LONGEST = 500


def reason_at(type: str, job: Job, at: float, by: Intrusion | None) -> Reason:
    """Why there is an event of that type: ``by`` is who was on the job's cards (Unix seconds)."""
    if by is not None:
        whose = by.user or ("unknown user" if by.uid is None else f"uid {by.uid}")
        return Reason(Code.FOREIGN_GPU_USE, f"{by.program or 'a process'} (pid {by.pid}, {whose})")
    if type == "job.idle":
        return Reason(Code.IDLE, idle_text(job, at))
    return job.reason or Reason(Code.OK, "ended well")


def facts_of(
    job: Job, reason: Reason, gpus: tuple[GpuId, ...], indices: Mapping[GpuId, int], at: float
) -> dict[str, Any]:
    """What happened to the job ``at`` (Unix seconds): it, ``reason``, and the cards that it has or had."""
    ended = job.finished_at if job.finished_at is not None else at
    return {
        "job": job.id,
        "name": _cut(job.spec.name),
        "pipeline": f"p{job.pipeline.id}",
        "pipeline_name": _cut(job.pipeline.name),
        "user": job.pipeline.submitter.user,
        "state": job.state.value,
        "code": reason.code.value,
        "reason": _cut(reason.text),
        "attempt": job.attempt,
        "exit_code": job.exit_code,
        "cards": [indices.get(gpu, gpu) for gpu in gpus],
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "ran": None if job.started_at is None else round(max(ended - job.started_at, 0.0), 3),
    }


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
