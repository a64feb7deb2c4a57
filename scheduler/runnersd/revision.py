"""What `update` and `retry` make of jobs: a changed one, or a new pipeline of those that ended badly. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from runners.api import WAITING, JobState
from runners.errors import IllegalTransition, InvalidPipeline, Problem
from runners.pipeline.checking import Check, Enough
from runners.pipeline.schema import JOB_KEYS, overridden, read_submission
from runners.spec import Barrier, Need, PipelineSpec, Submission, groups
from runnersd.lifecycle import Revised
from runnersd.model import Job, JobId, Pipeline

#: What a live job may still have changed.
LIVE_KEYS = frozenset({"time_limit", "name", "notify", "priority"})
#: What places a job in its pipeline is fixed when that is queued.
FIXED_KEYS = frozenset({"needs", "blocking", "matrix", "pipeline", "experiment"})


def revise(job: Job, changes: Mapping[str, Any], taken: Collection[str], now: float) -> Revised:
    """The event that changes the job's keys; values as a pipeline file has them (`2h`, `20GiB`).

    `env` is merged: a variable is set, or taken away by null. Every other key is replaced.
    ``taken`` are the other names in its pipeline. ``now`` (Unix seconds) is what a `begin` of `+2h` counts from.

    Raises:
        InvalidPipeline: a key or value is wrong.
        IllegalTransition: the job is too far on, or the key is fixed.
    """
    if not changes:
        raise InvalidPipeline("cannot update: no key was given", [])
    check = Check(now)
    with suppress(Enough):
        check.unknown_keys([key for key in changes if key not in FIXED_KEYS], JOB_KEYS, ())
    if check.count:
        raise InvalidPipeline(f"cannot update job {job.id}", check.problems)
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
    for key in overridden(changes):
        kept.pop(key, None)
    if isinstance(changes.get("env"), Mapping):
        env = {**(kept.get("env") or {}), **changes["env"]}
        changes = {**changes, "env": {name: value for name, value in env.items() if value is not None}}
    document = {"name": "update", "jobs": [{**_plain(kept), **changes}], "cwd": job.pipeline.cwd, "env": {}}
    try:
        spec = read_submission(document, now=now).pipeline.jobs[0]
    except InvalidPipeline as error:
        raise InvalidPipeline(f"cannot update job {job.id}", of_the_job(error)) from None
    if "name" in changes and spec.name in taken:
        problem = Problem("name", f"{spec.name!r} is another job's name in this pipeline")
        raise InvalidPipeline(f"cannot update job {job.id}", [problem])
    spec = replace(spec, needs=job.spec.needs, blocking=job.spec.blocking, experiment=job.spec.experiment)
    begin = spec.begin if "begin" in changes else job.not_before
    return Revised(job.id, job.attempt, spec, begin)


def of_the_job(error: InvalidPipeline) -> list[Problem]:
    """The problems of a pipeline that was made of one job, said of that job's own keys."""
    return [one._replace(path=one.path.removeprefix("jobs[0]").removeprefix(".")) for one in error.problems]


def again(
    pipeline: Pipeline,
    jobs: Sequence[Job],
    env: Mapping[str, str],
    only: Collection[JobId] | None = None,
    names: Sequence[str] | None = None,
) -> Submission:
    """A submission of the jobs that ended without success (or of ``only``); needs on those that are over count as met.

    ``jobs`` are all of the pipeline's; ``names`` what they were submitted under, which their needs still say.

    Raises:
        IllegalTransition: there is none, or one needs a job that is not over yet.
    """
    wanted = [job for job in jobs if (job.id in only if only is not None else _unsuccessful(job))]
    for job in wanted:
        if not _unsuccessful(job):
            raise IllegalTransition(f"cannot retry job {job.id}: it is {job.state.value}; only what ended badly can be")
    if not wanted:
        raise IllegalTransition(f"cannot retry p{pipeline.id}: nothing in it has ended badly")
    moved = {job.position: number for number, job in enumerate(wanted)}
    barriers = []
    for barrier in pipeline.barriers:
        inside = [moved[p] for p in range(barrier.first, barrier.last + 1) if p in moved]
        if inside:
            barriers.append(Barrier(inside[0], inside[-1], barrier.on))
    current = [job.spec.name for job in jobs]
    named = _Named(jobs, names or current, pipeline.items, frozenset(moved))
    specs = tuple(replace(job.spec, needs=named.needs(job), begin=None) for job in wanted)
    again_as = PipelineSpec(pipeline.name, specs, pipeline.num_jobs, tuple(barriers), pipeline.items)
    return Submission(again_as, pipeline.cwd, env, pipeline.umask)


class _Named:
    """What a pipeline's needs name, and what is left of them for some of its jobs."""

    def __init__(
        self, jobs: Sequence[Job], names: Sequence[str], items: Sequence[str], wanted: Collection[int]
    ) -> None:
        self.jobs, self.wanted = jobs, wanted
        self.targets = groups(names, items)
        self.renamed = any(job.spec.name != name for job, name in zip(jobs, names, strict=True))

    def needs(self, job: Job) -> tuple[Need, ...]:
        """Those of the job that are not met yet, in the names that the jobs have now."""
        found: dict[Need, None] = {}
        for need in job.spec.needs:
            targets = range(job.position) if need.job == "all" else self.targets.get(need.job, ())
            going = next((self.jobs[p] for p in targets if not self.jobs[p].settled), None)
            if going is not None:
                raise IllegalTransition(
                    f"cannot retry {job.spec.name} (job {job.id}): it needs {going.spec.name} (job {going.id}), "
                    "which is not over yet; wait for that"
                )
            left = [p for p in targets if p in self.wanted]
            if need.job == "all" or (left and not self.renamed):
                found[need] = None
            else:
                found.update((Need(self.jobs[p].spec.name, need.on), None) for p in left)
        return tuple(found)


def _unsuccessful(job: Job) -> bool:
    return job.settled and job.state is not JobState.SUCCEEDED


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON would have them."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value
