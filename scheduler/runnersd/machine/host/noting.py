"""What an attempt's experiment is told of it: lines in its record, written by a child that has the submitter's rights.

The folder is the submitter's, and may lead anywhere. So whoever writes is them, in a process of its own that may hang
on their file system, and is waited for only so long.
"""

from __future__ import annotations

import os
import select
import signal
import time

from . import order as orders
from . import record
from .starting import become_submitter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: The file in an experiment's folder, as `runners.experiments.folder` has it.
FILE = "record.jsonl"
#: Seconds to wait for the writing, and for a writer that was killed.
_PATIENCE = (5.0, 1.0)
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def note(order: orders.Order, event: str, facts: Mapping[str, object]) -> bool:
    """Add a line to the record of the order's experiment; one that cannot be written is lost.

    False when the writer hangs and cannot be killed: then this process has a child that is no attempt's.
    """
    line = record.line(event=event, at=time.time(), **_whose(order.environment), **facts)
    pid = os.fork()
    if pid == 0:
        try:
            _write(order, line)
        finally:
            os._exit(0)
    return _gone(pid)


def _whose(environment: Mapping[str, str]) -> dict[str, object]:
    """Which attempt it is, by its variables."""
    cards = environment.get("CUDA_VISIBLE_DEVICES", "")
    return {
        "job": int(environment["RUNNERS_JOB_ID"]),
        "attempt": int(environment["RUNNERS_ATTEMPT"]),
        "name": environment["RUNNERS_JOB_NAME"],
        "pipeline": environment["RUNNERS_PIPELINE_ID"],
        "cards": cards.split(",") if cards else [],
    }


def _write(order: orders.Order, line: bytes) -> None:
    become_submitter(order)
    descriptor = os.open(f"{order.experiment}/{FILE}", _FLAGS, 0o666)
    os.write(descriptor, line)


def _gone(pid: int) -> bool:
    """Wait for a child, and kill it when it takes too long."""
    descriptor = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    try:
        for patience in _PATIENCE:
            if _ends(poll, patience):
                os.waitpid(pid, 0)
                return True
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        return False
    finally:
        os.close(descriptor)


def _ends(poll: select.poll, seconds: float) -> bool:
    return bool(poll.poll(seconds * 1000))
