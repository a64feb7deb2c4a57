"""The cards: `gpus`, `drain`, `undrain`."""

from __future__ import annotations

import os
import sys
import time

from runners.client import Client
from runners.endpoint import LOOKING
from runners.render import bookings, plain
from runners.render.terminal import Terminal

from .main import complain
from .sentences import print_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from runners.api import GpuView

    from .options import Words


def gpus(words: Words) -> int:
    """The inventory."""
    client = Client(words.text("socket"), timeout=LOOKING)
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
        lines = [*cards(view["gpus"], jobs, terminal.width, now)[1:], *closest(view["gpus"])]
        for line in [*lines, *bookings.screen(booked, indices, now, os.getuid(), terminal.width)]:
            painted = paint(line, terminal.width, terminal.colour)
            sys.stdout.write((painted if terminal.unicode else painted.translate(PLAIN_SIGNS)) + "\n")
    else:
        rows = plain.cards(view["gpus"], now, near=True)
        if booked:
            rows += ["", *bookings.plain(booked, indices, now)]
        sys.stdout.write("".join(f"{line}\n" for line in rows))
    return 0


def drain(words: Words) -> int:
    """Let its jobs end and give it to no other."""
    client, reason = Client(words.text("socket")), words.text("reason") or ""
    return _each(words, lambda gpu: client.drain(gpu, reason))


def undrain(words: Words) -> int:
    """Use it again."""
    return _each(words, Client(words.text("socket")).undrain)


def _each(words: Words, act: Callable[[str], GpuView]) -> int:
    """Do it to every card, say what became of each, and complain of those that refuse; the first one's exit code."""
    from runners.errors import DaemonUnreachable, RunnersError

    done: list[GpuView] = []
    named = [gpu for word in words.all("GPU") for gpu in word.split(",")]
    code = 0
    for gpu in named:
        try:
            view = act(gpu)
        except DaemonUnreachable:
            raise
        except RunnersError as error:
            complain(error)
            code = code or error.exit
            continue
        done.append(view)
        if not words.has("json"):
            sys.stdout.write(_said(view) + "\n")
    if words.has("json") and done:
        print_json(done[0] if len(named) == 1 else {"gpus": done})
    return code


def _said(view: GpuView) -> str:
    line = f"card {view['index']} ({view['name']}): {view['state']}"
    if view["state"] != "drained" and view.get("drained"):
        line += ", drained"
    if view["jobs"] and view.get("drained"):
        line += f"; still runs {', '.join(map(str, view['jobs']))}"
    return line
