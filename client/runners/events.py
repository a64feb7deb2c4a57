"""Server-sent events, as the daemon's ``GET /v1/events`` gives them."""

from __future__ import annotations

import json
import select
from typing import Any, NamedTuple

from .transport import Answer


class Event(NamedTuple):
    """One event: its number, its type (``job.running``, ``gpu.drained``) and the status object it is about."""

    id: int
    type: str
    data: dict[str, Any]


class EventStream:
    """Events as they come. Close it when done; a stream that ends was cut by the daemon, and can be resumed by id."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._buffer = answer.pending()
        self.ended = answer.ended
        self.last = 0  #: the last event's number, to resume after

    def fileno(self) -> int:
        """The descriptor to poll before :meth:`read`."""
        return self._answer.fileno()

    def close(self) -> None:
        """Hang up."""
        self._answer.close()

    def __enter__(self) -> EventStream:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def read(self, timeout: float | None = None) -> list[Event]:
        """The events that have come; waits for the first at most ``timeout`` seconds (``None``: without end).

        Returns none after the time, or when the stream has ``ended``.
        """
        events = self._parse()
        while not events and not self.ended:
            if timeout is not None and not select.select([self], [], [], timeout)[0]:
                break
            self.receive()
            events = self._parse()
            if timeout is not None:
                break
        return events

    def receive(self) -> None:
        """Read from the socket once; sets ``ended`` when the daemon hung up."""
        try:
            self._buffer += self._answer.receive()
            self.ended = self._answer.ended
        except OSError:
            self.ended = True

    def _parse(self) -> list[Event]:
        *blocks, self._buffer = self._buffer.replace(b"\r\n", b"\n").split(b"\n\n")
        events = []
        for block in blocks:
            fields: dict[str, str] = {}
            for line in block.decode().split("\n"):
                name, _, value = line.partition(":")
                if name:  # a line that begins with a colon is a comment, sent to keep the connection alive
                    fields[name] = value.removeprefix(" ")
            if "id" in fields:
                self.last = int(fields["id"])
            if "data" in fields:
                events.append(Event(self.last, fields.get("event", ""), json.loads(fields["data"])))
        return events
