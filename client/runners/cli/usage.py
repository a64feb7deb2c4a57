"""`usage`: who has had the cards, and what came of it."""

from __future__ import annotations

import sys
import time

from runners.client import Client
from runners.render import usage as tables
from runners.render.terminal import Terminal

from .commands import find
from .options import wrong
from .periods import since
from .sentences import print_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .options import Words

#: What is added up by, and completed.
BY = ("user", "pipeline", "script")
#: Rows asked for: as many as the daemon gives.
_MOST = 10_000


def usage(words: Words) -> int:
    """A table, JSON or CSV."""
    command = find("usage")
    assert command is not None, "it is being done"
    by = words.text("by") or BY[0]
    if by not in BY:
        wrong(command, f"--by takes {', '.join(BY[:-1])} or {BY[-1]}, not {by!r}")
    if words.has("json") and words.has("csv"):
        wrong(command, "--csv does not go with --json")
    start = since(words.text("since"), time.time(), command)
    view = Client(words.text("socket")).usage(by, since=start, limit=_MOST)
    if words.has("json"):
        print_json(view)
    elif words.has("csv"):
        from csv import writer

        writer(sys.stdout, lineterminator="\n").writerows(tables.csv(view))
    elif not view["total"]["attempts"]:
        sys.stdout.write("nothing has run" + (" since then\n" if start is not None else "\n"))
    else:
        terminal = Terminal(sys.stdout)
        lines = tables.table(view, terminal.width if terminal.interactive else None)
        sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0
