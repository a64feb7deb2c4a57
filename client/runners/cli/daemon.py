"""The daemon itself: `up`, `down`, `pause`, `resume`."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from importlib.util import find_spec
from shutil import which

from runners import paths
from runners.client import Client
from runners.errors import DaemonUnreachable, IllegalTransition, RunnersError, Unavailable
from runners.render import words as said

from .options import Words
from .sentences import print_json

#: Seconds that a daemon may take to answer for the first time, and an idle one to end.
_PATIENCE = 30.0
_LOG = "runnersd.log"


def up(words: Words) -> int:
    """Start `runnersd` by itself, if none answers, and wait until it does."""
    chosen = words.text("socket")
    client = Client(chosen)
    try:
        client.health()
    except DaemonUnreachable:
        _start(client, chosen)
        return _said(client, "started", words)
    return _said(client, "already up", words)


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
    reason = words.text("reason") or ""
    Client(words.text("socket")).pause(reason)
    if words.has("json"):
        print_json({"paused": reason})
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


def program() -> list[str]:
    """How `runnersd` is started: by this interpreter where it has the package, else from the path.

    Raises:
        Unavailable: the daemon is not installed here.
    """
    if find_spec("runnersd") is not None:
        return [sys.executable, "-m", "runnersd"]
    found = which("runnersd")
    if found is None:
        raise Unavailable(
            "cannot start a daemon: runnersd is not installed; `pip install 'runnersd[daemon]'` brings it"
        )
    return [found]


def _start(client: Client, chosen: str | None) -> None:
    """Start it with a session of its own, its log in the state directory, and wait for its first answer."""
    command = program()
    socket = chosen or os.environ.get("RUNNERS_SOCKET")
    if socket:
        command += ["--socket", socket]
    state = paths.state_dir()
    log = os.path.join(state, _LOG)
    try:
        os.makedirs(state, mode=0o700, exist_ok=True)
        with open(log, "ab") as output:
            begins = output.tell()
            daemon = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/"
            )
    except OSError as error:
        raise Unavailable(f"cannot start a daemon: {error.filename or command[0]}: {error.strerror}") from None
    until = time.monotonic() + _PATIENCE
    last_look = False
    while True:
        try:
            client.health()
            return
        except (DaemonUnreachable, Unavailable):
            # One that ended may have lost a race against another that now comes up: look once more.
            if last_look or time.monotonic() >= until:
                raise _failed(log, begins, daemon.poll()) from None
            last_look = daemon.poll() is not None
            time.sleep(1.0 if last_look else 0.02)


def _failed(log: str, begins: int, code: int | None) -> Unavailable:
    what = f"it ended with code {code}" if code is not None else f"it does not answer after {_PATIENCE:.0f} s"
    with open(log, "rb") as written:
        written.seek(begins)
        lines = written.read(65536).decode(errors="replace").strip().splitlines()[-8:]
    return Unavailable("\n  ".join([f"cannot start a daemon: {what}; its log is {log}", *map(said.clean, lines)]))


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
