"""Forks supervisors for one daemon, and is gone when that daemon is.

A lean interpreter of its own, because a fork costs what the forked process weighs, and because what it forks must
not be below the daemon: it detaches itself first. It reads orders from its end of a socket pair; its supervisors
answer through it. It collects those that end; one that failed before it answered is reported by name.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import select
import socket
import sys
import traceback

from . import order as orders
from . import supervisor

_COLLECT = 1000  # milliseconds between looks for supervisors that have ended


def main() -> None:
    """``spawner CHANNEL LOCK``: the socket's descriptor, and the path of the lock that one spawner holds."""
    channel = socket.socket(fileno=int(sys.argv[-2]))
    channel.set_inheritable(False)
    if os.fork():
        os._exit(0)  # our parent is init now, and the daemon has nothing below it
    os.setsid()
    supervisor.prepare()
    _allow_out_of_memory_kill()
    fence = os.open(sys.argv[-1], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fence, fcntl.LOCK_EX)  # until every launch that an earlier daemon asked for has taken its name
    gc.collect()
    gc.disable()
    gc.freeze()
    try:
        me = os.pidfd_open(os.getpid())
        orders.send(channel, ("ready", os.getpid()), [me])
        os.close(me)
        serve(channel, fence)
    except Exception:
        orders.send(channel, ("broken", traceback.format_exc()))
        raise


def serve(channel: socket.socket, fence: int) -> None:
    """Answer orders until the daemon is gone."""
    running: dict[int, str] = {}
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    while True:
        if poll.poll(_COLLECT if running else None):
            received = orders.receive(channel)
            if received is None:
                return
            (run, payload), descriptors = received
            try:
                running[fork(channel, fence, payload, descriptors)] = run
            except OSError as error:  # too many processes, no memory
                orders.send(channel, ("failed", run, f"cannot start a supervisor: {error.strerror}"))
            for fd in descriptors:
                os.close(fd)
        for run in collect(running):
            orders.send(channel, ("gone", run))


def fork(channel: socket.socket, fence: int, payload: bytes | None, descriptors: list[int]) -> int:
    """Make one supervisor, which keeps the descriptors (locks of cards); its pid.

    An order too large for a message comes as a memory file, the first of the descriptors.
    """
    pid = os.fork()
    if pid == 0:
        try:
            if payload is None:
                with open(descriptors[0], "rb") as file:
                    file.seek(0)
                    payload = file.read()
            supervisor.supervise(orders.Order.unpack(payload), channel, fence)
        finally:
            os._exit(1)
    return pid


def collect(running: dict[int, str]) -> list[str]:
    """Wait for supervisors that have ended; the runs of those that ended badly."""
    bad = []
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            break
        run = running.pop(pid, None)
        if status and run is not None:
            bad.append(run)
    return bad


def _allow_out_of_memory_kill() -> None:
    """The daemon may be exempt from the out-of-memory killer; jobs are as everybody."""
    try:
        with open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:
            if int(file.read()) != 0:
                file.write(b"0")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.ENOENT):
            raise
