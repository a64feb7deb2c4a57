"""The forecast of the moment: made when somebody asks, and for no more than a small part of the daemon's time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from runnersd.forecast import Forecast, Forecaster
from runnersd.planner import Plan, World

#: A forecast is good for so many times as long as it took to make, if the queue has changed meanwhile.
_WORTH = 20.0
#: The loop gets its turn after so many seconds: a step takes longer where many jobs may have to make way.
_SLICE = 0.01


class Foretelling:
    """Keeps the last forecast. ``world`` and ``plan`` give those of the moment, ``clock`` the time (Unix seconds)."""

    def __init__(self, world: Callable[[], World], plan: Callable[[], Plan], clock: Callable[[], float]) -> None:
        self._world, self._plan, self._clock = world, plan, clock
        self._made = Forecast()
        self._of: Plan | None = None
        self._good_until = 0.0  # of the machine's own running clock
        self._making: asyncio.Task[None] | None = None

    async def now(self, patience: float | None = None) -> Forecast:
        """What can be foretold now. Whoever asks at the same time is told the same.

        Whoever has no more than so many seconds of ``patience`` is told what was foretold last, if it takes longer.
        """
        if self._plan() is not self._of and time.monotonic() >= self._good_until:
            if self._making is None or self._making.done():
                self._making = asyncio.get_running_loop().create_task(self._make())
            done, _ = await asyncio.wait([self._making], timeout=patience)
            for task in done:
                task.result()
        return self._made

    async def close(self) -> None:
        """Leave off what is being made."""
        if self._making is not None:
            self._making.cancel()
            await asyncio.gather(self._making, return_exceptions=True)

    async def _make(self) -> None:
        of = self._plan()
        self._made, took = await _timed(Forecaster(self._world(), self._clock()))
        self._of, self._good_until = of, time.monotonic() + _WORTH * took


async def finished(forecaster: Forecaster) -> Forecast:
    """What comes of it, made in slices, so that the loop goes on."""
    return (await _timed(forecaster))[0]


async def _timed(forecaster: Forecaster) -> tuple[Forecast, float]:
    """What comes of it, and the seconds of work that it took."""
    took, since = 0.0, time.perf_counter()
    for _ in forecaster.steps():
        spent = time.perf_counter() - since
        if spent >= _SLICE:
            took += spent
            await asyncio.sleep(0)
            since = time.perf_counter()
    made = forecaster.result()
    return made, took + time.perf_counter() - since
