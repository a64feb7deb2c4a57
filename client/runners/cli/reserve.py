"""Cards for oneself, for some time: `reserve`."""

from __future__ import annotations

import sys
import time

from runners.client import Client
from runners.render import bookings

from .options import Words, wrong
from .sentences import print_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from runners.api import BookingView

#: What says that somebody wants to book.
_WISHES = ("gpus", "gpu-model", "gpu-capability", "cards", "for", "at", "reason")


def reserve(words: Words) -> int:
    """Book cards, take bookings back, or list them."""
    client = Client(words.text("socket"))
    given = [f"--{name}" for name in _WISHES if words.has(name)]
    if words.has("cancel"):
        if given or words.has("list"):
            _refuse(f"--cancel does not go with {given[0] if given else '--list'}")
        return _cancel(client, words)
    if words.has("list") or not given:
        if given:
            _refuse(f"--list does not go with {given[0]}")
        return _list(client, words)
    made = client.book(_wish(words, time.time()))
    if words.has("json"):
        print_json(made)
    else:
        sys.stdout.write(f"booking {made['id']}: {_said(made, client)}\n")
    return 0


def _wish(words: Words, now: float) -> dict[str, Any]:
    """The request's body. Raises `InvalidRequest` for what is missing or cannot be read."""
    from runners.pipeline.quantities import parse_duration, parse_moment

    if not words.has("for"):
        _refuse("--for is missing: for how long, such as --for 4h")
    if words.has("cards") == words.has("gpus"):
        _refuse("say how many cards (--gpus 2) or which (--cards 0,1), one of the two")
    try:
        length = parse_duration(words.text("for"))
        at = parse_moment(words.text("at") or "now", now)
    except ValueError as error:
        _refuse(f"{error}")
    cards = [word for text in words.all("cards") for word in text.split(",")]
    wish = {
        "for": length,
        "at": at,
        "gpus": words.number("gpus"),
        "gpu_model": words.text("gpu-model"),
        "gpu_capability": words.text("gpu-capability"),
        "cards": cards,
        "reason": words.text("reason"),
    }
    return {name: value for name, value in wish.items() if value not in (None, [])}


def _cancel(client: Client, words: Words) -> int:
    taken = [client.unbook(id) for id in words.all("cancel")]
    if words.has("json"):
        print_json({"bookings": taken})
    else:
        sys.stdout.write("".join(f"booking {one['id']} is cancelled\n" for one in taken))
    return 0


def _list(client: Client, words: Words) -> int:
    found = client.bookings()
    if words.has("json"):
        print_json({"bookings": found})
        return 0
    indices = {gpu["uuid"]: gpu["index"] for gpu in client.gpus()}
    lines = bookings.plain(found, indices, time.time()) or ["nothing is booked"]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def _said(made: BookingView, client: Client) -> str:
    cards = bookings.which(made, {gpu["uuid"]: gpu["index"] for gpu in client.gpus()})
    line = f"card{'s' if len(made['gpus']) > 1 else ''} {cards} {bookings.when(made, time.time())}"
    return f"{line}; {made['text']}" if made["text"] else line


def _refuse(message: str) -> NoReturn:
    from .commands import find

    command = find("reserve")
    assert command is not None, "it is being done"
    wrong(command, message)
