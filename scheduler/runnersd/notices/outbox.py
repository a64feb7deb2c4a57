"""What is to be told, made with the event it tells of and kept in the same commit, so that no crash comes between."""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from runners.errors import Unavailable
from runnersd.config import Config
from runnersd.model import GpuId, Intrusion, Job
from runnersd.notices import command, mail, webhook
from runnersd.notices.delivery import Delivery, named
from runnersd.notices.facts import facts_of, reason_at
from runnersd.notices.interest import kind_of, receivers
from runnersd.notices.notice import Notice, Receiver, Undelivered
from runnersd.notices.pacing import MOST, MOST_OF_USER, OLD, Pace
from runnersd.notices.wording import Message, Words
from runnersd.store import Store

log = logging.getLogger(__name__)


class Notices:
    """The store's outbox, and the delivery of what is in it. ``indices`` gives the cards' numbers."""

    def __init__(
        self, store: Store, config: Config, clock: Callable[[], float], indices: Callable[[], Mapping[GpuId, int]]
    ) -> None:
        self._store, self._config, self._clock, self._indices = store, config, clock, indices
        self._host = socket.gethostname()
        self._closed = False
        self._delivery = Delivery(self._send, self._settle, self._pace, self._words, store.database)
        self._of_receiver: Counter[Receiver] = Counter()
        self._of_user: Counter[int] = Counter()

    def start(self) -> None:
        """Take over what an earlier daemon had not told, and listen to the store."""
        kept, self._store.undelivered = self._store.undelivered, ()
        now = self._clock()
        old = [one for one in kept if now - one.at > OLD]
        if old:
            log.warning("%d events are not told any more: they are older than a day", len(old))
            self._store.told(old)
        fresh = [one for one in kept if now - one.at <= OLD]
        for one in fresh:
            self._count(one, 1)
        self._delivery.take(fresh)
        self._store.events.outbox = self

    def configure(self, config: Config) -> None:
        """Take another configuration; what waits for the administrator's channels goes by that too."""
        self._config = config

    async def close(self) -> None:
        """Send nothing more. What is not told, and what is still to come, stays for the next daemon."""
        self._closed = True
        await self._delivery.close()

    # -- the store's outbox ------------------------------------------------------------------------------------------

    def notices(
        self, type: str, job: Job, before: Job, event: int, at: float, by: Intrusion | None
    ) -> Sequence[Notice]:
        """See `runnersd.store.notices.Outbox`."""
        kind = kind_of(type, job)
        if kind is None:
            return ()
        uid = job.pipeline.submitter.uid
        wanting = receivers(kind, job, self._config.notify, trusted=not self._config.system or uid == 0)
        if not wanting:
            return ()
        gpus = before.gpus if by is None else (by.gpu,)
        facts = facts_of(job, reason_at(type, job, at, by), gpus, self._indices(), at)
        made = []
        for receiver in wanting:
            if self._of_receiver[receiver] >= MOST or (receiver.address and self._of_user[uid] >= MOST_OF_USER):
                self._delivery.count(receiver)
                continue
            notice = Notice(event, at, kind, uid, receiver, facts)
            self._count(notice, 1)
            made.append(notice)
        return made

    def committed(self, notices: Sequence[Notice]) -> None:
        """See `runnersd.store.notices.Outbox`."""
        if not self._closed:
            self._delivery.take(notices)

    def restored(self) -> None:
        """See `runnersd.store.notices.Outbox`."""
        self._of_receiver.clear()
        self._of_user.clear()
        for one in self._delivery.kept():
            self._count(one, 1)

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _send(self, receiver: Receiver, message: Message) -> None:
        notify = self._config.notify
        if receiver.channel == "mail":
            if notify.smtp is None:
                raise Undelivered("notify.smtp is not set any more", again=False)
            await mail.send(notify.smtp, receiver.address, message, self._host)
        elif receiver.channel == "command":
            if notify.command is None:
                raise Undelivered("it is not set any more", again=False)
            own = None if self._config.system else os.environ
            await command.run(notify.command.run, message, self._host, own)
        else:
            url = receiver.address or (notify.webhook.url if notify.webhook is not None else "")
            if not url:
                raise Undelivered("it is not set any more", again=False)
            await webhook.post(url, message, self._host, guarded=receiver.guarded)

    def _settle(self, notices: Sequence[Notice]) -> None:
        for one in notices:
            self._count(one, -1)
        try:
            self._store.told(notices)
        except Unavailable:
            log.warning("%s may be told of %d events again", named(notices[0].receiver), len(notices))

    def _count(self, notice: Notice, by: int) -> None:
        self._of_receiver[notice.receiver] += by
        if not self._of_receiver[notice.receiver]:
            del self._of_receiver[notice.receiver]
        self._of_user[notice.uid] += by

    def _pace(self) -> Pace:
        return Pace(self._config.notify.gather, self._config.notify.tries)

    def _words(self) -> Words:
        return Words(self._host, self._config.notify.subject, self._config.notify.text)
