"""Forks supervisors for one daemon, and is gone when that daemon is.

A lean interpreter of its own, because a fork costs what the forked process weighs, and because what it forks must
not be below the daemon: it detaches itself first. It reads orders from its end of a socket pair, each with the line on
which the supervisor will talk to the daemon. The kernel collects the supervisors that end; the daemon sees it on their
lines.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import signal
import socket
import sys
import traceback

from . import order as orders
from . import supervisor


def main() -> None:
    """``spawner CHANNEL LOCK``: the socket's descriptor, and the path of the lock that one spawner holds."""
    channel = socket.socket(fileno=int(sys.argv[-2]))
    channel.set_inheritable(False)
    if os.fork():
        os._exit(0)  # our parent is init now, and the daemon has nothing below it
    os.setsid()
    supervisor.prepare()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    _allow_out_of_memory_kill()
    fence = os.open(sys.argv[-1], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fence, fcntl.LOCK_EX)  # until every launch that an earlier daemon asked for has taken its name
    gc.collect()
    gc.disable()
    gc.freeze()
    try:
        orders.send(channel, ("ready", os.getpid()), [fence])
        serve(channel, fence)
    except Exception:
        orders.send(channel, ("broken", traceback.format_exc()))
        raise


def serve(channel: socket.socket, fence: int) -> None:
    """Answer orders until the daemon is gone."""
    while (received := orders.receive(channel)) is not None:
        (_, payload), descriptors = received
        if not descriptors:  # there was no room for them: the daemon sees the line go
            continue
        try:
            fork(channel, fence, payload, descriptors)
        except OSError as error:  # too many processes, no memory
            with socket.socket(fileno=descriptors.pop(0)) as line:
                orders.tell(line, ("crowded", error.strerror))
        for fd in descriptors:
            os.close(fd)


def fork(channel: socket.socket, fence: int, payload: bytes | None, descriptors: list[int]) -> None:
    """Make one supervisor, which keeps the descriptors: its line, then those of its first order."""
    if os.fork() == 0:
        try:
            channel.close()  # or orders that nobody reads would not be lost with us
            line, *others = descriptors
            supervisor.supervise(line, *orders.taken(payload, others), fence)
        finally:
            os._exit(1)


def _allow_out_of_memory_kill() -> None:
    """The daemon may be exempt from the out-of-memory killer; jobs are as everybody."""
    try:
        with open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:
            if int(file.read()) != 0:
                file.write(b"0")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.ENOENT):
            raise
