"""An event loop whose time is made up: nothing waits, and the same steps give the same story every time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Mapping
from typing import Any


class Timeline(asyncio.SelectorEventLoop):
    """A loop without threads and without the outside world. When nothing is left to do now, it is later.

    Everything takes turns in the order it was asked for, so a failure found once is found again.
    """

    def __init__(self) -> None:
        super().__init__(_Leap(self))
        self.now = 0.0

    def time(self) -> float:
        """Seconds since the story began."""
        return self.now

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any, **more: Any) -> asyncio.Handle:  # type: ignore[override]
        """There is only one thread."""
        return self.call_soon(callback, *args, **more)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Done at once: there is only one thread."""
        future: asyncio.Future[Any] = self.create_future()
        future.set_result(func(*args))
        return future

    def steps(self, count: int) -> None:
        """Let so many turns of the loop pass, at this moment or, when nothing is left to do in it, at later ones."""
        self.run_until_complete(_steps(count))

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and everything that happens in it."""
        self.run_until_complete(asyncio.sleep(seconds))


class _Leap(selectors.SelectSelector):
    """In place of waiting, time moves."""

    def __init__(self, timeline: Timeline) -> None:
        super().__init__()
        self._timeline = timeline

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Nothing ever comes from outside."""
        if timeout is None:
            raise RuntimeError("nothing will ever happen any more, and somebody waits for it")
        self._timeline.now += max(timeout, 0.0)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """What is registered; the loop asks while it closes."""
        return super().get_map() or {}


async def _steps(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
