"""When an attempt is looked at again.

The engine's news and the kernel's wake it at once. News may be late, or never come, so it looks by itself too: often
while something is about to change, and now and then while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib

from runnersd.machine.docker.stopping import Stopping

#: Seconds between looks at a container that is expected to change: the first, the longest.
_SOON = (0.05, 2.0)
#: Seconds between looks at one that runs, beside the engine's news.
RECONCILE = 15.0


class Pace:
    """Of the attempt that may be ``stopping``: no wait is longer than the next step of that is away."""

    def __init__(self, stopping: Stopping) -> None:
        self._stopping = stopping
        self._woken = asyncio.Event()
        self._pause = _SOON[0]

    def wake(self) -> None:
        """Let it look again now."""
        self._woken.set()

    def hurry(self) -> None:
        """Something is about to change: the next pauses are short again."""
        self._pause = _SOON[0]

    async def slower(self) -> None:
        """Wait a little, and twice as long the next time."""
        pause, self._pause = self._pause, min(self._pause * 2, _SOON[1])
        await self._wait(pause)

    async def steady(self, *, watched: bool) -> None:
        """Wait as long as one may that runs. ``watched``: its end will be told."""
        self.hurry()
        await self._wait(RECONCILE if watched else _SOON[1])

    async def _wait(self, seconds: float) -> None:
        seconds = min(seconds, self._stopping.left)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        self._woken.clear()
