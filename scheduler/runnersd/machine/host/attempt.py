"""What the launcher knows of one attempt, how one whose supervisor is lost is ended, how a record reads as an end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable

from runners.api import Code
from runnersd.machine import LaunchFailed
from runnersd.machine.host import processes, record, supervisor
from runnersd.model import Outcome, Reason, RunName

log = logging.getLogger(__name__)

_STRAYS = (0.02, 0.5)  # seconds between looks for strays: the first, the longest


class Attempt:
    """What is known of one attempt. ``order`` and ``cards`` are kept until its launch has been answered."""

    def __init__(self, run: RunName, path: str, loop: asyncio.AbstractEventLoop) -> None:
        self.run = run
        self.path = path
        self.started: asyncio.Future[float | LaunchFailed] = loop.create_future()
        self.over: asyncio.Future[Outcome] = loop.create_future()
        self.pid: int | None = None
        self.pidfd: int | None = None
        self.order: bytes | None = None
        self.cards: tuple[str, ...] = ()
        self.stop = False
        self.at_once = False

    def watch(self, pidfd: int, ended: Callable[[Attempt], None]) -> None:
        """Its supervisor lives: have ``ended`` called when it does not. The descriptor is the attempt's from now on."""
        self.pidfd = pidfd
        asyncio.get_running_loop().add_reader(pidfd, ended, self)

    def unwatch(self) -> None:
        """Its supervisor is gone, or nobody wants to know any more."""
        if self.pidfd is not None:
            asyncio.get_running_loop().remove_reader(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = None

    def signal(self, number: int) -> None:
        """Signal its supervisor, if that lives."""
        if self.pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def pass_stop(self) -> None:
        """Tell its supervisor that it is to stop."""
        self.signal(supervisor.AT_ONCE if self.at_once else signal.SIGTERM)

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
            strays = await asyncio.to_thread(processes.strays, str(attempt.run), found.main, found.main_start)
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
    if found.end is None:
        return None
    code = int(found.end["code"])
    return Outcome(
        exit_code=code if code >= 0 else 128 - code,
        signal=-code if code < 0 else None,
        started_at=found.started,
        finished_at=found.end.get("finished"),
        peak_memory=found.end.get("peak"),
        truncated=bool(found.end.get("truncated")),
        stopped=bool(found.end.get("told", True)),  # a supervisor of before did not say
    )
