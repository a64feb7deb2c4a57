"""Whether a submission can be taken in at all: what could never run is refused now, not left to wait for ever. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from posixpath import normpath

from runners.errors import InvalidPipeline, NotAllowed, Problem, QuotaExceeded, TooLarge
from runners.pipeline.checking import shown
from runners.pipeline.image_names import is_image_name
from runners.pipeline.quantities import format_duration, format_size
from runners.spec import JobSpec, PipelineSpec, Submission, groups
from runnersd.environment import refused_target
from runnersd.inventory import matches
from runnersd.model import EngineState, Inventory
from runnersd.planner.words import capability_text
from runnersd.quotas import Account

#: Need groups may name this many jobs in all; past it their bookkeeping would stall the daemon.
MAX_NEED_PAIRS = 2_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What this machine and its administrator allow. Durations in seconds, sizes in bytes."""

    cpus: float
    memory: int
    max_queued: int = 100_000
    max_per_pipeline: int = 20_000
    time_limit: float | None = None
    max_time_limit: float | None = None
    engine: EngineState = field(default_factory=EngineState)
    network: str = "bridge"  #: what containers are connected to
    image: str | None = None  #: of container jobs that name none, nor their environment
    allowed_mounts: tuple[str, ...] = ()
    root_refused: bool = False  #: the submitter is root, whose containers the configuration does not allow
    accounts: tuple[Account, ...] = ()  #: whose quotas hold for the submitter
    margin: int = 0  #: of a card's memory, which no share may have
    mail: bool = True  #: whether the daemon sends any


def admit(
    submissions: Sequence[Submission], inventory: Inventory, limits: Limits, *, queued: int, operator: bool
) -> list[Submission]:
    """The submissions with the daemon's defaults filled in. All or none.

    Raises:
        InvalidPipeline: a job asks for what this machine does not have, with every such problem.
        NotAllowed: a priority above 0, by somebody who is not an operator.
        QuotaExceeded: the queue is full.
        TooLarge: one pipeline is over the limit.
    """
    problems: list[Problem] = []
    total = 0
    submissions = [replace(one, pipeline=_with_images(one, limits)) for one in submissions]
    for place, submission in enumerate(submissions):
        within = f"pipelines[{place}]." if len(submissions) > 1 else ""
        jobs = submission.pipeline.jobs
        total += len(jobs)
        if len(jobs) > limits.max_per_pipeline:
            raise TooLarge(
                f"cannot submit {submission.pipeline.name}: it has {len(jobs)} jobs, "
                f"a pipeline may have {limits.max_per_pipeline} (jobs.max_per_pipeline); split the file"
            )
        _check_needs(submission.pipeline)
        for number, spec in enumerate(jobs):
            if spec.priority > 0 and not operator:
                raise NotAllowed(f"cannot give {spec.name} the priority {spec.priority}: above 0 needs an operator")
            problems += _problems(spec, f"{within}jobs[{number}]", inventory, limits)
    if problems:
        raise InvalidPipeline("cannot submit: this machine could never run it", problems)
    if queued + total > limits.max_queued:
        raise QuotaExceeded(
            f"cannot queue {total} more jobs: {queued} wait and the queue holds {limits.max_queued} (jobs.max_queued); "
            "wait until some have ended"
        )
    return [replace(one, pipeline=_with_defaults(one.pipeline, limits)) for one in submissions]


def check_quotas(accounts: Sequence[Account], total: int, queued: Callable[[Account], int], whom: str) -> None:
    """See that so many more jobs may be queued. ``queued`` counts those of an account, ``whom`` may change its quota.

    Raises:
        QuotaExceeded: one of the quotas does not allow it.
    """
    for account in accounts:
        quota, ask = account.quota, f"or ask {whom} (scheduling.quotas)"
        if quota.running == 0:
            raise QuotaExceeded(f"cannot queue jobs: {account.name} may have none running; ask {whom}")
        wait = queued(account)
        if quota.queued is not None and wait + total > quota.queued:
            more = "1 more job" if total == 1 else f"{total} more jobs"
            raise QuotaExceeded(
                f"cannot queue {more}: of {account.name} {wait} wait, and at most {quota.queued} may; "
                f"wait until some have started, {ask}"
            )


def _problems(spec: JobSpec, path: str, inventory: Inventory, limits: Limits) -> list[Problem]:
    found: list[Problem] = []

    def say(key: str, message: str) -> None:
        found.append(Problem(f"{path}.{key}", message))

    if spec.run_in == "container":
        _check_container(spec, limits, say)
    if spec.num_gpus:
        _check_cards(spec, inventory, limits.margin, say)
    if spec.cpus is not None and spec.cpus > limits.cpus:
        say("cpus", f"asks for {spec.cpus:g} CPUs, this machine has {limits.cpus:g}")
    if spec.memory is not None and spec.memory > limits.memory:
        say("memory", f"asks for {format_size(spec.memory)}, this machine has {format_size(limits.memory)}")
    if spec.notify is not None and spec.notify.email is not None and not limits.mail:
        say("notify", "asks for mail, and this daemon sends none (notify.smtp)")
    for account in limits.accounts:
        most = account.quota.gpus
        if most is not None and spec.num_gpus > most:
            say("num_gpus", f"asks for {_cards(spec.num_gpus)}, {account.name} may hold {most} (scheduling.quotas)")
    longest = limits.max_time_limit
    if longest is not None and spec.time_limit is not None and spec.time_limit > longest:
        say(
            "time_limit",
            f"asks for {format_duration(spec.time_limit)}, at most {format_duration(longest)} is allowed here",
        )
    return found


def _check_container(spec: JobSpec, limits: Limits, say: Callable[[str, str], None]) -> None:
    engine = limits.engine
    if not engine.seen:
        say("run_in", "this machine has no container engine; install docker.io, or use `run_in: host`")
        return
    if spec.num_gpus and engine.problem is None and engine.cards is None:
        say("num_gpus", engine.no_cards)
    if limits.root_refused:
        say("run_in", "this daemon runs no containers as root (containers.allow_root)")
    if spec.image is None:
        say("image", "names no image; say `image:`, or set DOCKER_IMAGE_NAME, or the daemon's containers.image")
    elif not is_image_name(spec.image):
        say("image", f"{shown(spec.image)} cannot be the name of an image")
    if spec.ports and limits.network == "none":
        say("ports", "this daemon's containers have no network (containers.network)")
    for text in spec.mounts:
        target = text.split(":")[1]
        refused = refused_target(target)
        if refused is not None:
            say("mounts", f"cannot mount anything at {target}: {refused}")
        source = normpath(text.partition(":")[0])
        if not any(PurePosixPath(source).is_relative_to(root) for root in limits.allowed_mounts):
            allowed = ", ".join(limits.allowed_mounts) or "nothing"
            say("mounts", f"cannot mount {source}: this daemon allows {allowed} (containers.allowed_mounts)")


def _check_cards(spec: JobSpec, inventory: Inventory, margin: int, say: Callable[[str, str], None]) -> None:
    if inventory.stale and not inventory.gpus:
        return  # the driver has not told yet: the job waits for that, as those do that came before it hung
    if len(inventory.gpus) < spec.num_gpus:
        why = f" ({inventory.problem})" if inventory.problem and not inventory.gpus else ""
        say("num_gpus", f"asks for {_cards(spec.num_gpus)}, this machine has {len(inventory.gpus)}{why}")
        return
    spare = margin if spec.gpu_shared else 0
    fitting = [
        gpu
        for gpu in inventory.gpus
        if matches(gpu, spec)
        and (gpu.memory_total is None or (spec.gpu_memory or 0) <= max(gpu.memory_total - spare, 1))
    ]
    if len(fitting) < spec.num_gpus:
        key, wish, had = _unmet(spec, inventory)
        if key == "gpu_memory":
            had = len(fitting)
            wish += f" with {format_size(spec.gpu_memory or 0)}"
            wish += f" beside the {format_size(spare)} that stay free (gpus.margin)" if spare else ""
        kinds = _kinds(inventory, able=spec.gpu_capability is not None)
        say(key, f"asks for {wish}; this machine has {had or 'none'} such among its {kinds}")


def _unmet(spec: JobSpec, inventory: Inventory) -> tuple[str, str, int]:
    """The first key about cards that, with those before it, leaves too few of them; what is asked for up to there, in
    words; and how many cards are left. Where all of them leave enough it is `gpu_memory`."""
    wish = (
        f"{'card' if len(spec.gpus) == 1 else 'cards'} {', '.join(spec.gpus)}" if spec.gpus else _cards(spec.num_gpus)
    )
    words = {
        "gpus": "",
        "gpu_model": f" named like {spec.gpu_model}" if spec.gpu_model is not None else "",
        "gpu_capability": capability_text(spec),
    }
    asked = replace(spec, gpu_model=None, gpu_capability=None, gpu_memory=None)
    for key, more in words.items():
        asked, wish = replace(asked, **{key: getattr(spec, key)}), wish + more
        found = sum(matches(gpu, asked) for gpu in inventory.gpus)
        if found < spec.num_gpus:
            return key, wish, found
    return "gpu_memory", wish, found


def _check_needs(pipeline: PipelineSpec) -> None:
    named: dict[str, list[int]] = {}
    pairs = 0
    seen: set[tuple[str, str]] = set()
    for position, spec in enumerate(pipeline.jobs):
        for need in spec.needs:
            if need.job == "all":
                pairs += position
            elif (need.job, need.on) not in seen:
                seen.add((need.job, need.on))
                named = named or groups([job.name for job in pipeline.jobs], pipeline.items)
                pairs += len(named.get(need.job, ()))
    if pairs > MAX_NEED_PAIRS:
        raise TooLarge(
            f"cannot submit {pipeline.name}: its needs name {pairs} jobs in all, {MAX_NEED_PAIRS} may be named; "
            "use `blocking: true` where everything below waits"
        )


def _with_images(submission: Submission, limits: Limits) -> PipelineSpec:
    """The pipeline with the image of every container job said: its own, its submitter's, or the daemon's."""
    default = submission.env.get("DOCKER_IMAGE_NAME") or limits.image
    jobs = tuple(
        replace(job, image=default) if job.run_in == "container" and job.image is None else job
        for job in submission.pipeline.jobs
    )
    return replace(submission.pipeline, jobs=jobs)


def _with_defaults(pipeline: PipelineSpec, limits: Limits) -> PipelineSpec:
    default = limits.time_limit if limits.time_limit is not None else limits.max_time_limit
    if default is None:
        return pipeline
    jobs = tuple(replace(job, time_limit=default) if job.time_limit is None else job for job in pipeline.jobs)
    return replace(pipeline, jobs=jobs)


def _kinds(inventory: Inventory, *, able: bool) -> str:
    """`8 cards: 6 of NVIDIA H100 with 80GiB, 2 of NVIDIA A100 with 40GiB`; `(9.0)` after each where what they are
    ``able`` to do matters."""
    kinds = Counter((gpu.name, gpu.memory_total, gpu.compute_capability if able else None) for gpu in inventory.gpus)
    listed = [
        f"{count} of {name}"
        + (f" with {format_size(total)}" if total else "")
        + (f" ({capability or 'capability not known'})" if able else "")
        for (name, total, capability), count in kinds.most_common(8)
    ]
    return f"{_cards(len(inventory.gpus))}: {', '.join(listed)}"


def _cards(count: int) -> str:
    return "1 card" if count == 1 else f"{count} cards"
