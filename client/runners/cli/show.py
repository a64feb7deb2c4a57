"""`show`: everything known of a job, for a person to read."""

from __future__ import annotations

import os
import sys
import time

from runners.client import Client
from runners.endpoint import LOOKING
from runners.render.detail import detail
from runners.render.lines import fold, paint
from runners.render.status import PLAIN_SIGNS
from runners.render.terminal import Terminal

from .options import Words
from .sentences import print_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from runners.render.lines import Line


def show(words: Words) -> int:
    """One job in full; of a pipeline, its jobs in a table."""
    client, id = Client(words.text("socket"), timeout=LOOKING), words.required("ID")
    if id.startswith("p"):
        return _pipeline(client, id, words)
    view = client.job(id)
    if words.has("json"):
        print_json(view)
        return 0
    terminal = Terminal(sys.stdout)
    # Those of root's daemon are in a folder that the job's owner cannot enter: the command above them is for them.
    logs = view.get("logs", {})
    view["logs"] = {stream: path for stream, path in logs.items() if os.access(os.path.dirname(path), os.X_OK)}
    indices = {gpu["uuid"]: gpu["index"] for gpu in client.gpus()} if view["num_gpus"] else {}
    most = terminal.width if terminal.interactive else 1 << 30
    _write([part for line in detail(view, indices, time.time()) for part in fold(line, most)], most, terminal)
    return 0


def _pipeline(client: Client, id: str, words: Words) -> int:
    jobs = client.jobs_of(id)
    if words.has("json"):
        print_json({"pipeline": id, "jobs": jobs})
        return 0
    indices = {gpu["uuid"]: gpu["index"] for gpu in client.gpus()}
    terminal = Terminal(sys.stdout)
    if terminal.interactive:
        from runners.render.status import sections

        _write(sections(jobs, indices, terminal.width, time.time(), os.getuid())[1:], terminal.width, terminal)
    else:
        from runners.render import plain

        sys.stdout.write("".join(f"{text}\n" for text in plain.jobs(jobs, indices, time.time())))
    return 0


def _write(lines: Sequence[Line], most: int, terminal: Terminal) -> None:
    for line in lines:
        painted = paint(line, most, terminal.colour)
        sys.stdout.write((painted if terminal.unicode else painted.translate(PLAIN_SIGNS)) + "\n")
