"""Wakes whoever waits for news of a job: one subscription to the store for all followers of logs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from runnersd.model import JobId
from runnersd.store import Store


class Feed:
    """Tells waiting coroutines that a job has changed, after its commit."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._watchers: dict[JobId, set[asyncio.Event]] = {}
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def watch(self, job: JobId) -> Iterator[asyncio.Event]:
        """An event that is set at every change of the job, while the context lasts. Whoever waits clears it."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="log followers' feed")
        changed = asyncio.Event()
        watchers = self._watchers.setdefault(job, set())
        watchers.add(changed)
        try:
            yield changed
        finally:
            watchers.discard(changed)
            if not watchers and self._watchers.get(job) is watchers:
                del self._watchers[job]

    @property
    def watched(self) -> int:
        """How many wait."""
        return sum(map(len, self._watchers.values()))

    async def close(self) -> None:
        """Stop telling."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            subscription = self._store.events.subscribe()
            try:
                async for record in subscription:
                    for changed in self._watchers.get(record.job, ()) if record.job is not None else ():
                        changed.set()
            finally:
                subscription.close()
            if not subscription.lagged:
                return
            # Dropped for falling behind: everybody looks for themselves, and the subscription is taken anew.
            for watchers in self._watchers.values():
                for changed in watchers:
                    changed.set()
