"""What the daemon knows without asking the disk: the unsettled pipelines, the latest ends, and counts of everything."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence

from runners.api import WAITING, JobState, SummaryView
from runnersd.model import Booking, BookingId, Drain, GpuId, Intrusion, Job, JobId, Pipeline
from runnersd.snapshot import Snapshot
from runnersd.store.reading import RECENT, Loaded
from runnersd.store.shared import Shared


class Memory:
    """Made from the rows, and then moved along with them."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self.recent: deque[Job] = deque(maxlen=RECENT)  #: newest first
        self.counts: Counter[JobState] = Counter()
        self.waiting: Counter[int] = Counter()  #: waiting jobs by uid
        self.drained: dict[GpuId, Drain] = {}
        self.paused: str | None = None
        self.bookings: dict[BookingId, Booking] = {}  #: also some that are over
        self.intrusions: tuple[Intrusion, ...] = ()  #: of live attempts, as the rows had them
        self.summaries: dict[tuple[JobId, int], SummaryView] = {}  #: of live attempts, as the rows had them
        self.shared = Shared()

    def install(self, loaded: Loaded) -> None:
        """Become what the rows say. The snapshot stays the same object."""
        self.snapshot.clear()
        for uid, kind, samples in loaded.experience:
            self.snapshot.experience.restore(uid, kind, samples)
        self.snapshot.usage.charges.update(loaded.charges)
        self.recent.clear()
        self.recent.extend(loaded.recent)
        self.counts.clear()
        self.counts.update(loaded.settled)
        self.waiting.clear()
        self.drained.clear()
        self.drained.update(loaded.drained)
        self.paused = loaded.paused
        self.bookings.clear()
        self.bookings.update({booking.id: booking for booking in loaded.bookings})
        self.intrusions = tuple(loaded.intrusions)
        self.summaries = loaded.summaries
        self.shared = loaded.shared
        for one in loaded.pipelines:
            settled = [loaded.dependencies[id] for id in one.pipeline.after if id in loaded.dependencies]
            self.add(one.pipeline, one.jobs, settled, one.names)

    def add(
        self, pipeline: Pipeline, jobs: Sequence[Job], settled: Sequence[Job] = (), names: Sequence[str] | None = None
    ) -> None:
        """Take in a pipeline; ``settled`` and ``names`` as `Snapshot.add` takes them."""
        self.snapshot.add(pipeline, jobs, settled, names)
        states = Counter([job.state for job in jobs])
        self.counts.update(states)
        self.waiting[pipeline.submitter.uid] += sum(states[state] for state in WAITING)

    def move(self, before: Job, job: Job) -> None:
        """A job has changed."""
        self.snapshot.replace(job)
        if before.state is not job.state:
            self.counts[before.state] -= 1
            self.counts[job.state] += 1
            self.waiting[job.pipeline.submitter.uid] += (job.state in WAITING) - (before.state in WAITING)
            if job.settled:
                self.recent.appendleft(job)

    def forget(self, gone: Mapping[JobId, JobState]) -> None:
        """Jobs of pipelines long over have been deleted."""
        self.counts.subtract(Counter(gone.values()))
        kept = [job for job in self.recent if job.id not in gone]
        self.recent.clear()
        self.recent.extend(kept)
