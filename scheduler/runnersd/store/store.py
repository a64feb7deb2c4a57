"""The door to what the daemon remembers. Memory moves at once; rows follow, many changes to a transaction.

A change is promised only once it is on disk (`committed`). If that fails, memory goes back to what the rows say.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from runners.api import JobState, SummaryView, XidView
from runners.errors import IllegalTransition, NotFound
from runners.spec import Submission
from runnersd import lifecycle
from runnersd.model import Booking, BookingId, Drain, GpuId, Intrusion, Job, JobId, Pipeline, PipelineId, Submitter
from runnersd.notices.notice import Notice
from runnersd.snapshot import Snapshot
from runnersd.store import reading
from runnersd.store.archive import Archive
from runnersd.store.batch import Accepted, Batch
from runnersd.store.events import Events, type_of
from runnersd.store.journal import Journal
from runnersd.store.memory import Memory
from runnersd.store.opening import Identity, open_database
from runnersd.store.reading import Loaded, Search
from runnersd.store.retention import prune
from runnersd.store.shared import Shared
from runnersd.store.submissions import Submissions
from runnersd.store.writer import Writer

#: Environments kept at hand, by pipeline; others are read when a job of theirs is launched.
_ENVIRONMENTS = 64


class Store:
    """Every pipeline, job, attempt and event. Made by `open`; one per database, one database per daemon."""

    def __init__(
        self, writer: Writer, file: Path, identity: Identity, loaded: Loaded, clock: Callable[[], float]
    ) -> None:
        self.database = identity.database  #: the state directory's own id: 12 hex digits
        self.interrupted = identity.interrupted  #: attempts (job, number) that were live when the machine restarted
        self.events = Events(loaded.last_event)  #: the history as it is made; what was is in the `archive`
        self.undelivered: Sequence[Notice] = loaded.notices  #: what an earlier daemon had not told
        self._clock = clock
        self._memory = Memory()
        self._memory.install(loaded)
        self._writer = writer
        self._journal = Journal(writer, file, self._committed, self._restored)
        self._archive = Archive(self._journal)
        self._submissions = Submissions(self._journal, self._memory, loaded, self.events.next_id, self.pipeline)
        self._bookings = loaded.last_booking
        self._environments: OrderedDict[PipelineId, Mapping[str, str]] = OrderedDict()

    @classmethod
    async def open(cls, path: Path, *, clock: Callable[[], float], boot: str | None = None) -> Store:
        """Open the database file ``path``, made if there is none. ``boot`` names the machine's boot.

        Raises:
            InvalidConfig: it is damaged, in use, of a newer daemon, of another machine, or on a network file system.
        """
        writer = Writer(asyncio.get_running_loop())
        identity = await writer.open(partial(open_database, path, boot=boot, at=clock()))
        try:
            loaded = await writer.read(reading.load)
        except BaseException:
            writer.close()
            raise
        return cls(writer, path, identity, loaded, clock)

    # -- memory ------------------------------------------------------------------------------------------------------

    @property
    def archive(self) -> Archive:
        """What was: attempts, events, and what everything added up to."""
        return self._archive

    @property
    def snapshot(self) -> Snapshot:
        """Every job of every pipeline that still has work to do. Always the same object."""
        return self._memory.snapshot

    @property
    def recent(self) -> deque[Job]:
        """The last 10 jobs that settled, newest first."""
        return self._memory.recent

    @property
    def drained(self) -> Mapping[GpuId, Drain]:
        """The cards on which nothing new starts, and why."""
        return self._memory.drained

    def bookings(self, now: float) -> tuple[Booking, ...]:
        """The bookings that are not over at that time (Unix seconds), by when they begin."""
        known = self._memory.bookings
        for id in [id for id, booking in known.items() if booking.ends_at <= now]:
            del known[id]  # its row is kept for a while
        return tuple(sorted(known.values(), key=lambda booking: (booking.starts_at, booking.id)))

    @property
    def paused(self) -> str | None:
        """Why nothing new starts at all; None when it does."""
        return self._memory.paused

    @property
    def intrusions(self) -> Sequence[Intrusion]:
        """Those of live attempts, as the rows had them when they were read last: see `generation`."""
        return self._memory.intrusions

    @property
    def summaries(self) -> Mapping[tuple[JobId, int], SummaryView]:
        """What live attempts (job, number) did, as the rows had it when they were read last: see `generation`."""
        return self._memory.summaries

    @property
    def healthy(self) -> bool:
        """Whether changes are taken in. When not, everything that changes something raises `Unavailable`."""
        return self._journal.healthy

    @property
    def refusal(self) -> str:
        """Why changes are not taken in, when they are not."""
        return self._journal.refusal

    @property
    def generation(self) -> int:
        """Counts the times that memory went back to what the rows say: look at everything again."""
        return self._journal.generation

    @property
    def fatal(self) -> asyncio.Future[None]:
        """Gets `Unavailable` as its exception when the database cannot be used any more."""
        return self._journal.fatal

    def look(self) -> None:
        """See that the database is still where it was opened; it is not `healthy` while it is not."""
        self._journal.look()

    def stalled(self, seconds: float) -> bool:
        """Whether the writer has died, or has been at one piece of work for longer than that."""
        return self._writer.stuck(seconds)

    def counts(self) -> dict[str, int]:
        """How many jobs there are in every state, settled ones included."""
        return {state.value: self._memory.counts[state] for state in JobState}

    def queued_by(self, uid: int | None = None) -> int:
        """How many jobs of that user (of all, when None) wait, those included that are just being submitted."""
        coming = sum(one.size for one in self._submissions.coming if uid in (None, one.submitter.uid))
        return coming + (self._memory.waiting.total() if uid is None else self._memory.waiting[uid])

    def submitters(self) -> dict[int, Submitter]:
        """Users as they last submitted, by uid, those included that are just submitting."""
        coming = {one.submitter.uid: one.submitter for one in self._submissions.coming}
        return {**self.snapshot.submitters, **coming}

    # -- changes -----------------------------------------------------------------------------------------------------

    def record(self, event: lifecycle.Event, at: float) -> Job:
        """Move a job by an event that happened ``at`` (Unix seconds): memory now, rows with the next commit.

        Raises:
            NotFound: no pipeline with work to do has such a job.
            IllegalTransition: the event does not fit, or would book a card twice.
            Unavailable: nothing can be promised now.
        """
        batch = self._journal.batch()
        before = self.snapshot.jobs.get(event.job)
        if before is None:
            raise NotFound(f"cannot take {type(event).__name__}: job {event.job} is unknown or long over")
        if isinstance(event, lifecycle.Reserved):
            self._refuse_double_booking(before, event)
        job = lifecycle.apply(before, event)
        self._memory.move(before, job)
        batch.change(before, job, event, at)
        learned = self.snapshot.learn(before, event, at)
        if learned is not None:
            batch.learn(learned, self.snapshot.experience, at)
        self.events.happened(batch, type_of(job, event), job, before, at)
        if job.settled:
            if job.pipeline.id not in self.snapshot.progress:
                batch.ended[job.pipeline.id] = at
            self._submissions.settled(job)
        return job

    async def committed(self) -> None:
        """Wait until everything recorded so far is on disk.

        Raises:
            Unavailable: it is not, and memory no longer says so either.
        """
        await self._journal.committed()

    def intrude(self, intrusion: Intrusion, at: float, *, news: bool) -> None:
        """Note that somebody was on an attempt's card, over what was noted of the same before. ``news``: with an event.

        Raises:
            Unavailable: nothing can be promised now.
        """
        batch = self._journal.batch()
        batch.intrusions[intrusion.job, intrusion.attempt, intrusion.gpu, intrusion.pid, intrusion.since] = intrusion
        job = self.snapshot.jobs.get(intrusion.job)
        if news and job is not None:
            self.events.happened(batch, "job.contaminated", job, job, at, intrusion)

    def report(self, job: Job, xid: XidView, at: float) -> None:
        """Note that an Xid was reported then of a card that an attempt of the job had.

        Raises:
            Unavailable: nothing can be promised now.
        """
        self.events.report(self._journal.batch(), job, xid, at)

    def told(self, notices: Sequence[Notice]) -> None:
        """Keep these notices no longer: they are told, or given up.

        Raises:
            Unavailable: nothing can be promised now.
        """
        self._journal.batch().told += notices

    def summarize(self, id: JobId, attempt: int, summary: SummaryView) -> None:
        """Keep what the attempt did up to now, over what was kept of it before.

        Raises:
            Unavailable: nothing can be promised now.
        """
        self._journal.batch().summaries[id, attempt] = summary

    def drain(self, gpu: GpuId, drain: Drain | None) -> None:
        """Let nothing new start on a card, for that reason; None lets it again. Kept over restarts."""
        self._journal.batch().drained[gpu] = drain
        if drain is None:
            self._memory.drained.pop(gpu, None)
        else:
            self._memory.drained[gpu] = drain

    def book(self, booking: Booking) -> Booking:
        """Keep a booking, under an id of its own (the one it has is not looked at). Kept over restarts."""
        batch = self._journal.batch()
        self._bookings += 1
        made = replace(booking, id=self._bookings)
        self._memory.bookings[made.id] = batch.bookings[made.id] = made
        batch.meta["last_booking"] = made.id
        return made

    def unbook(self, id: BookingId) -> None:
        """Take a booking back."""
        self._journal.batch().bookings[id] = None
        self._memory.bookings.pop(id, None)

    def pause(self, reason: str | None) -> None:
        """Let nothing new start at all, for that reason; None lets it again. Kept over restarts."""
        self._journal.batch().meta["paused"] = reason
        self._memory.paused = reason

    def announce(self, type: str, data: Mapping[str, Any]) -> None:
        """Put an event that is not about a job into the history: ``gpu.drained``, with the card's status object."""
        self.events.announce(self._journal.batch(), type, data, self._clock())

    async def submit(
        self,
        submissions: Sequence[Submission],
        submitter: Submitter,
        key: str | None,
        now: float,
        may: Callable[[], None] = lambda: None,
    ) -> Accepted:
        """Queue pipelines, all or none; see :meth:`Submissions.submit`."""
        return await self._submissions.submit(submissions, submitter, key, now, may)

    async def prune(self, before: float) -> list[tuple[JobId, int]]:
        """Forget pipelines that ended before then (Unix seconds), a few at a time.

        Returns the attempts of theirs, whose logs nothing points to any more.

        Raises:
            Unavailable: the rows could not be deleted.
        """
        gone: list[tuple[JobId, int]] = []
        while True:
            keep = {id for progress in self.snapshot.progress.values() for id in progress.pipeline.after}
            keep |= self._submissions.dependencies
            pruned = await self._journal.write(partial(prune, before=before, keep=keep))
            if not pruned.jobs:
                return gone
            self._memory.forget(pruned.jobs)
            gone += pruned.attempts

    async def close(self) -> None:
        """Write what has been recorded, and let go of the database."""
        await self._journal.close()
        self.events.close()

    # -- reading -----------------------------------------------------------------------------------------------------

    async def job(self, id: JobId) -> Job:
        """The job.

        Raises:
            NotFound: no such job, or it was forgotten long ago.
        """
        live = self.snapshot.jobs.get(id)
        if live is not None:
            return live
        found = await self._journal.read(lambda rows: reading.jobs_by_id(rows, [id], Shared()))
        if id not in found:
            raise NotFound(f"cannot find job {id}: there is no such job; `runners-client status --all` lists them")
        return self.snapshot.jobs.get(id, found[id])

    async def jobs(
        self,
        *,
        states: Sequence[JobState] | frozenset[JobState] | None = None,
        user: str | int | None = None,
        pipeline: PipelineId | None = None,
        name: str | None = None,
        limit: int = 50,
        after: JobId | None = None,
        newest_first: bool = True,
    ) -> list[Job]:
        """Jobs that fit all of these, by id, from the one after ``after`` on.

        ``user`` is a name or a uid; ``name`` stands for a job and for the jobs of its matrix.
        """
        wanted = Search(frozenset(states) if states is not None else None, user, pipeline, name, newest_first)
        found: list[Job] = []
        while len(found) < limit:
            left = limit - len(found)
            page, after = await self._journal.read(
                lambda rows, after=after, left=left: reading.search(rows, wanted, after, left, Shared())  # type: ignore[misc]
            )
            # Memory may have moved on while the rows were read.
            fresh = (self.snapshot.jobs.get(job.id, job) for job in page)
            found += [job for job in fresh if wanted.finds(job)]
            if after is None:
                break
        return found

    async def pipeline(self, id: PipelineId) -> tuple[Pipeline, list[Job]]:
        """The pipeline and all of its jobs, in the order of its file.

        Raises:
            NotFound: no such pipeline, or it was forgotten long ago.
        """
        progress = self.snapshot.progress.get(id)
        if progress is not None:
            return progress.pipeline, list(progress.jobs)
        found = await self._journal.read(lambda rows: reading.pipeline_with_jobs(rows, id, Shared()))
        if found is None:
            raise NotFound(f"cannot find pipeline p{id}: there is no such pipeline")
        return found

    async def environment(self, pipeline: PipelineId) -> Mapping[str, str]:
        """What the pipeline's submitter had in the environment: a secret of theirs.

        Raises:
            NotFound: no such pipeline.
        """
        known = self._environments.get(pipeline)
        if known is None:
            known = await self._journal.read(lambda rows: reading.environment(rows, pipeline))
            if known is None:
                raise NotFound(f"cannot find the environment of p{pipeline}: there is no such pipeline")
        self._keep_environment(pipeline, known)
        return known

    # -- inside ------------------------------------------------------------------------------------------------------

    def _committed(self, batch: Batch) -> None:
        """The batch is on disk: what it took in can be seen from now on."""
        for intake in batch.intakes:
            for pipeline, environment in self._submissions.take_in(intake):
                self._keep_environment(pipeline, environment)
        self.events.committed(batch)

    def _restored(self, loaded: Loaded) -> None:
        """Memory goes back to the rows. Ids given since are not given again."""
        self._memory.install(loaded)
        self._submissions.restored(loaded)
        self._bookings = max(self._bookings, loaded.last_booking)
        self.events.restored(loaded.last_event)

    def _keep_environment(self, pipeline: PipelineId, environment: Mapping[str, str]) -> None:
        self._environments[pipeline] = environment
        self._environments.move_to_end(pipeline)
        if len(self._environments) > _ENVIRONMENTS:
            self._environments.popitem(last=False)

    def _refuse_double_booking(self, job: Job, event: lifecycle.Reserved) -> None:
        """The rows refuse it too, but by then memory would have moved."""
        for gpu in event.gpus:
            for other in self.snapshot.holders.get(gpu, {}).values():
                if not (job.spec.gpu_shared and other.spec.gpu_shared):
                    raise IllegalTransition(f"cannot reserve {gpu} for job {job.id}: job {other.id} holds it")
