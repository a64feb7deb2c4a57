"""A daemon of one's own: how it is started, by `runners-client up` and by the library where none answers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from shutil import which

from . import paths
from .client import Client
from .errors import DaemonUnreachable, Unavailable
from .render.words import clean

#: Seconds that a daemon may take to answer for the first time.
PATIENCE = 30.0
#: Its log, in the state directory.
LOG = "runnersd.log"


def answering(path: str | None = None) -> Client:
    """A client of a daemon that answers: the one at ``path``, else as :class:`Client` finds it, else one started now.

    Raises:
        Unavailable: none answers, and none can be started.
        NotAllowed: the one that is there does not take us.
    """
    client = Client(path)
    ensure(client, path)
    return client


def ensure(client: Client, path: str | None = None) -> bool:
    """See that a daemon answers the client, which was made for ``path``. True when it was started for that.

    Raises:
        Unavailable: none answers, and none can be started.
    """
    try:
        client.health()
    except DaemonUnreachable:
        _start(client, path)
        return True
    return False


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
    log = os.path.join(state, LOG)
    try:
        os.makedirs(state, mode=0o700, exist_ok=True)
        with open(log, "ab") as output:
            begins = output.tell()
            daemon = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/"
            )
    except OSError as error:
        raise Unavailable(f"cannot start a daemon: {error.filename or command[0]}: {error.strerror}") from None
    until = time.monotonic() + PATIENCE
    last_look = False
    while True:
        try:
            client.health()
        except (DaemonUnreachable, Unavailable):
            # One that ended may have lost a race against another that now comes up: look once more.
            if last_look or time.monotonic() >= until:
                raise _failed(log, begins, daemon.poll()) from None
            last_look = daemon.poll() is not None
            time.sleep(1.0 if last_look else 0.02)
        else:
            _leave(daemon)
            return


def _leave(daemon: subprocess.Popen[bytes]) -> None:
    """It outlives us on purpose: Python is not to complain of a child that nobody waited for."""
    daemon.returncode = 0


def _failed(log: str, begins: int, code: int | None) -> Unavailable:
    what = f"it ended with code {code}" if code is not None else f"it does not answer after {PATIENCE:.0f} s"
    with open(log, "rb") as written:
        written.seek(begins)
        lines = written.read(65536).decode(errors="replace").strip().splitlines()[-8:]
    return Unavailable("\n  ".join([f"cannot start a daemon: {what}; its log is {log}", *map(clean, lines)]))
