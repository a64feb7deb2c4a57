"""Looks that may never come back: each in a thread of its own, given up at a deadline.

A dead network file system, a name service or a socket can hang whoever asks it. A thread that hangs does not keep the
program from ending.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from runnersd.doctor.facts import Unseen

Seen = TypeVar("Seen")


class Look(Generic[Seen]):
    """One look under way: ``act`` is called at once, and has ``seconds``."""

    def __init__(self, act: Callable[[], Seen], seconds: float) -> None:
        self._act = act
        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self._future: Future[Seen] = Future()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._future.set_result(self._act())
        except BaseException as error:  # noqa: BLE001  (raised again where the result is asked for)
            self._future.set_exception(error)

    def seen(self) -> Seen | Unseen:
        """What it saw; why it did not, after an :class:`OSError` or at the deadline."""
        try:
            return self._future.result(max(0.0, self._until - time.monotonic()))
        except TimeoutError:
            return Unseen(f"no answer in {self._seconds:g} s")
        except OSError as error:
            return Unseen(reason(error))


def reason(error: OSError) -> str:
    """The error in a few words, as part of a sentence."""
    text = error.strerror or str(error) or type(error).__name__
    return text[:1].lower() + text[1:]
