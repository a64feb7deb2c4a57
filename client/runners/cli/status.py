"""`status`: the cards and the jobs, once or every second."""

from __future__ import annotations

import json
import sys
import time

from runners.client import Client
from runners.render import plain
from runners.render.terminal import Terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runners.api import StatusView

    from .options import Words

#: Rows of jobs, unless asked otherwise.
ROWS = 50


def status(words: Words) -> int:
    """Show it as a table on a terminal, as plain columns in a pipe, as JSON when asked."""
    if words.has("watch"):
        from .watch import watch

        return watch(words)
    view = look(Client(words.text("socket")), words)
    if words.has("json"):
        sys.stdout.write(json.dumps(view) + "\n")
        return 0
    terminal = Terminal(sys.stdout)
    sys.stdout.write("".join(f"{line}\n" for line in drawn(view, terminal)))
    return 0


def look(client: Client, words: Words) -> StatusView:
    """What the words ask the daemon for."""
    limit = words.number("limit")
    if limit is not None and limit < 1:
        from runners.errors import InvalidRequest

        raise InvalidRequest(f"cannot show the status: --limit takes a number from 1, not {limit}")
    if limit is None and not words.has("json"):
        limit = ROWS
    return client.status(words.all("ID"), all=words.has("all"), mine=words.has("mine"), limit=limit)


def drawn(view: StatusView, terminal: Terminal) -> list[str]:
    """The lines to write."""
    now = time.time()
    if not terminal.interactive:
        return plain.status(view, now)
    import os

    from runners.render.lines import paint
    from runners.render.status import PLAIN_SIGNS, screen

    lines = [paint(line, terminal.width, terminal.colour) for line in screen(view, terminal.width, now, os.getuid())]
    return lines if terminal.unicode else [line.translate(PLAIN_SIGNS) for line in lines]
