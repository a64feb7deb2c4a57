"""`logs`: what a job wrote, and goes on writing."""

from __future__ import annotations

import sys

from runners.api import SETTLED, WAITING, JobDetailView
from runners.client import Client
from runners.errors import InvalidRequest
from runners.following import follow as changes_of

from . import streams
from .options import Words


def logs(words: Words) -> int:
    """Both streams of the last attempt, or of the one asked for; with ``-f`` until it is over, queued jobs included."""
    client, id = Client(words.text("socket")), int(words.required("ID"))
    tail, asked, go_on = words.number("tail"), words.number("attempt"), words.has("follow")
    if tail is not None and tail < 0:
        raise InvalidRequest(f"cannot logs: --tail takes a number from 0, not {tail}")
    view = client.job(id)
    if asked is not None and not 0 < asked <= view["attempt"]:
        had = f"its attempts are 1 to {view['attempt']}" if view["attempt"] else "it has not been started"
        raise InvalidRequest(f"cannot show attempt {asked} of job {id}: {had}")
    if not _begun(view):
        if not go_on:
            raise InvalidRequest(f"cannot show the output of job {id}: it is {view['state']}, {view['reason']['text']}")
        view = _started(client, view)
        if not _begun(view):
            return 0
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
    """One attempt after the other, until the job is over."""
    while True:
        attempt = view["attempt"]
        streams.follow(client, view, attempt, tail)
        tail = None
        for change in changes_of(client, [view["id"]]):
            if change is not None and change["attempt"] > attempt and change["started_at"] is not None:
                break
        view = streams.patiently(client, view["id"])
        if view["state"] in SETTLED and view["attempt"] <= attempt:
            return


def _begun(view: JobDetailView) -> bool:
    """Whether it has an attempt whose output can be read."""
    return view["attempt"] > 0 and (view["started_at"] is not None or view["state"] not in (*WAITING, "starting"))


def _started(client: Client, view: JobDetailView) -> JobDetailView:
    """Wait until a queued job starts, or ends without having started."""
    sys.stderr.write(f"job {view['id']} is {view['state']}: {view['reason']['text']}\n")
    for _change in changes_of(client, [view["id"]]):
        view = streams.patiently(client, view["id"])
        if _begun(view):
            break
    return view
