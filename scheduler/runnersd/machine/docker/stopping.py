"""The end that was asked for of an attempt: whether it was, and how far it has come."""

from __future__ import annotations

import asyncio
import math
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

from runnersd.machine.docker import kernel
from runnersd.machine.docker.errors import UnknownOutcome
from runnersd.machine.docker.force import Force
from runnersd.machine.docker.record import RecordFile

T = TypeVar("T")

#: Seconds between one SIGKILL and the next, while something still lives.
_KILL_AGAIN = 1.0
#: Seconds that are waited at least.
_LEAST = 0.005


class Stopping:
    """Of one attempt. Times are the loop's."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._at_once = False
        self._told = False
        self._kill_at = 0.0

    @property
    def asked(self) -> bool:
        """Whether it has to end."""
        return self._event.is_set()

    @property
    def left(self) -> float:
        """Seconds until there is something to do for that."""
        if not self.asked:
            return math.inf
        return max(self._kill_at - asyncio.get_running_loop().time() if self._told else 0.0, _LEAST)

    def ask(self, *, at_once: bool) -> None:
        """It has to end; ``at_once`` leaves it no grace."""
        self._event.set()
        if at_once and not self._at_once:
            self._at_once, self._kill_at = True, 0.0

    async def press(self, record: RecordFile, force: Force) -> None:
        """Do what is due: tell it, and when its grace is over kill it, again and again."""
        said, now = record.said, asyncio.get_running_loop().time()
        if not self._told:
            self._told = True
            if not said.told and said.pid is not None and kernel.process_started(said.pid) == said.start:
                record.add(told=True)
            if not self._at_once:
                await force.signal(signal.SIGTERM)
                now = asyncio.get_running_loop().time()
            self._kill_at = now if self._at_once else now + said.grace
        if now >= self._kill_at:
            self._kill_at = now + _KILL_AGAIN
            await force.kill()

    async def before(self, call: Coroutine[Any, Any, T], what: str) -> T:
        """Wait for a call's answer, but not longer than until the end is asked for.

        Raises:
            UnknownOutcome: that came first.
        """
        task = asyncio.get_running_loop().create_task(call)
        stopped = asyncio.get_running_loop().create_task(self._event.wait())
        try:
            await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise UnknownOutcome(f"cannot wait any longer to {what}: it has to end")
        finally:
            for one in (task, stopped):
                one.cancel()
            await asyncio.gather(task, stopped, return_exceptions=True)
