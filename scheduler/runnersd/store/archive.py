"""What was, as the rows have it. Nothing here is about what has still to be done."""

from __future__ import annotations

from runners.api import AttemptView, CardChangeView, EventView, PastJobView
from runnersd.model import JobId, PipelineId
from runnersd.past.accounts import Account
from runnersd.store import history, reading, usage
from runnersd.store.feed import EventRecord
from runnersd.store.journal import Journal
from runnersd.store.shared import Shared
from runnersd.store.usage import By, Owner, Period


class Archive:
    """Reads beside the loop, a page at a time where there is much, so that no commit waits behind it for long."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def submitted_names(self, id: PipelineId) -> list[str]:
        """What the pipeline's jobs were called when it was submitted, which their needs still say."""
        return await self._journal.read(lambda rows: reading.submitted_names(rows, id))

    async def attempts(self, id: JobId) -> list[AttemptView]:
        """The job's attempts, first to last."""
        return await self._journal.read(lambda rows: reading.attempts(rows, id))

    async def events_of(self, id: JobId) -> list[EventView]:
        """What happened to the job, oldest first."""
        return await self._journal.read(lambda rows: reading.events_of(rows, id))

    async def events_after(self, id: int, limit: int) -> list[EventRecord]:
        """The history from the event after ``id`` on, at most ``limit`` of it."""
        return await self._journal.read(lambda rows: reading.events_after(rows, id, limit, Shared()))

    async def usage(self, by: By, period: Period) -> dict[Owner, Account]:
        """What everything that ran in that period adds up to, for each user, pipeline or script."""
        found: dict[Owner, Account] = {}
        last = await self._journal.read(usage.last_job)
        for low in range(1, last + 1, usage.STRIDE):
            part = await self._journal.read(
                lambda rows, low=low: usage.accounts(rows, by, period, low, low + usage.STRIDE - 1)  # type: ignore[misc]
            )
            for owner, account in part.items():
                known = found.setdefault(owner, account)
                if known is not account:
                    known.add(account)
        return found

    async def history(self, since: float, after: JobId, limit: int) -> tuple[list[PastJobView], JobId | None]:
        """Jobs that ask for cards and were not over then (Unix seconds), by id; the id to go on after, if any."""
        found: list[PastJobView] = []
        at: JobId | None = after
        while at is not None and len(found) < limit:
            left = limit - len(found)
            page, at = await self._journal.read(
                lambda rows, at=at, left=left: history.jobs(rows, since, at, left)  # type: ignore[misc]
            )
            found += page
        return found, at

    async def card_changes(self, since: float) -> list[CardChangeView]:
        """When cards came into another state since then (Unix seconds), oldest first."""
        found: list[CardChangeView] = []
        at: int | None = 0
        while at is not None:
            page, at = await self._journal.read(lambda rows, at=at: history.changes(rows, since, at))  # type: ignore[misc]
            found += page
        return found
