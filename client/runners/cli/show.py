"""`show`: everything known of a job, for a person to read."""

from __future__ import annotations

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
    indices = {gpu["uuid"]: gpu["index"] for gpu in client.gpus()} if view["num_gpus"] else {}
    most = terminal.width if terminal.interactive else 1 << 30
    for line in detail(view, indices, time.time()):
        for part in fold(line, most):
            painted = paint(part, most, terminal.colour)
            sys.stdout.write((painted if terminal.unicode else painted.translate(PLAIN_SIGNS)) + "\n")
    return 0


def _pipeline(client: Client, id: str, words: Words) -> int:
    from runners.render import plain

    jobs = client.jobs_of(id)
    if words.has("json"):
        print_json({"pipeline": id, "jobs": jobs})
        return 0
    indices = {gpu["uuid"]: gpu["index"] for gpu in client.gpus()}
    terminal = Terminal(sys.stdout)
    for text in plain.jobs(jobs, indices, time.time()):
        sys.stdout.write((paint([(text, "")], terminal.width, False) if terminal.interactive else text) + "\n")
    return 0
