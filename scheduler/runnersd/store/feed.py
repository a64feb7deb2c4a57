"""The history as it happens: every event after its commit, in order, to whoever listens."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from runnersd.model import JobId

#: A listener that is this many events behind is dropped; it may come back and read on from the last it had.
MOST = 10_000


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One thing that happened. ``data`` is the status object of what it happened to; ``at`` is in Unix seconds."""

    id: int
    at: float
    type: str
    job: JobId | None
    uid: int | None
    data: dict[str, Any]


class Subscription(AsyncIterator[EventRecord]):
    """Events from now on. Ends when closed, when the store closes, or when the listener has fallen too far behind."""

    def __init__(self, feed: Feed) -> None:
        self.lagged = False  #: whether it ended because the listener was too slow
        self._feed = feed
        self._records: deque[EventRecord] = deque()
        self._closed = False
        self._waiter: asyncio.Future[None] | None = None

    async def __anext__(self) -> EventRecord:
        while not self._records:
            if self._closed:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._records.popleft()

    def rest(self) -> list[EventRecord]:
        """What else has been heard, without waiting."""
        records = list(self._records)
        self._records.clear()
        return records

    def close(self) -> None:
        """Hear no more. What has been heard can still be read."""
        self._closed = True
        self._feed.leave(self)
        self._wake()

    def hear(self, records: Sequence[EventRecord]) -> None:
        """Take in events; called by the feed."""
        if len(self._records) + len(records) > MOST:
            self.lagged = True
            self._records.clear()
            self.close()
            return
        self._records.extend(records)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Feed:
    """Everybody who listens."""

    def __init__(self) -> None:
        self._listeners: list[Subscription] = []

    def __bool__(self) -> bool:
        return bool(self._listeners)

    def join(self) -> Subscription:
        """A new listener."""
        subscription = Subscription(self)
        self._listeners.append(subscription)
        return subscription

    def leave(self, subscription: Subscription) -> None:
        """One listener fewer; leaving twice changes nothing."""
        if subscription in self._listeners:
            self._listeners.remove(subscription)

    def tell(self, records: Sequence[EventRecord]) -> None:
        """Give everybody these events."""
        for listener in list(self._listeners):
            listener.hear(records)

    def close(self) -> None:
        """End every subscription."""
        for listener in list(self._listeners):
            listener.close()
