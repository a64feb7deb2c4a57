"""The history as it is made: an event has its number at once, its row with the batch, its readers after the commit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runners.api import XidView
from runnersd import lifecycle
from runnersd.model import Intrusion, Job
from runnersd.store.batch import Batch, News
from runnersd.store.feed import EventRecord, Feed, Subscription
from runnersd.store.notices import Outbox
from runnersd.store.rows import XID, reason_then
from runnersd.views import job_view


class Events:
    """Those of one store, after the ``last`` one that is on disk."""

    def __init__(self, last: int) -> None:
        self.last = last  #: the latest event on disk
        self.outbox: Outbox | None = None  #: says what is to be told of events; None: nothing is
        self._feed = Feed()
        self._given = last

    def subscribe(self) -> Subscription:
        """Every event from now on, after its commit."""
        return self._feed.join()

    def next_id(self) -> int:
        """An id that no other event has, or had."""
        self._given += 1
        return self._given

    def happened(self, batch: Batch, type: str, job: Job, before: Job, at: float, by: Intrusion | None = None) -> None:
        """Put what happened to a job then (Unix seconds) into the batch, with what is to be told of it."""
        id = self.next_id()
        batch.news.append(News(id, at, type, job))
        if self.outbox is not None:
            batch.notices += self.outbox.notices(type, job, before, id, at, by)

    def report(self, batch: Batch, job: Job, xid: XidView, at: float) -> None:
        """Put into the batch that an Xid was reported then of a card that an attempt of the job had."""
        batch.news.append(News(self.next_id(), at, XID, job, xid))

    def announce(self, batch: Batch, type: str, data: Mapping[str, Any], at: float) -> None:
        """Put an event that is not about a job into the batch."""
        batch.news.append(News(self.next_id(), at, type, dict(data)))

    def committed(self, batch: Batch) -> None:
        """The batch is on disk: whoever listens hears of it."""
        news = batch.all_news()
        if news:
            self.last = news[-1].id
        if self._feed and news:
            self._feed.tell([_record(one) for one in news])
        if self.outbox is not None and batch.notices:
            self.outbox.committed(batch.notices)

    def restored(self, last: int) -> None:
        """Memory goes back to the rows, of which ``last`` is the latest. Ids given since are not given again."""
        self._given = max(self._given, last)
        if self.outbox is not None:
            self.outbox.restored()

    def close(self) -> None:
        """End every subscription."""
        self._feed.close()


def type_of(job: Job, event: lifecycle.Event) -> str:
    """What the history calls an event that made the job what it is."""
    if isinstance(event, lifecycle.Idled):
        return "job.busy" if event.since is None else "job.idle"
    return f"job.{job.state.value}"


def _record(news: News) -> EventRecord:
    about = news.about
    if isinstance(about, Job):
        view = job_view(about, reason_then(about))
        data = dict(view) if news.xid is None else {**view, "xid": news.xid}
        return EventRecord(news.id, news.at, news.type, about.id, about.pipeline.submitter.uid, data)
    return EventRecord(news.id, news.at, news.type, None, None, dict(about))
