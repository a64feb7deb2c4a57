"""How far the writing of items is: a bar on a terminal, a line now and then in a pipe or a job's log."""

from __future__ import annotations

import time
from typing import TextIO

from runners.render.terminal import Terminal
from runners.render.words import duration

_BAR = 30
#: Seconds from one drawing of the bar to the next, and from one line in a pipe to the next.
_REDRAW = 0.2
_LINE = 10.0


class Progress:
    """Counts items. ``total`` is how many there will be, if that is known; ``now`` is a clock, in seconds."""

    def __init__(self, title: str, total: int | None, stream: TextIO, now: float | None = None) -> None:
        self.title, self.total, self.stream = title, total, stream
        self.terminal = Terminal(stream)
        self.done = 0
        self.began = self.shown = time.monotonic() if now is None else now
        self.drawn = False

    def at(self, done: int, now: float | None = None) -> None:
        """So many are done."""
        self.done = done
        now = time.monotonic() if now is None else now
        if now - self.shown < (_REDRAW if self.terminal.redraws else _LINE):
            return
        self.shown = now
        self._show(now)

    def end(self, now: float | None = None) -> None:
        """All are done: the last line stays."""
        now = time.monotonic() if now is None else now
        took = now - self.began
        line = f"{self.title}: {self.done} items in {duration(took)}"
        if self.terminal.redraws:
            self.stream.write(f"\r\x1b[K{line}\n")
        else:
            self.stream.write(line + "\n")
        self.stream.flush()

    def _show(self, now: float) -> None:
        took = now - self.began
        speed = self.done / took if took > 0 else 0.0
        counted = f"{self.done}" if self.total is None else f"{self.done}/{self.total}"
        rest = f"{speed:.0f}/s" if speed >= 10 else f"{speed:.1f}/s"
        if self.total and speed:
            rest += f", {duration(max(0.0, (self.total - self.done) / speed))} left"
        if not self.terminal.redraws:
            self.stream.write(f"{self.title}: {counted} items, {rest}\n")
        else:
            bar = ""
            if self.total:
                full = min(_BAR, _BAR * self.done // self.total)
                marks = ("━", "─") if self.terminal.unicode else ("#", "-")
                bar = f"{marks[0] * full}{marks[1] * (_BAR - full)}  "
            line = f"{self.title}  {bar}{counted}  {rest}"
            self.stream.write(f"\r\x1b[K{line[: self.terminal.width - 1]}")
        self.stream.flush()
