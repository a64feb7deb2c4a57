"""A submission made into pipelines and jobs, with their ids. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runners.api import Code, JobState
from runners.spec import Submission
from runnersd.model import Job, JobId, Pipeline, PipelineId, Reason, Submitter
from runnersd.store.shared import Shared

Made = tuple[Pipeline, Sequence[Job], Mapping[str, str]]


def build(
    submissions: Sequence[Submission],
    submitter: Submitter,
    now: float,
    *,
    pipeline: PipelineId,
    job: JobId,
    shared: Shared,
) -> list[Made]:
    """Each submission's pipeline, its jobs and its environment; ids count up from ``pipeline`` and ``job``.

    ``now`` is in Unix seconds. Jobs of a held submission start out held.
    `after` names jobs alone: pipelines in it have been replaced by theirs.
    """
    held = Reason(Code.HELD, "submitted on hold")
    who = shared.value(submitter)
    made: list[Made] = []
    for one in submissions:
        spec = one.pipeline
        owner = Pipeline(
            id=pipeline,
            name=shared.value(spec.name),
            submitter=who,
            cwd=shared.value(one.cwd),
            umask=one.umask,
            num_jobs=spec.num_jobs,
            submitted_at=now,
            size=len(spec.jobs),
            barriers=spec.barriers,
            items=spec.items,
            after=tuple(int(id) for id in one.after),
        )
        jobs = [
            Job(
                id=job + position,
                pipeline=owner,
                position=position,
                spec=shared.spec(wanted),
                state=JobState.HELD if one.hold else JobState.QUEUED,
                reason=held if one.hold else None,
                submitted_at=now,
                not_before=wanted.begin,
            )
            for position, wanted in enumerate(spec.jobs)
        ]
        made.append((owner, jobs, one.env))
        pipeline += 1
        job += len(jobs)
    return made
