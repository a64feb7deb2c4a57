"""Has work done beside the loop, in the threads that the daemon shares.

`asyncio.to_thread` does not do on a machine that has no room for one more thread. It raises a `RuntimeError`, as for a
bug; and what it was given stays in line, so that a thread may come to it after all, when whoever asked for it has long
asked again. Here the first is an `OSError`, as it is when no process can be forked, and what was refused is never done.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

#: What CPython says when the kernel gives it no thread. An executor that was shut down says something else.
_REFUSED = "can't start new thread"


class NoThread(OSError):
    """There is no room for one more thread now. It passes."""

    def __init__(self) -> None:
        super().__init__(errno.EAGAIN, "no room for one more thread")


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What ``work`` returns, or raises, called in a thread of the daemon's. It goes on when whoever waits is cancelled.

    Raises:
        NoThread: there is no room for one; ``work`` was not called, and will not be.
    """
    done: Future[T] = Future()

    def run() -> None:
        if not done.set_running_or_notify_cancel():
            return  # it was refused, or nobody waits any more
        try:
            done.set_result(work(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is for whoever waits on the loop
            done.set_exception(error)

    try:
        asyncio.get_running_loop().run_in_executor(None, run)
    except RuntimeError as error:
        if str(error) != _REFUSED:
            raise
        if done.cancel():  # else a thread that was busy has just come to it: it is being done
            raise NoThread from error
    return await asyncio.wrap_future(done)
