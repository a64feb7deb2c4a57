"""`logs`: what a job wrote, and goes on writing."""

from __future__ import annotations

import sys

from runners.api import WAITING, JobDetailView
from runners.client import Client
from runners.errors import InvalidRequest
from runners.following import follow as changes_of

from . import streams
from .options import Words

#: Seconds between looks at why a job still waits.
NEWS_EVERY = 1.0


def logs(words: Words) -> int:
    """Both streams of the last attempt, or of the one asked for; with ``-f`` until it is over, queued jobs included."""
    client, id = Client(words.text("socket")), int(words.required("ID"))
    tail, asked, go_on = words.number("tail"), words.number("attempt"), words.has("follow")
    if tail is not None and tail < 0:
        raise InvalidRequest(f"cannot show logs: --tail takes a number from 0, not {tail}")
    view = client.job(id)
    if asked is not None and not 0 < asked <= view["attempt"]:
        had = f"its attempts are 1 to {view['attempt']}" if view["attempt"] else "it has not been started"
        raise InvalidRequest(f"cannot show attempt {asked} of job {id}: {had}")
    if not view["attempt"] and not go_on:
        raise InvalidRequest(f"cannot show the output of job {id}: it is {view['state']}, {view['reason']['text']}")
    try:
        if not go_on:
            streams.copy(client, id, asked or view["attempt"], tail)
        elif asked:
            streams.follow(client, view, asked, tail)
        else:
            _to_the_end(client, view, tail)
    except KeyboardInterrupt:
        return 130
    return 0


def _to_the_end(client: Client, view: JobDetailView, tail: int | None) -> None:
    """One attempt after the other, from the one it is at, until the job is over."""
    attempt = max(1, view["attempt"])
    while True:
        view = _at_attempt(client, view["id"], attempt)
        if view["attempt"] < attempt:
            return
        streams.follow(client, view, attempt, tail)
        tail = None
        attempt += 1


def _at_attempt(client: Client, id: int, attempt: int) -> JobDetailView:
    """The job, once it has come so far, or is over. What it waits for (its image, say) is said meanwhile."""
    said = ""
    for change in changes_of(client, [id], tick=NEWS_EVERY):
        if change is not None and change["attempt"] >= attempt:
            break
        view = streams.job_of(client, id)
        why = f"job {id} is {view['state']}: {view['reason']['text']}"
        if view["state"] in WAITING and why != said:
            said = why
            sys.stderr.write(f"{why}\n")
            sys.stderr.flush()
    return streams.job_of(client, id)
