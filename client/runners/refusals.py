"""What a request that came to nothing is raised as: no daemon, no permission, no answer, or the daemon's own no.

Loaded when a request has failed, and not before.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator, Sequence

from . import errors, paths, transport
from .transport import Answer

#: Seconds to find out who does not answer.
_KNOCK = 0.5


def told(answer: Answer) -> errors.RunnersError:
    """The error that the daemon's problem document speaks of."""
    try:
        document = json.loads(answer.read())
        code, detail = str(document.get("code", "")), str(document.get("detail") or document.get("title") or "")
    except (OSError, ValueError, AttributeError):
        document, code, detail = {}, "", ""
    if not detail:
        detail = f"cannot do that: the daemon answered {answer.status} without saying why"
    if code == errors.InvalidPipeline.code:
        problems = [
            errors.Problem(str(problem.get("path", "")), str(problem.get("message", "")))
            for problem in document.get("problems") or ()
        ]
        return errors.InvalidPipeline(detail, [problem for problem in problems if str(problem) not in detail])
    for kind in _kinds(errors.RunnersError):
        if kind.code == code and kind.__module__ == errors.__name__:
            return kind(detail)
    by_status = {403: errors.NotAllowed, 404: errors.NotFound, 413: errors.TooLarge, 503: errors.Unavailable}
    kind = by_status.get(answer.status, errors.InvalidRequest if answer.status < 500 else errors.RunnersError)
    return kind(detail)


def _kinds(root: type[errors.RunnersError]) -> Iterator[type[errors.RunnersError]]:
    for kind in root.__subclasses__():
        yield kind
        yield from _kinds(kind)


def unreachable(candidates: Sequence[str]) -> errors.DaemonUnreachable:
    """Nothing answers on any of the sockets."""
    where = " or ".join(candidates)
    return errors.DaemonUnreachable(
        f"cannot reach the daemon: nothing answers on {where}; `runners-client up` starts one of your own"
    )


def timed_out(path: str | None, seconds: float) -> errors.Unavailable:
    """The daemon at ``path`` took the connection or the request, and said nothing for so long."""
    stopped = _stopped(path) if path is not None else None
    why = (
        f"the daemon's process {stopped} is stopped; `kill -CONT {stopped}` lets it go on"
        if stopped is not None
        else "the daemon is stuck, or has very much to do; try again, and if that does not help look into its log, or "
        "restart it: jobs go on meanwhile"
    )
    return errors.Unavailable(f"cannot get an answer from {path}: nothing came for {seconds:.0f} s; {why}")


def _stopped(path: str) -> int | None:
    """The pid of who listens there, if a signal or a debugger has stopped it."""
    try:
        with transport.connect(path, _KNOCK) as sock:
            pid: int = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        with open(f"/proc/{pid}/stat", "rb") as file:
            state = file.read().rpartition(b") ")[2][:1]
    except OSError:
        return None
    return pid if state in (b"T", b"t") else None


def hung_up(path: str | None) -> errors.Unavailable:
    """The daemon at ``path`` broke the connection off."""
    return errors.Unavailable(f"cannot get an answer from {path}: the daemon hung up; is it restarting?")


def not_json(path: str | None) -> errors.Unavailable:
    """Something answered at ``path`` that does not speak as the daemon does."""
    return errors.Unavailable(f"cannot use the answer of {path}: it is not JSON; is it a runnersd?")


def too_large(size: int) -> errors.TooLarge:
    """A body of so many bytes is not sent: the daemon would not read it."""
    return errors.TooLarge(f"cannot send {size / 2**20:.1f} MiB: the daemon takes 8 MiB at once; split the pipeline")


def not_permitted(path: str) -> errors.NotAllowed:
    """Why the kernel would not let us connect: not in the socket's group, most likely."""
    group = "runners"
    try:
        gid = os.stat(path).st_gid
    except OSError:
        gid = None  # not even the directory may be read: the usual group is the best guess
    if gid is not None:
        import grp

        try:
            group = grp.getgrgid(gid).gr_name
        except KeyError:
            group = str(gid)
    advice = (
        f"ask to be added to the group `{group}` and log in again"
        if group != "root"
        else "only root may use it; ask root to make the group of the configuration"
    )
    own = "start your own with `runners-client up`"
    if path != paths.SYSTEM_SOCKET:
        own += ", without --socket and $RUNNERS_SOCKET"
    return errors.NotAllowed(f"cannot use {path}: permission denied; {advice}, or {own}")
