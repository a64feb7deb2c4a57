"""Looks at files that may never come back: each in a thread of its own, with a deadline.

A network file system whose server is gone holds whoever looks at it, for as long as it likes. The threads that the
rest of the daemon shares must not be spent on that.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

#: Seconds that a look may take.
LONGEST = 20.0
#: Looks that hang at one time, after which no more are begun.
MOST = 64

_hanging: set[threading.Thread] = set()


async def aside(what: str, look: Callable[[], T], seconds: float = LONGEST) -> T:
    """What ``look`` returns, or raises. A look that takes longer than ``seconds`` is left to itself.

    Raises:
        TimeoutError: it did not come back in time; the message says that ``what`` hangs.
    """
    _hanging.difference_update([thread for thread in _hanging if not thread.is_alive()])
    if len(_hanging) >= MOST:
        raise TimeoutError(f"{len(_hanging)} looks at files hang already")
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(look())
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is for whoever waits on the loop
            done.set_exception(error)

    thread = threading.Thread(target=run, name=f"look: {what}", daemon=True)
    thread.start()
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.wrap_future(done)
    except TimeoutError:
        _hanging.add(thread)
        raise TimeoutError(f"{what} did not answer in {seconds:g} s") from None
