"""What commands say of a job or a pipeline, one line each: the same on a terminal and in a pipe."""

from __future__ import annotations

import json
import sys

from runners.render import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from runners.api import JobView

#: Jobs of a new pipeline that a terminal is shown; a pipe gets them all.
_SHOWN = 20


def print_json(document: object) -> None:
    """The one document of a ``--json``."""
    sys.stdout.write(json.dumps(document) + "\n")


def say(line: str) -> None:
    """One line, at once: whoever reads a pipe waits for it."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def change(job: JobView, now: float) -> str:
    """A job's state in a line: ``12 train running``, ``12 train failed after 5m 00s: exited with code 1``."""
    state = job["state"]
    line = f"{job['id']} {words.clean(job['name'])} {state.replace('_', ' ')}"
    if state in words.SETTLED and job["started_at"] is not None:
        line += f" {'in' if state == 'succeeded' else 'after'} {words.duration(words.took(job, now))}"
    elif job["attempt"] > 1:
        line += f" (attempt {job['attempt']})"
    why = words.clean(job["reason"]["text"])
    if why and state not in ("starting", "running", "succeeded"):
        line += f": {why}"
    return line


def queued(made: dict[str, Any], name: str, terminal: bool, said: Sequence[Sequence[str]] = ()) -> str:
    """A new pipeline and its jobs: ``p1 musdb: 2 jobs`` over ``  1 prepare`` and ``  2 train``, and behind each of them
    what is ``said`` of it."""
    jobs = made["jobs"]
    id = made["pipeline"] or "all right, not queued:"
    lines = [" ".join(filter(None, (id, words.clean(name)))) + f": {words.count(len(jobs), 'job')}"]
    most = _SHOWN if terminal and len(jobs) > _SHOWN + 5 else len(jobs)
    for number, job in enumerate(jobs[:most]):
        line = f"  {'' if job['id'] is None else str(job['id']) + ' '}{words.clean(job['name'])}"
        lines.append(line)
        lines += [f"      {one}" for one in said[number]] if said else []
    if len(jobs) > most:
        lines.append(
            f"  ... and {len(jobs) - most} more" + ("" if jobs[-1]["id"] is None else f", up to {jobs[-1]['id']}")
        )
    return "\n".join(lines)


def summary(jobs: Sequence[JobView]) -> str:
    """``18 succeeded, 2 failed``."""
    return ", ".join(
        f"{number} {state.replace('_', ' ')}"
        for state in words.SETTLED
        if (number := sum(job["state"] == state for job in jobs))
    )


def advice(jobs: Sequence[JobView]) -> str:
    """Where to look when a job did not succeed; nothing when all did, or those never ran and wrote nothing."""
    bad = [job for job in jobs if job["state"] in ("failed", "timed_out") and job["started_at"] is not None]
    return f"`runners-client logs {bad[0]['id']}` shows what {words.clean(bad[0]['name'])} wrote" if bad else ""
