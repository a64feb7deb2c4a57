"""`status --watch`: the same screen every second, without flicker, until q or Ctrl-C."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from runners.api import JobView, StatusView
from runners.client import Client
from runners.endpoint import LOOKING
from runners.errors import DaemonUnreachable, InvalidRequest, Unavailable
from runners.render import plain
from runners.render.lines import paint
from runners.render.status import PLAIN_SIGNS, screen
from runners.render.terminal import Terminal

from .options import Words
from .status import holders, look

_EVERY = 1.0
_SPARKS = 10  # how many of the last utilisations are drawn,
_WIDE = 115  # where there are so many columns


def watch(words: Words) -> int:
    """Redraw until the person has seen enough; a daemon that is away is waited for. In a pipe, or where no
    cursor can be moved, table after table."""
    if words.has("json"):
        raise InvalidRequest(
            "cannot show the status: --json is one document, --watch is many; ask again as often as you like"
        )
    client, terminal = Client(words.text("socket"), timeout=LOOKING), Terminal(sys.stdout)
    view = look(client, words)
    if not terminal.redraws:
        return _repeat(client, words, view)
    others = holders(client, view)
    history: dict[str, deque[int | None]] = {}
    problem = ""
    with _screen() as wakes:
        while True:
            terminal.measure(sys.stdout)
            _remember(history, view)
            _draw(view, others, terminal, history, problem)
            if _asked_to_leave(wakes):
                return 0
            try:
                view, problem = look(client, words), ""
                others = holders(client, view)
            except (DaemonUnreachable, Unavailable) as error:
                problem = str(error)


def _repeat(client: Client, words: Words, view: StatusView) -> int:
    while True:
        sys.stdout.write("".join(f"{line}\n" for line in plain.status(view, time.time())) + "\n")
        sys.stdout.flush()
        time.sleep(_EVERY)
        view = look(client, words)


def _remember(history: dict[str, deque[int | None]], view: StatusView) -> None:
    for gpu in view["gpus"]:
        history.setdefault(gpu["uuid"], deque([None] * _SPARKS, _SPARKS)).append(gpu["utilization"])


def _draw(
    view: StatusView, others: list[JobView], terminal: Terminal, history: dict[str, deque[int | None]], problem: str
) -> None:
    # The last column stays free: what clears the rest of a line would clear the character in it.
    most = terminal.width - 1
    seen = {uuid: list(values) for uuid, values in history.items()} if most >= _WIDE else {}
    lines = screen(view, most, time.time(), os.getuid(), seen, others)
    if problem:
        lines.insert(1, [(f" {problem}", "bold red")])
    rows = terminal.height - 1
    if len(lines) > rows:
        lines = [*lines[: rows - 1], [(f" … {len(lines) - rows + 1} more lines", "dim")]]
    painted = [paint(line, most, terminal.colour) for line in lines]
    if not terminal.unicode:
        painted = [line.translate(PLAIN_SIGNS) for line in painted]
    # Each line clears what is left of the one before it, so that the screen is never empty; terminals that know
    # synchronised output (mode 2026) show it all at once.
    sys.stdout.write("\x1b[?2026h\x1b[H" + "".join(f"{line}\x1b[K\r\n" for line in painted) + "\x1b[J\x1b[?2026l")
    sys.stdout.flush()


def _asked_to_leave(wakes: int) -> bool:
    """Wait for the next second, a new size of the terminal, or a key; true when the key is q."""
    keyboard = [sys.stdin.fileno()] if sys.stdin.isatty() else []
    ready = select.select([wakes, *keyboard], [], [], _EVERY)[0]
    if wakes in ready and set(os.read(wakes, 64)) & {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}:
        return True
    if keyboard and keyboard[0] in ready:
        typed = os.read(keyboard[0], 64)
        return not typed or any(key in typed for key in (b"q", b"Q", b"\x03"))
    return False


@contextmanager
def _screen() -> Iterator[int]:
    """The terminal's other screen, no cursor, keys as they are typed; all put back at the end, whatever the end is.

    Gives a descriptor that becomes readable when a signal came.
    """
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH)
    handlers = {number: signal.signal(number, lambda _number, _frame: None) for number in signals}
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    keyboard = _Keyboard()
    try:
        sys.stdout.write("\x1b[?1049h\x1b[?25l\x1b[?7l")
        yield reading
    finally:
        keyboard.restore()
        sys.stdout.write("\x1b[?7h\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)


class _Keyboard:
    """Keys one by one, unseen, where standard input is a terminal."""

    def __init__(self) -> None:
        self._before = None
        if sys.stdin.isatty():
            import termios
            import tty

            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)

    def restore(self) -> None:
        """As it was."""
        if self._before is not None:
            import termios

            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)
