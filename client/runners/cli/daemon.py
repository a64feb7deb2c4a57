"""The daemon itself: `up`, `down`, `pause`, `resume`."""

from __future__ import annotations

import os
import select
import sys
import time

from runners import own_daemon, paths
from runners.client import Client
from runners.errors import IllegalTransition, NotAllowed, RunnersError
from runners.render import words as said

from .options import Words
from .sentences import print_json


def up(words: Words) -> int:
    """Start `runnersd` by itself, if none answers, and wait until it does."""
    chosen = words.text("socket")
    client = Client(chosen)
    try:
        started = own_daemon.ensure(client, chosen)
    except NotAllowed:
        if chosen or os.environ.get("RUNNERS_SOCKET"):
            raise
        # The machine's daemon is not for this user: one of their own is what that is answered with.
        client.candidates = paths.own_sockets()
        started = own_daemon.ensure(client)
    return _said(client, "started" if started else "already up", words)


def down(words: Words) -> int:
    """Stop the user's own daemon, once it has nothing to do (``--now``: with its jobs), and wait until it is gone."""
    chosen = words.text("socket") or os.environ.get("RUNNERS_SOCKET")
    client = Client(chosen)
    if not chosen:
        client.candidates = paths.own_sockets()  # never the system's, whoever may
    daemon = client.status(limit=1)["daemon"]
    try:
        watched = os.pidfd_open(daemon["pid"])
    except OSError:
        watched = -1  # in a container of its own, say: the socket alone will tell
    try:
        client.shutdown(now=words.has("now"))
        _until_gone(client, watched)
    except IllegalTransition as error:
        raise IllegalTransition(f"{error}{_what_runs(client)}") from None
    finally:
        if watched >= 0:
            os.close(watched)
    if words.has("json"):
        print_json({"socket": client.path, "pid": daemon["pid"], "state": "down"})
    else:
        sys.stdout.write(f"runnersd is down (it was pid {daemon['pid']})\n")
    return 0


def pause(words: Words) -> int:
    """Nothing new starts."""
    paused = Client(words.text("socket")).pause(words.text("reason") or "")
    if words.has("json"):
        print_json({"paused": paused})
    else:
        sys.stdout.write("paused: nothing new starts; `runners-client resume` goes on\n")
    return 0


def resume(words: Words) -> int:
    """Jobs start again."""
    Client(words.text("socket")).resume()
    if words.has("json"):
        print_json({"paused": None})
    else:
        sys.stdout.write("resumed\n")
    return 0


def _said(client: Client, how: str, words: Words) -> int:
    daemon = client.status(limit=1)["daemon"]
    if words.has("json"):
        print_json({"socket": client.path, "pid": daemon["pid"], "version": daemon["version"], "state": how})
        return 0
    sys.stdout.write(f"runnersd {daemon['version']} {how}: pid {daemon['pid']}, {client.path}\n")
    return 0


def _until_gone(client: Client, watched: int) -> None:
    """Wait for the process's end, or for the socket to fall silent."""
    while True:
        if watched >= 0:
            select.select([watched], [], [], None)
            return
        try:
            client.health()
        except RunnersError:
            return
        time.sleep(0.1)


def _what_runs(client: Client) -> str:
    """The jobs that keep a daemon from ending, for the person who wants it to."""
    try:
        jobs = [job for job in client.status()["jobs"] if job["state"] not in said.SETTLED]
    except RunnersError:
        return ""
    lines = [f"\n  {job['id']} {said.clean(job['name'])} ({job['user']}) {job['state']}" for job in jobs[:10]]
    more = f"\n  ... and {len(jobs) - 10} more" if len(jobs) > 10 else ""
    return "".join(lines) + more + "\n`runners-client down --now` cancels them first"
