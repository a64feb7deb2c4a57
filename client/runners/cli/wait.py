"""Waiting for jobs: `wait`, and what `submit --wait` and `--follow` do in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from runners.api import SETTLED, JobView
from runners.client import Client
from runners.events import EventStream
from runners.following import follow

from .options import Words
from .sentences import change, print_json, say


def wait(words: Words) -> int:
    """Until all are over; 1 when one did not succeed, 130 when the person has had enough."""
    ids, client = words.all("ID"), Client(words.text("socket"))
    json = words.has("json")
    try:
        jobs = until_over(client, ids, lines="none" if json else "ended")
    except KeyboardInterrupt:
        return left_running(ids)
    if json:
        print_json({"jobs": jobs})
    return verdict(jobs)


def until_over(
    client: Client,
    ids: Sequence[int | str],
    *,
    lines: str,
    stream: EventStream | None = None,
    queued: Sequence[int] = (),
) -> list[JobView]:
    """Wait, and return the jobs as they ended. ``lines``: ``none``, ``ended`` (one a job) or ``all`` (one a change).

    ``queued`` are jobs just submitted, and listed: that they are queued is no news.
    """
    listed = frozenset(queued)
    jobs: dict[int, JobView] = {}
    for job in follow(client, ids, stream=stream, queued=queued):
        if job is None:
            continue
        jobs[job["id"]] = job
        known = job["state"] == "queued" and not job["attempt"] and job["id"] in listed
        if (lines == "all" and not known) or (lines == "ended" and job["state"] in SETTLED):
            say(change(job, time.time()))
    return [jobs[id] for id in sorted(jobs)]


def verdict(jobs: Sequence[JobView]) -> int:
    """0 when all succeeded, else 1."""
    return 0 if all(job["state"] == "succeeded" for job in jobs) else 1


def left_running(ids: Sequence[int | str]) -> int:
    """Say after a Ctrl-C that the jobs go on; the exit code of it."""
    named = " ".join(map(str, ids))
    sys.stderr.write(f"\nrunners-client: the jobs go on; `runners-client wait {named}` waits again\n")
    return 130
