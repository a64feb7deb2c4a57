"""An event loop whose time is made up: nothing waits, and the same steps give the same story every time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextvars import Context, ContextVar
from typing import Any

#: Which life of the daemon what runs now belongs to; 0 is the machine's own, which outlives them all.
LIFE: ContextVar[int] = ContextVar("LIFE", default=0)
#: Seconds that a turn of the loop takes: no two things happen at the same moment.
TURN = 1e-6


class Timeline(asyncio.SelectorEventLoop):
    """A loop without threads and without the outside world. When nothing is left to do now, it is later.

    Everything takes turns in the order it was asked for, so a failure found once is found again.
    """

    def __init__(self) -> None:
        super().__init__(_Leap(self))
        self.now = 0.0
        self.turned = 0  #: how often it has turned
        self._lives: dict[asyncio.Task[Any], int] = {}
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]

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

    def turns(self, count: int) -> None:
        """Let the loop turn so often, at this moment or, when nothing is left to do in it, at later ones."""
        for _ in range(count):
            if not self._ready:  # type: ignore[attr-defined]
                timers = [handle.when() for handle in self._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
                self.now = max(self.now, min(timers, default=self.now))
            self.call_soon(self.stop)
            self.run_forever()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and everything that happens in it."""
        self.run_until_complete(asyncio.sleep(seconds))

    def begin(self, work: Coroutine[Any, Any, Any], life: int) -> asyncio.Task[Any]:
        """A task of that life; what it begins in turn belongs to the same one."""
        context = Context()
        context.run(LIFE.set, life)
        return self.create_task(work, context=context)

    def end(self, life: int) -> None:
        """Nothing that belongs to that life happens any more, but for what its tasks do when they are cancelled."""
        while tasks := [task for task, whose in self._lives.items() if whose == life]:
            for task in tasks:
                task.cancel()
            self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        for handle in self._scheduled:  # type: ignore[attr-defined]
            if handle._context.get(LIFE, 0) == life:
                handle.cancel()

    def _make_task(
        self, loop: Any, work: Generator[Any, None, Any], context: Context | None = None
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(work, loop=loop, context=context)  # type: ignore[arg-type]
        self._lives[task] = LIFE.get() if context is None else context.get(LIFE, 0)
        task.add_done_callback(self._lives.pop)
        return task


class _Leap(selectors.SelectSelector):
    """In place of waiting, time moves."""

    def __init__(self, timeline: Timeline) -> None:
        super().__init__()
        self._timeline = timeline

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Nothing ever comes from outside."""
        if timeout is None:
            raise RuntimeError("nothing will ever happen any more, and somebody waits for it")
        self._timeline.turned += 1
        self._timeline.now += max(timeout, TURN)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """What is registered; the loop asks while it closes."""
        return super().get_map() or {}
