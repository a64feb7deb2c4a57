"""The rows of what somebody is to be told, and the hook by which they are made with their events."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, Protocol

from runnersd.model import Intrusion, Job
from runnersd.notices.notice import Notice, Receiver
from runnersd.store.rows import text


class Outbox(Protocol):
    """Says what is to be told of an event, and hears when that is on disk. Called on the loop, and never waits."""

    def notices(
        self, type: str, job: Job, before: Job, event: int, at: float, by: Intrusion | None
    ) -> Sequence[Notice]:
        """What is to be told of the event ``event``, of that type, which made ``job`` of ``before`` (Unix seconds).

        ``by`` is who was on the job's card, if that is the event.
        """

    def committed(self, notices: Sequence[Notice]) -> None:
        """These are on disk, and may be told."""

    def restored(self) -> None:
        """Those of which it has not heard that they are on disk never will be."""


#: Takes rows of `row_of`, and of `key_of`.
INSERT = "INSERT INTO notice (event, receiver, at, detail) VALUES {}"
DELETE = "DELETE FROM notice WHERE (event, receiver) IN (VALUES {})"


def row_of(one: Notice) -> tuple[Any, ...]:
    """A notice's row."""
    return (*key_of(one), one.at, text({"kind": one.kind, "uid": one.uid, "facts": one.facts}))


def key_of(one: Notice) -> tuple[int, str]:
    """What a notice's row is known by."""
    return (one.event, text(one.receiver))


def waiting(connection: sqlite3.Connection) -> list[Notice]:
    """Those that are kept, oldest first."""
    return [
        Notice(event=event, at=at, receiver=Receiver(*json.loads(receiver)), **json.loads(detail))
        for event, receiver, at, detail in connection.execute(
            "SELECT event, receiver, at, detail FROM notice ORDER BY event, receiver"
        )
    ]
