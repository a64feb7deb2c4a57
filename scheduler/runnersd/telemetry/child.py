"""The program of the processes that keep the daemon's series: the only ones that load zarr.

    python -m runnersd.telemetry.child ROOT

It obeys frames (`runnersd.telemetry.frames`) over the socket that is its standard input, one after the other, and ends
at the end of input, when it has written what it has. One such process writes; another reads, and a third makes old
series small, so that neither keeps the writer waiting.

    {"do": "begin", "job", "attempt", "every", "started_at", "cards": [{"uuid", "index", "name", "memory_total"}]}
    {"do": "cards", "job", "attempt", "cards"}          the same cards: now more is known of them
    {"do": "add", "job", "attempt", "row": {"at", "utilization": [...], ..., "process_cpu"}}
    {"do": "end", "job", "attempt"}
    {"do": "flush", "job", "attempt"}                   answered by nothing, when it is written
    {"do": "read", "job", "attempt", "points"}          answered by JSON
    {"do": "keep", "now", "compact_before", "delete_before"}, {"do": "forget", "attempts": [[job, attempt], ...]}
                                                        answered by a sentence, or nothing, for the log
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runnersd.telemetry.frames import ANSWER, REFUSAL, WORD, Frames, framed
from runnersd.telemetry.layout import Attempt

if TYPE_CHECKING:
    from collections.abc import Callable

    from runnersd.telemetry.series import Writer

#: Seconds for which samples are kept in memory. A flush costs about 8 ms of CPU an attempt, so that eight attempts cost
#: half a hundredth of a core; and so much is lost if this process is killed.
FLUSH_EVERY = 15.0
#: So many rows are written at once: they come faster than samples are taken, from a process that was kept waiting.
MANY = 450
#: An attempt that is over before so many rows has no series: a sweep of jobs of a second would leave a hundred thousand
#: files that say no more than the summaries.
FEWEST = 2
#: Its niceness: jobs and the daemon go first.
NICENESS = 10

ABSENT = "the Python package zarr is not installed: pip install 'zarr>=3' for the Python that runs runnersd"


class Child:
    """Does what it is told, and says what came of it by ``say``, a body at a time."""

    def __init__(self, root: Path, say: Callable[[bytes], None], clock: Callable[[], float]) -> None:
        self._root = root
        self._say = say
        self._clock = clock
        self._writers: dict[Attempt, Writer] = {}
        self._due: dict[Attempt, float] = {}
        self._failing: set[Attempt] = set()  # whose last write the disk did not take
        self._acts = {
            "begin": self._begin,
            "cards": self._cards,
            "add": self._add,
            "end": self._end,
            "flush": self._flush_now,
            "read": self._read,
            "keep": self._keep,
            "forget": self._forget,
        }

    def obey(self, frame: dict[str, Any]) -> None:
        """Do what a frame asks for."""
        try:
            self._acts[frame["do"]](frame)
        except ImportError:
            self._say(REFUSAL + ABSENT.encode())

    def due(self) -> float | None:
        """Seconds until something is to be written; None while there is nothing."""
        return max(min(self._due.values()) - self._clock(), 0.0) if self._due else None

    def flush_due(self) -> None:
        """Write what has waited long enough."""
        now = self._clock()
        for attempt in [one for one, at in self._due.items() if at <= now]:
            self._flush(attempt)

    def close(self) -> None:
        """Write all there is."""
        for attempt in [*self._writers]:
            self._close(attempt)

    # -- writing -----------------------------------------------------------------------------------------------------

    def _begin(self, frame: dict[str, Any]) -> None:
        from runnersd.telemetry.series import Card, Writer

        attempt = _attempt(frame)
        if attempt not in self._writers:
            cards = [Card(**card) for card in frame["cards"]]
            self._writers[attempt] = writer = Writer(self._root, attempt, frame["every"], frame["started_at"], cards)
            if self._root.parent.is_dir():
                writer.claim()

    def _cards(self, frame: dict[str, Any]) -> None:
        from runnersd.telemetry.series import Card

        if writer := self._writers.get(_attempt(frame)):
            writer.cards = tuple(Card(**card) for card in frame["cards"])

    def _add(self, frame: dict[str, Any]) -> None:
        attempt = _attempt(frame)
        if writer := self._writers.get(attempt):
            writer.add({name: _known(value) for name, value in frame["row"].items()})
            self._due.setdefault(attempt, self._clock() + FLUSH_EVERY)
            if writer.waiting == MANY:
                self._flush(attempt)

    def _end(self, frame: dict[str, Any]) -> None:
        self._close(_attempt(frame), ended=True)

    def _flush_now(self, frame: dict[str, Any]) -> None:
        self._flush(_attempt(frame))
        self._say(ANSWER)

    def _flush(self, attempt: Attempt) -> None:
        writer = self._writers.get(attempt)
        self._due.pop(attempt, None)
        if writer is not None and not self._written(attempt, writer.flush) and attempt in self._writers:
            self._due[attempt] = self._clock() + FLUSH_EVERY

    def _close(self, attempt: Attempt, *, ended: bool = False) -> None:
        writer = self._writers.pop(attempt, None)
        self._due.pop(attempt, None)
        if writer is not None:
            self._written(attempt, lambda: writer.close(ended=ended, fewest=FEWEST))
            self._failing.discard(attempt)

    def _written(self, attempt: Attempt, write: Callable[[], None]) -> bool:
        """Whether it could be written. A disk that takes nothing is told of once, until it takes everything again."""
        from runnersd.telemetry.series import Busy

        try:
            self._root.parent.stat()  # whose place somebody may want back, so it is not made anew
            write()
        except Busy:
            return False
        except OSError as error:
            told = bool(self._failing)
            self._failing.add(attempt)
            if not told:
                self._word(
                    f"cannot write the telemetry of {attempt}: {error}; its last samples are kept and tried again"
                )
            return False
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            self._writers.pop(attempt, None)
            self._due.pop(attempt, None)
            self._word(f"cannot keep the telemetry of {attempt}: {attempt.path(self._root)} is broken ({error})")
            return False
        self._failing.discard(attempt)
        return True

    # -- reading and keeping -----------------------------------------------------------------------------------------

    def _read(self, frame: dict[str, Any]) -> None:
        from runnersd.telemetry.reading import Unreadable, answer

        try:
            self._say(ANSWER + answer(self._root, _attempt(frame), frame["points"]))
        except (Unreadable, OSError) as error:
            self._say(REFUSAL + str(error).encode())

    def _keep(self, frame: dict[str, Any]) -> None:
        from runnersd.telemetry.upkeep import keep

        self._say(ANSWER + keep(self._root, frame["compact_before"], frame["delete_before"]).encode())

    def _forget(self, frame: dict[str, Any]) -> None:
        from runnersd.telemetry.upkeep import forget

        self._say(ANSWER + forget(self._root, [Attempt(*one) for one in frame["attempts"]]).encode())

    def _word(self, sentence: str) -> None:
        self._say(WORD + sentence.encode())


def _attempt(frame: dict[str, Any]) -> Attempt:
    return Attempt(frame["job"], frame["attempt"])


def _known(value: Any) -> Any:
    """A number, or those of the cards, as a row has them."""
    if isinstance(value, list):
        return [float("nan") if one is None else one for one in value]
    return float("nan") if value is None else value


def serve(channel: socket.socket, child: Child) -> None:
    """Obey until the daemon closes its end."""
    frames = Frames()
    while True:
        ready, _, _ = select.select([channel], [], [], child.due())
        child.flush_due()
        if not ready:
            continue
        data = channel.recv(1 << 16)
        if not data:
            return
        for body in frames.take(data):
            child.obey(json.loads(body))


def _step_back() -> None:
    """Let others go first: where a CPU, or memory, is short."""
    os.nice(NICENESS)
    with contextlib.suppress(OSError):  # as a user, it may not even be lowered
        Path("/proc/self/oom_score_adj").write_text("500")


def main(root: str) -> int:
    """Serve the daemon. Signals are for the daemon: this ends after it, and writes what it has."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o077)
    _step_back()
    channel = socket.socket(fileno=os.dup(0))

    def say(body: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # nobody is left to tell
            channel.sendall(framed(body))

    child = Child(Path(root), say, time.monotonic)
    try:
        serve(channel, child)
    except ConnectionResetError:
        pass  # the daemon died with something unread: the same as an end
    finally:
        child.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
