"""The cards: `gpus`, `drain`, `undrain`."""

from __future__ import annotations

import os
import sys
import time

from runners.client import Client
from runners.render import bookings, plain
from runners.render.terminal import Terminal

from .sentences import print_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runners.api import GpuView

    from .options import Words


def gpus(words: Words) -> int:
    """The inventory."""
    client = Client(words.text("socket"))
    if words.has("json"):
        print_json(client.get("/v1/gpus"))
        return 0
    view = client.status(limit=1)
    terminal = Terminal(sys.stdout)
    indices = {gpu["uuid"]: gpu["index"] for gpu in view["gpus"]}
    booked, now = view.get("bookings", []), time.time()
    if not view["gpus"]:
        sys.stdout.write(f"{view['daemon'].get('notice') or 'no cards'}\n")
    elif terminal.interactive:
        from runners.render.lines import paint
        from runners.render.status import PLAIN_SIGNS, cards, closest

        jobs = {job["id"]: job for job in client.jobs(states=("starting", "running", "stopping"))}
        lines = [*cards(view["gpus"], jobs, terminal.width, {})[1:], *closest(view["gpus"])]
        for line in [*lines, *bookings.screen(booked, indices, now, os.getuid())]:
            painted = paint(line, terminal.width, terminal.colour)
            sys.stdout.write((painted if terminal.unicode else painted.translate(PLAIN_SIGNS)) + "\n")
    else:
        rows = plain.cards(view["gpus"], near=True)
        if booked:
            rows += ["", *bookings.plain(booked, indices, now)]
        sys.stdout.write("".join(f"{line}\n" for line in rows))
    return 0


def drain(words: Words) -> int:
    """Let its jobs end and give it to no other."""
    view = Client(words.text("socket")).drain(words.required("GPU"), words.text("reason") or "")
    return _said(view, words)


def undrain(words: Words) -> int:
    """Use it again."""
    return _said(Client(words.text("socket")).undrain(words.required("GPU")), words)


def _said(view: GpuView, words: Words) -> int:
    if words.has("json"):
        print_json(view)
        return 0
    line = f"card {view['index']} ({view['name']}): {view['state']}"
    if view["jobs"] and view["state"] == "drained":
        line += f"; still runs {', '.join(map(str, view['jobs']))}"
    sys.stdout.write(line + "\n")
    return 0
