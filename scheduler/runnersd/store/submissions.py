"""Takes pipelines in: all of a submission or none, once for each key, on disk before anybody sees them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

from runners.errors import InvalidRequest, NotFound
from runners.spec import Submission
from runnersd.model import Job, JobId, Pipeline, PipelineId, Submitter
from runnersd.store import reading
from runnersd.store.batch import Accepted, Intake, News
from runnersd.store.intake import build
from runnersd.store.journal import Journal
from runnersd.store.memory import Memory
from runnersd.store.reading import Loaded
from runnersd.store.shared import Shared


class Submissions:
    """Those of one store. ``next_event`` gives an id for an event, ``pipeline`` reads one that was taken in."""

    def __init__(
        self,
        journal: Journal,
        memory: Memory,
        loaded: Loaded,
        next_event: Callable[[], int],
        pipeline: Callable[[PipelineId], Awaitable[tuple[Pipeline, list[Job]]]],
    ) -> None:
        self._journal, self._memory = journal, memory
        self._next_event, self._pipeline = next_event, pipeline
        self._pipelines, self._jobs = loaded.last_pipeline, loaded.last_job
        self._intakes: set[Intake] = set()
        self._submitting: dict[tuple[int, bytes], asyncio.Task[Accepted]] = {}

    @property
    def coming(self) -> Iterator[Pipeline]:
        """Pipelines that are just being taken in."""
        return (pipeline for intake in self._intakes for pipeline, _, _ in intake.pipelines)

    @property
    def dependencies(self) -> set[JobId]:
        """Jobs that those are to start after."""
        return {id for intake in self._intakes for id in intake.dependencies}

    async def submit(
        self,
        submissions: Sequence[Submission],
        submitter: Submitter,
        key: str | None,
        now: float,
        may: Callable[[], None] = lambda: None,
    ) -> Accepted:
        """Queue pipelines, all or none; on disk when this returns. ``now`` in Unix seconds.

        The same submitter and ``key`` again get what the first submission made, at whatever moment they come. Another
        one is taken in if ``may`` raises nothing, which is asked when nothing can come between any more.

        Raises:
            NotFound: a job it is to start after does not exist.
            InvalidRequest: something in it cannot be stored.
            Unavailable: nothing can be promised now; nothing is queued.
        """
        if key is None:
            return await self._submit(submissions, submitter, None, now, may)
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        name = (submitter.uid, digest)
        task = self._submitting.get(name)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._submit(submissions, submitter, digest, now, may))
            self._submitting[name] = task
            task.add_done_callback(lambda done: self._submitting.pop(name))
        # A caller who goes away must not take the others' answer along.
        return await asyncio.shield(task)

    def settled(self, job: Job) -> None:
        """That job is over, for those that are to start after it."""
        for intake in self._intakes:
            if job.id in intake.dependencies:
                intake.dependencies[job.id] = job

    def take_in(self, intake: Intake) -> list[tuple[PipelineId, Mapping[str, str]]]:
        """It is on disk, or cannot be: memory has it from now on, and whoever waits is told. Returns environments."""
        if intake.error is not None:
            if not intake.accepted.done():
                intake.accepted.set_exception(InvalidRequest(f"cannot store the submission: {intake.error}"))
            return []
        settled = [job for job in intake.dependencies.values() if job.settled]
        for pipeline, jobs, _ in intake.pipelines:
            self._memory.add(pipeline, jobs, [job for job in settled if job.id in pipeline.after])
        if not intake.accepted.done():
            intake.accepted.set_result(
                [(pipeline, [(job.id, job.spec.name) for job in jobs]) for pipeline, jobs, _ in intake.pipelines]
            )
        return [(pipeline.id, environment) for pipeline, _, environment in intake.pipelines]

    def restored(self, loaded: Loaded) -> None:
        """Memory went back to the rows. Ids given since are not given again."""
        self._pipelines = max(self._pipelines, loaded.last_pipeline)
        self._jobs = max(self._jobs, loaded.last_job)

    async def _submit(
        self,
        submissions: Sequence[Submission],
        submitter: Submitter,
        key: bytes | None,
        now: float,
        may: Callable[[], None],
    ) -> Accepted:
        if key is not None:
            earlier = await self._journal.read(lambda rows: reading.submitted_before(rows, submitter.uid, key))
            if earlier is not None:
                return await self._accepted_before(*earlier)
        dependencies = await self._find({int(id) for one in submissions for id in one.after})
        # From here to the batch nothing waits: what is known of the dependencies stays true.
        may()
        batch = self._journal.batch()
        made = build(
            submissions,
            submitter,
            now,
            pipeline=self._pipelines + 1,
            job=self._jobs + 1,
            shared=self._memory.shared,
        )
        self._pipelines += len(made)
        self._jobs += sum(pipeline.size for pipeline, _, _ in made)
        intake = Intake(submitter.uid, key, made, dependencies, asyncio.get_running_loop().create_future())
        intake.news = [
            News(self._next_event(), now, f"job.{job.state.value}", job) for _, jobs, _ in made for job in jobs
        ]
        self._intakes.add(intake)
        intake.accepted.add_done_callback(lambda _: self._intakes.discard(intake))
        batch.intakes.append(intake)
        return await asyncio.shield(intake.accepted)

    async def _find(self, ids: set[JobId]) -> dict[JobId, Job]:
        settled: dict[JobId, Job] = {}
        while missing := [id for id in ids if id not in settled and id not in self._memory.snapshot.jobs]:
            found = await self._journal.read(lambda rows, ids=missing: reading.jobs_by_id(rows, ids, Shared()))  # type: ignore[misc]
            lost = sorted(set(missing) - found.keys())
            if lost:
                raise NotFound(f"cannot submit after job {lost[0]}: there is no such job")
            settled |= {id: job for id, job in found.items() if job.settled}
        return {id: self._memory.snapshot.jobs.get(id) or settled[id] for id in ids}

    async def _accepted_before(self, first: PipelineId, last: PipelineId) -> Accepted:
        accepted: Accepted = []
        for id in range(first, last + 1):
            pipeline, jobs = await self._pipeline(id)
            accepted.append((pipeline, [(job.id, job.spec.name) for job in jobs]))
        return accepted
