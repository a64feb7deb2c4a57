"""What follows from Xids: all are noted with the attempts that had the card, and after those that say that it needs a
reset it is taken out of use, as an operator's `drain` would.

A process that had an error is often over before the cards are looked at again. So who had a card is remembered from the
beginning of one look to the end of the next.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from runners.api import XidView
from runners.errors import NotFound, Unavailable
from runnersd.config import XidConfig
from runnersd.model import Drain, Gpu, GpuId, Inventory, Job, JobId, Xid
from runnersd.store import Store
from runnersd.xids import action, xid_text

log = logging.getLogger(__name__)

#: Who drains a card when nobody does.
BY = "runnersd"
#: Seconds in which the log does not say again that the same harmless error came from the same card.
QUIET = 3600.0

_Attempt = tuple[JobId, int]


@dataclass(frozen=True, slots=True)
class _Report:
    """An Xid, when it was heard of (Unix seconds), and who had the card, or the parts that it is divided into."""

    xid: Xid
    at: float
    parts: tuple[tuple[Gpu, tuple[_Attempt, ...]], ...]


class ReportedXids:
    """What the driver has reported, until it is dealt with: once, and on disk."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reports: list[_Report] = []
        self._held: dict[GpuId, set[_Attempt]] = {}  # since the look before began
        self._next: dict[GpuId, set[_Attempt]] = {}  # since this look began
        self._noted: set[tuple[_Attempt, GpuId, int]] = set()
        self._said: dict[Xid, float] = {}

    def begin(self) -> None:
        """A look at the cards begins."""
        self._next = {}
        self.remember()

    def remember(self) -> None:
        """Remember who has the cards now. To be called whenever somebody has got one."""
        for gpu, jobs in self._store.snapshot.holders.items():
            for held in (self._held, self._next):
                held.setdefault(gpu, set()).update((job.id, job.attempt) for job in jobs.values())

    async def see(self, inventory: Inventory, config: XidConfig, now: float) -> bool:
        """Deal with what has been reported up to the end of this look (Unix seconds).

        Returns whether a card was taken out. What cannot be made durable now waits for the next look.
        """
        for xid in inventory.xids:
            parts = [gpu for gpu in inventory.gpus if xid.gpu in (gpu.uuid, gpu.parent)]
            held = tuple((gpu, tuple(sorted(self._held.get(gpu.uuid, ())))) for gpu in parts)
            self._reports.append(_Report(xid, now, held))
        if not inventory.stale:  # a driver that does not answer may report it later
            self._held = self._next
        if not self._reports or not self._store.healthy:
            return False
        known = {attempt for held in self._held.values() for attempt in held}
        self._noted = {noted for noted in self._noted if noted[0] in known}
        jobs = await self._jobs()
        news: set[tuple[_Attempt, GpuId, int]] = set()
        out: list[tuple[Gpu, str]] = []
        try:
            for report in self._reports:
                self._note(report, jobs, news)
                out += self._judge(report, config)
            await self._store.committed()
        except Unavailable:
            return False  # memory goes back to the rows, in which none of it is
        self._reports.clear()
        self._noted |= news
        for gpu, what in out:
            text = "card %d is drained after %s: reset it, then `runners-client undrain %d`"
            log.warning(text, gpu.index, what, gpu.index, extra={"gpu": gpu.uuid})
        return bool(out)

    async def _jobs(self) -> dict[JobId, Job]:
        """The jobs that the reports are about, also those that are over by now."""
        found: dict[JobId, Job] = {}
        for id in {id for report in self._reports for _, held in report.parts for id, _ in held}:
            try:
                found[id] = await self._store.job(id)
            except (NotFound, Unavailable):
                continue  # forgotten; or not to be read now, and then nothing can be written either
        return found

    def _note(self, report: _Report, jobs: dict[JobId, Job], news: set[tuple[_Attempt, GpuId, int]]) -> None:
        """Note the error with every attempt that had the card. Of many that are alike the first is enough."""
        number = report.xid.number
        for gpu, held in report.parts:
            for id, attempt in held:
                one = ((id, attempt), gpu.uuid, number)
                if id in jobs and one not in self._noted | news:
                    news.add(one)
                    about: XidView = {"attempt": attempt, "gpu": gpu.uuid, "number": number, "text": xid_text(number)}
                    self._store.report(jobs[id], about, report.at)

    def _judge(self, report: _Report, config: XidConfig) -> Sequence[tuple[Gpu, str]]:
        """Take the card out, if that is what the error asks for. Returns what was taken out, and why."""
        xid, at, parts = report.xid, report.at, [gpu for gpu, _ in report.parts]
        what = xid_text(xid.number)
        if action(xid.number, config) == "ignore":
            if not parts or 0 <= at - self._said.get(xid, -QUIET) < QUIET:
                return []
            self._said[xid] = at
            log.info("card %d had %s: it stays in use", parts[0].index, what, extra={"gpu": parts[0].uuid})
            return []
        reason = f"{what} at {datetime.fromtimestamp(at, UTC).astimezone():%H:%M}"
        out = []
        for gpu in parts:
            if gpu.uuid in self._store.drained:
                continue  # an earlier error is nearer to the cause, and an operator's own words stay
            self._store.drain(gpu.uuid, Drain(reason, BY, at))
            out.append((gpu, what))
        return out
