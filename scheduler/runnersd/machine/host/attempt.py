"""What the launcher knows of one attempt, how one whose supervisor is lost is ended, how a record reads as an end.

An attempt that this daemon had started has a line to its supervisor. Of one that an earlier daemon had started the
supervisor is known by a pidfd: it has no daemon any more, so it gets no other attempt, and a signal to it can mean
nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable
from typing import Any

from runners.api import Code
from runnersd.in_thread import in_thread
from runnersd.machine import LaunchFailed
from runnersd.machine.host import processes, record
from runnersd.machine.host.watch import AT_ONCE, pass_on
from runnersd.model import Outcome, Reason, RunName

log = logging.getLogger(__name__)

_STRAYS = (0.02, 0.5)  # seconds between looks for strays: the first, the longest


class Attempt:
    """What is known of one attempt. ``order`` and ``cards`` are kept until its launch has been answered.

    ``tell`` says something to its supervisor, while there is a line to it.
    """

    def __init__(self, run: RunName, path: str, loop: asyncio.AbstractEventLoop) -> None:
        self.run = run
        self.path = path
        self.started: asyncio.Future[float | LaunchFailed] = loop.create_future()
        self.over: asyncio.Future[Outcome] = loop.create_future()
        self.pid: int | None = None
        self.tell: Callable[[tuple[object, ...]], None] | None = None
        self.pidfd: int | None = None
        self.order: bytes | None = None
        self.cards: tuple[str, ...] = ()
        self.tries = 0
        self.stop = False
        self.at_once = False

    @property
    def supervised(self) -> bool:
        """Whether it has a supervisor that is known to live."""
        return self.tell is not None or self.pidfd is not None

    def watch(self, pidfd: int, ended: Callable[[Attempt], None]) -> None:
        """Its supervisor lives: have ``ended`` called when it does not. The descriptor is the attempt's from now on."""
        self.pidfd = pidfd
        asyncio.get_running_loop().add_reader(pidfd, ended, self)

    def unwatch(self) -> None:
        """Its supervisor is gone, or nobody wants to know any more."""
        self.tell = None
        if self.pidfd is not None:
            asyncio.get_running_loop().remove_reader(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = None

    def signal(self, number: int) -> None:
        """Have its supervisor, if that lives, signal its process group."""
        if self.tell is not None:
            self.tell(("signal", str(self.run), int(number)))
        else:
            self._signal(pass_on(number))

    def pass_stop(self) -> None:
        """Tell its supervisor, if that lives, that it is to stop."""
        if self.tell is not None:
            self.tell(("stop", str(self.run), self.at_once))
        else:
            self._signal(AT_ONCE if self.at_once else signal.SIGTERM)

    def _signal(self, number: int) -> None:
        if self.pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def settle(self, outcome: Outcome) -> None:
        """It is over; who waits is told."""
        if not self.started.done():
            never = outcome.failure is not None and outcome.started_at is None
            why = outcome.failure.text if outcome.failure is not None else ""
            self.started.set_result(LaunchFailed(why) if never else outcome.started_at or 0.0)
        if not self.over.done():
            self.over.set_result(outcome)


async def end_strays(attempt: Attempt, found: record.Record) -> None:
    """End what a lost supervisor left behind: SIGTERM, SIGKILL after the grace. Returns when there is nothing of it."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + found.grace
    told: set[tuple[int, int]] = set()
    pause, longest = _STRAYS
    clear = 0
    while clear < 2:  # one look at /proc may miss a process that is just forking
        try:
            strays = await in_thread(processes.strays, str(attempt.run), found.main, found.main_start)
        except OSError as error:  # no descriptor is free: that proves nothing
            log.error("cannot look for the processes of %s: %s; trying again", attempt.run, error)
            await asyncio.sleep(longest)
            continue
        clear = 0 if strays else clear + 1
        kill = attempt.at_once or loop.time() >= deadline
        for process in strays:
            if kill:
                processes.send(process, signal.SIGKILL)
            elif (process.pid, process.start) not in told:
                told.add((process.pid, process.start))
                processes.send(process, signal.SIGTERM)
                processes.send(process, signal.SIGCONT)
        await asyncio.sleep(pause)
        pause = min(pause * 2, longest)


def outcome_of(found: record.Record) -> Outcome | None:
    """How an attempt ended, by its record; None when that does not say."""
    if found.failed is not None:
        return Outcome(None, failure=Reason(Code.LAUNCH_FAILED, found.failed))
    if found.stopped is not None:
        return Outcome(None, failure=Reason(Code.CANCELLED_BY, found.stopped))
    return ended(found.started, found.end) if found.end is not None else None


def ended(started: float | None, end: dict[str, Any]) -> Outcome:
    """How an attempt ended whose last line this is."""
    code = int(end["code"])
    return Outcome(
        exit_code=code if code >= 0 else 128 - code,
        signal=-code if code < 0 else None,
        started_at=started,
        finished_at=end.get("finished"),
        peak_memory=end.get("peak"),
        truncated=bool(end.get("truncated")),
        stopped=bool(end.get("told", True)),  # a supervisor of before did not say
    )
