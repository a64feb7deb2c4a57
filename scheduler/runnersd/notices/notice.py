"""What somebody is to be told: values, and the names that templates may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Channel = Literal["webhook", "mail", "command"]

#: What a template can say of a notice, by `$name`.
NAMES = (
    "event", "subject", "job", "name", "pipeline", "user", "state", "reason", "code", "exit_code", "cards", "ran",
    "host", "more",
)  # fmt: skip


class Receiver(NamedTuple):
    """Where notices go: an address on a channel. "" is the address that the configuration has when they are sent.

    ``guarded``: somebody gave it who may not have the daemon reach what they cannot reach themselves.
    """

    channel: Channel
    address: str = ""
    guarded: bool = False


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that happened to a job, for one receiver. Kept until it is told, or given up.

    ``event`` is the id of the event it tells of, ``at`` when that was (Unix seconds), ``kind`` a word of
    `runners.spec.ON`, ``uid`` the job's user, ``facts`` what can be said of it: see `runnersd.notices.facts`.
    """

    event: int
    at: float
    kind: str
    uid: int
    receiver: Receiver
    facts: dict[str, Any]


class Undelivered(Exception):
    """A message did not get through; the text says why, without secrets. ``again``: it may another time."""

    def __init__(self, why: str, *, again: bool = True) -> None:
        super().__init__(why)
        self.again = again
