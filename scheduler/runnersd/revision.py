"""What `update` and `retry` make of jobs: a changed one, or a new pipeline of those that ended badly. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from runners.api import WAITING, JobState
from runners.errors import IllegalTransition, InvalidPipeline, Problem
from runners.pipeline.schema import read_submission
from runners.spec import Barrier, JobSpec, PipelineSpec, Submission, groups
from runnersd.lifecycle import Revised
from runnersd.model import Job, JobId, Pipeline

#: What a live job may still have changed.
LIVE_KEYS = frozenset({"time_limit", "name", "priority"})
#: What places a job in its pipeline is fixed when that is queued.
FIXED_KEYS = frozenset({"needs", "blocking", "matrix", "pipeline", "experiment"})


def revise(job: Job, changes: Mapping[str, Any], taken: Collection[str], now: float) -> Revised:
    """The event that changes the job's keys; values as a pipeline file has them (`2h`, `20GiB`).

    ``taken`` are the other names in its pipeline. ``now`` (Unix seconds) is what a `begin` of `+2h` counts from.

    Raises:
        InvalidPipeline: a key or value is wrong.
        IllegalTransition: the job is too far on, or the key is fixed.
    """
    if not changes:
        raise InvalidPipeline("cannot update: no key was given", [])
    fixed = sorted(FIXED_KEYS & changes.keys())
    if fixed:
        raise IllegalTransition(f"cannot change {', '.join(fixed)} of job {job.id}: fixed when its pipeline was queued")
    if job.state not in WAITING:
        late = sorted(changes.keys() - LIVE_KEYS)
        if late:
            raise IllegalTransition(
                f"cannot change {', '.join(late)} of job {job.id}: it is {job.state.value}; "
                f"only {', '.join(sorted(LIVE_KEYS))} can change now"
            )
    kept = job.spec.to_json()
    for key in FIXED_KEYS:
        kept.pop(key, None)
    if "command" in changes or "script" in changes:
        kept.pop("command", None)
    document = {"name": "update", "jobs": [{**_plain(kept), **changes}], "cwd": job.pipeline.cwd, "env": {}}
    spec = read_submission(document, now=now).pipeline.jobs[0]
    if "name" in changes and spec.name in taken:
        problem = Problem("name", f"{spec.name!r} is another job's name in this pipeline")
        raise InvalidPipeline("cannot update", [problem])
    spec = replace(spec, needs=job.spec.needs, blocking=job.spec.blocking, experiment=job.spec.experiment)
    begin = spec.begin if "begin" in changes else job.not_before
    return Revised(job.id, job.attempt, spec, begin)


def again(pipeline: Pipeline, jobs: Sequence[Job], env: Mapping[str, str], only: JobId | None) -> Submission:
    """A submission of the jobs that ended without success (or of ``only``); needs on the others count as met.

    Raises:
        IllegalTransition: there is none.
    """
    wanted = [job for job in jobs if (job.id == only if only is not None else _unsuccessful(job))]
    if not wanted or not all(_unsuccessful(job) for job in wanted):
        what = f"job {only}" if only is not None else f"p{pipeline.id}"
        raise IllegalTransition(f"cannot retry {what}: nothing in it has ended without success")
    moved = {job.position: number for number, job in enumerate(wanted)}
    named = groups([job.spec.name for job in wanted], pipeline.items)
    barriers = []
    for barrier in pipeline.barriers:
        inside = [moved[p] for p in range(barrier.first, barrier.last + 1) if p in moved]
        if inside:
            barriers.append(Barrier(inside[0], inside[-1], barrier.on))
    specs = tuple(_with_needs(job.spec, named) for job in wanted)
    again_as = PipelineSpec(pipeline.name, specs, pipeline.num_jobs, tuple(barriers), pipeline.items)
    return Submission(again_as, pipeline.cwd, env, pipeline.umask)


def _unsuccessful(job: Job) -> bool:
    return job.settled and job.state is not JobState.SUCCEEDED


def _with_needs(spec: JobSpec, named: Mapping[str, Sequence[int]]) -> JobSpec:
    needs = tuple(need for need in spec.needs if need.job == "all" or need.job in named)
    return replace(spec, needs=needs, begin=None)


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON would have them."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value
