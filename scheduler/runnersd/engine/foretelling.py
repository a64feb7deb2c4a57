"""The forecast of the moment: made when somebody asks, and for no more than a small part of the daemon's time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from runnersd.forecast import Forecast, Forecaster
from runnersd.planner import Plan, World

#: A forecast is good for so many times as long as it took to make, if the queue has changed meanwhile.
_WORTH = 20.0
#: Steps made before the loop gets its turn.
_SLICE = 40


class Foretelling:
    """Keeps the last forecast. ``world`` and ``plan`` give those of the moment, ``clock`` the time (Unix seconds)."""

    def __init__(self, world: Callable[[], World], plan: Callable[[], Plan], clock: Callable[[], float]) -> None:
        self._world, self._plan, self._clock = world, plan, clock
        self._made = Forecast()
        self._of: Plan | None = None
        self._good_until = 0.0  # of the machine's own running clock
        self._making = asyncio.Lock()

    async def now(self) -> Forecast:
        """What can be foretold now. Whoever asks at the same time is told the same."""
        async with self._making:
            if self._plan() is not self._of and time.monotonic() >= self._good_until:
                await self._make()
            return self._made

    async def _make(self) -> None:
        of, took = self._plan(), 0.0
        since = time.perf_counter()
        forecaster = Forecaster(self._world(), self._clock())
        for number, _ in enumerate(forecaster.steps(), 1):
            if number % _SLICE == 0:
                took += time.perf_counter() - since
                await asyncio.sleep(0)
                since = time.perf_counter()
        self._made, self._of = forecaster.result(), of
        took += time.perf_counter() - since
        self._good_until = time.monotonic() + _WORTH * took
