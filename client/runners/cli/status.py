"""`status`: the cards and the jobs, once or every second."""

from __future__ import annotations

import json
import sys
import time

from runners.client import Client
from runners.endpoint import LOOKING
from runners.render import plain
from runners.render.terminal import Terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from runners.api import JobView, StatusView

    from .options import Words

#: Rows of jobs, unless asked otherwise.
ROWS = 50


def status(words: Words) -> int:
    """Show it as a table on a terminal, as plain columns in a pipe, as JSON when asked."""
    if words.has("watch"):
        from .watch import watch

        return watch(words)
    client = Client(words.text("socket"), timeout=LOOKING)
    view = look(client, words)
    if words.has("json"):
        sys.stdout.write(json.dumps(view) + "\n")
        return 0
    terminal = Terminal(sys.stdout)
    others = holders(client, view) if terminal.interactive else []
    sys.stdout.write("".join(f"{line}\n" for line in drawn(view, terminal, others)))
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


def holders(client: Client, view: StatusView) -> list[JobView]:
    """The jobs that have cards and are not among those listed: of others with ``--mine``, or beyond the limit."""
    listed = {job["id"] for job in view["jobs"]}
    missing = sorted({id for gpu in view["gpus"] for id in gpu["jobs"]} - listed)
    if not missing:
        return []
    from runners.errors import NotFound

    try:
        return client.status(missing)["jobs"]
    except NotFound:  # the daemon began anew between the two questions
        return []


def drawn(view: StatusView, terminal: Terminal, others: Sequence[JobView] = ()) -> list[str]:
    """The lines to write; ``others`` have cards and are not listed."""
    now = time.time()
    if not terminal.interactive:
        return plain.status(view, now)
    import os

    from runners.render.lines import paint
    from runners.render.status import PLAIN_SIGNS, screen

    shown = screen(view, terminal.width, now, os.getuid(), others=others)
    lines = [paint(line, terminal.width, terminal.colour) for line in shown]
    return lines if terminal.unicode else [line.translate(PLAIN_SIGNS) for line in lines]
