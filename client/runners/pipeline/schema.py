"""The pipeline file's keys in one table, and the reading of a submitted pipeline. Pure.

Used twice: by the client on what it made of a file, and by the daemon on the JSON it was sent. The daemon trusts
nothing: whatever the document holds, the answer is a :class:`runners.spec.Submission` or an
:class:`runners.errors.InvalidPipeline`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from runners.errors import InvalidPipeline
from runners.pipeline import fields
from runners.pipeline.checking import NAME, WRONG, Check, Enough, Path, shown
from runners.pipeline.fields import Reader
from runners.pipeline.image_names import image_name
from runners.pipeline.notify import notify
from runners.pipeline.order import check_order
from runners.spec import Barrier, JobSpec, PipelineSpec, Submission

DEFAULT_NUM_JOBS: Final = 10
#: More jobs than this in one pipeline are refused before they cost anything; the daemon's own limit is lower.
MAX_JOBS: Final = 50_000
#: What all barriers together may span, and what merging `defaults` into the jobs may read; a bound on time.
_MAX_SPAN: Final = 1_000_000


class Key(NamedTuple):
    """One key of a job: how its value is read, whether null may take it back, whether numbers are taken as written."""

    read: Reader
    nullable: bool = True
    as_written: bool = False


_path = fields.text("a path")

#: Every key of a job but `matrix` and `pipeline`, which only files have. Defaults are those of `JobSpec`.
JOB_KEYS: Final[Mapping[str, Key]] = {
    "name": Key(fields.job_name, as_written=True),
    "command": Key(fields.command, as_written=True),
    "script": Key(fields.script, as_written=True),
    "config": Key(fields.arguments, as_written=True),
    "run_in": Key(fields.choice("host", "container"), nullable=False, as_written=True),
    "image": Key(image_name, as_written=True),
    "num_gpus": Key(fields.whole(0, 1024), nullable=False),
    "gpu_memory": Key(fields.size),
    "gpu_shared": Key(fields.flag, nullable=False),
    "gpu_model": Key(fields.text("a glob on a card's name", 256), as_written=True),
    "gpu_capability": Key(fields.capability, as_written=True),
    "gpus": Key(fields.gpus, as_written=True),
    "cpus": Key(fields.number_of_cpus),
    "memory": Key(fields.size),
    "shm_size": Key(fields.size),
    "num_workers": Key(fields.whole(0, 100_000), nullable=False),
    "time_limit": Key(fields.duration(positive=True)),
    "grace": Key(fields.duration(), nullable=False),
    "retries": Key(fields.whole(0, 10_000), nullable=False),
    "retry_delay": Key(fields.duration(), nullable=False),
    "blocking": Key(fields.flag, nullable=False),
    "needs": Key(fields.needs, as_written=True),
    "allow_failure": Key(fields.flag, nullable=False),
    "priority": Key(fields.whole(-100, 100), nullable=False),
    "env": Key(fields.env, as_written=True),
    "workdir": Key(_path, as_written=True),
    "mounts": Key(fields.mounts, as_written=True),
    "ports": Key(fields.ports, as_written=True),
    "begin": Key(fields.begin, as_written=True),
    "experiment": Key(_path, as_written=True),
    "preemptible": Key(fields.flag, nullable=False),
    "notify": Key(notify, as_written=True),
    "comet_offline": Key(fields.flag, nullable=False),
}
#: Keys of a whole file.
PIPELINE_KEYS: Final = ("name", "num_jobs", "defaults", "jobs")
#: Keys of an item that takes in another file; they hold for all of its jobs together.
ITEM_KEYS: Final = ("pipeline", "name", "needs", "blocking", "allow_failure")
#: Keys of a job whose mappings are merged with those of `defaults`, key by key.
MERGED_KEYS: Final = ("env", "notify")
#: A job has exactly one of these.
WORK_KEYS: Final = ("command", "script", "pipeline")
_DOCUMENT_KEYS = (*PIPELINE_KEYS, "barriers", "items", "cwd", "env", "umask", "after", "hold", "priority")

pipeline_name = fields.text("a name", 255)
num_jobs = fields.whole(1, 1_000_000)
_priority = fields.whole(-100, 100)
_umask = fields.whole(0, 0o777)
_AFTER_PIPELINE = re.compile(r"p[1-9][0-9]{0,17}", re.ASCII)
_UNNAMED = re.compile(r"[^A-Za-z0-9._-]+", re.ASCII)


# -- names ------------------------------------------------------------------------------------------------------------


def derived_name(work: object) -> str:
    """The name of a job that was given none: its script's stem, or its command's first word."""
    word = work[0] if isinstance(work, (list, tuple)) and work else work
    parts = word.split(None, 1) if isinstance(word, str) else []
    stem = parts[0].rstrip("/").rpartition("/")[2].removesuffix(".py") if parts else ""
    return _UNNAMED.sub("-", stem).strip("-")[:64] or "job"


def fill_names(given: Sequence[str | None], derived: Sequence[str]) -> list[str]:
    """Every job's name: the given ones as they are, the derived ones with `-2`, `-3`... where they would repeat."""
    taken = {name for name in given if name is not None} | {"all"}
    repeats: dict[str, int] = {}
    names = []
    for name, fallback in zip(given, derived, strict=True):
        if name is None:
            name, count = fallback, repeats.get(fallback, 1)
            while name in taken:
                count += 1
                name = f"{fallback}-{count}"
            repeats[fallback] = count
            taken.add(name)
        names.append(name)
    return names


# -- one job ----------------------------------------------------------------------------------------------------------


def read_job(raw: Mapping[str, Any], check: Check, path: Path) -> dict[str, Any]:
    """A job's values as `JobSpec` takes them, its name perhaps missing; those that are wrong are left out."""
    values = read_keys(raw, check, path)
    _cards(values, check, path)
    if values.get("ports") and values.get("run_in", "host") == "host":
        check.wrong((*path, "ports"), "only a container has `ports`; a job on the host opens its own")
    return values


def read_keys(raw: Mapping[str, Any], check: Check, path: Path, unknown: Collection[str] = ()) -> dict[str, Any]:
    """As :func:`read_job`, each key by itself. Those whose values are ``unknown`` are there, and no more is said."""
    values: dict[str, Any] = {}
    for name, value in raw.items():
        key = JOB_KEYS.get(name) if isinstance(name, str) else None
        if name in unknown:
            continue
        if key is None:
            _unknown_job_key(name, check, path)
        elif value is None and key.nullable:
            continue
        elif (found := key.read(value, check, (*path, name))) is not WRONG and found is not None:
            values[name] = found
    _command(raw, values, check, path)
    return values


def _unknown_job_key(name: object, check: Check, path: Path) -> None:
    if name in ("matrix", "pipeline"):
        check.wrong((*path, str(name)), f"`{name}` belongs in a file; the client expands it before it submits")
    else:
        check.unknown_keys([name], [*JOB_KEYS, "matrix", "pipeline"], path)


def _command(raw: Mapping[str, Any], values: dict[str, Any], check: Check, path: Path) -> None:
    """Make one command of `command`, or `script` and `config`."""
    given = [name for name in ("command", "script") if raw.get(name) is not None]
    if len(given) != 1:
        found = "both" if given else "none"
        check.wrong(path, f"expected exactly one of `command`, `script` and `pipeline`, found {found}")
    elif given == ["command"] and raw.get("config") is not None:
        check.wrong((*path, "config"), "`config` holds the arguments of a `script`; a `command` has its own")
    script, config = values.pop("script", None), values.pop("config", ())
    if script is not None and "command" not in values:
        values["command"] = (*script, *config)


def _cards(values: dict[str, Any], check: Check, path: Path) -> None:
    """The keys about cards must agree."""
    explicit = values.get("gpus", ())
    if explicit and values.setdefault("num_gpus", len(explicit)) != len(explicit):
        what = f"is {values['num_gpus']}, but `gpus` names {len(explicit)}; leave one of them out"
        check.wrong((*path, "num_gpus"), what)
    if values.get("gpu_shared") and "gpu_memory" not in values:
        check.wrong((*path, "gpu_shared"), "a job that shares a card must say its `gpu_memory`")


# -- a pipeline -------------------------------------------------------------------------------------------------------


def read_pipeline(document: Mapping[str, Any], check: Check, *, missing: Sequence[str] = ()) -> PipelineSpec | None:
    """The pipeline in a document with `name`, `num_jobs`, `defaults`, `jobs`, `barriers` and `items`.

    None when something is wrong; ``check`` then has it. ``missing`` are names below which a caller could not make jobs:
    needs on them are not looked at. An empty one means that any job may be missing.
    """
    before = check.count
    name = pipeline_name(document.get("name", "pipeline"), check, ("name",))
    limit = num_jobs(document.get("num_jobs", DEFAULT_NUM_JOBS), check, ("num_jobs",))
    raw = document.get("jobs")
    if not isinstance(raw, list) or not raw:
        if not missing:
            check.expected(("jobs",), "a list of jobs", raw)
        return None
    if len(raw) > MAX_JOBS:
        check.wrong(("jobs",), f"{len(raw)} jobs; at most {MAX_JOBS} fit into one pipeline")
        return None
    jobs: list[dict[str, Any]] = []
    related = True
    for at, job in enumerate(_with_defaults(document, raw, check)):
        if not isinstance(job, dict):
            check.expected(("jobs", at), "a mapping of job keys", job)
            related = False
            continue
        jobs.append(read_job(job, check, ("jobs", at)))
        # One with a name that is wrong is meant by it all the same: only who has none to go by may be meant by any.
        related = related and ("name" in jobs[-1] or isinstance(job.get("name"), str | None))
    items = _items(document.get("items", []), check)
    barriers = _barriers(document.get("barriers", []), jobs if len(jobs) == len(raw) else [], len(raw), check)
    if not related:
        return None
    names = _names(raw, jobs, check)
    check_order(names, items, [job.get("needs", ()) for job in jobs], barriers, check, missing)
    if check.count > before:
        return None
    specs = tuple(JobSpec(**{**job, "name": name}) for name, job in zip(names, jobs, strict=True))
    return PipelineSpec(name, specs, limit, barriers, items)


def _with_defaults(document: Mapping[str, Any], raw: list[Any], check: Check) -> Iterable[Any]:
    """The jobs with `defaults` under them, mappings key by key."""
    defaults = document.get("defaults")
    if defaults is None or defaults == {}:
        return raw
    if not isinstance(defaults, dict):
        check.expected(("defaults",), "a mapping of job keys", defaults)
        return raw
    if "name" in defaults:
        check.wrong(("defaults", "name"), "names are unique, so there is no default for one")
        return raw
    # Each job reads its defaults anew, so what they hold counts once a job.
    held = sum(len(value) // (16 if isinstance(value, str) else 1) for value in defaults.values() if _holds(value))
    if len(raw) * (len(defaults) + held) > _MAX_SPAN:
        check.wrong(("defaults",), f"too large to be merged into {len(raw)} jobs")
        return raw
    return [with_defaults(job, defaults) if isinstance(job, dict) else job for job in raw]


def _holds(value: object) -> bool:
    return isinstance(value, (str, list, dict))


def with_defaults(job: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A job over its defaults; mappings merge key by key.

    A job's own work (`command`, or `script`) replaces theirs; so do its own `gpus` their `num_gpus`, and vice versa.
    """
    dropped = overridden(job)
    merged = {**{name: value for name, value in defaults.items() if name not in dropped}, **job}
    for key in MERGED_KEYS:
        own, under = job.get(key), defaults.get(key)
        if isinstance(own, dict) and isinstance(under, dict):
            merged[key] = {**under, **own}
    return merged


def overridden(job: Mapping[str, Any]) -> set[str]:
    """The keys whose defaults say nothing to this job, because of other keys that it gives itself."""
    dropped: set[str] = set()
    if any(name in job for name in WORK_KEYS):
        dropped.update(WORK_KEYS)
        if "script" not in job:
            dropped.add("config")
    if "gpus" in job:
        dropped.add("num_gpus")
    if "num_gpus" in job:
        dropped.add("gpus")
    return dropped


def _names(raw: list[Any], jobs: list[dict[str, Any]], check: Check) -> list[str]:
    """Every job's name; the given ones must differ."""
    given: list[str | None] = [job.get("name", one.get("name")) for job, one in zip(jobs, raw, strict=True)]
    seen: dict[str, int] = {}
    for position, name in enumerate(given):
        if name is not None and seen.setdefault(name, position) != position:
            check.wrong(("jobs", position, "name"), f"the name {shown(name)} is that of an earlier job already")
    return fill_names(given, [derived_name(job.get("script") or job.get("command")) for job in raw])


def _items(value: object, check: Check) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_JOBS:
        check.expected(("items",), "a list of names", value)
        return ()
    before = check.count
    for position, name in enumerate(value):
        if not isinstance(name, str) or len(name) > fields.MAX_NAME or not NAME.fullmatch(name):
            check.expected(("items", position), "the name of a nested pipeline", name)
    return tuple(value) if check.count == before else ()


def _barriers(value: object, jobs: list[dict[str, Any]], count: int, check: Check) -> tuple[Barrier, ...]:
    """The barriers sent, and one for each blocking job that has none yet, in the order of the file."""
    if not isinstance(value, list):
        check.expected(("barriers",), "a list of {first, last, on}", value)
        return ()
    position = fields.whole(0, count - 1)
    event = fields.choice("success", "finished")
    found: dict[Barrier, None] = {}
    span = 0
    for at, item in enumerate(value):
        path = ("barriers", at)
        if not isinstance(item, dict):
            check.expected(path, "a mapping of first, last and on", item)
            continue
        check.unknown_keys(item, ("first", "last", "on"), path)
        first = position(item.get("first"), check, (*path, "first"))
        last = position(item.get("last"), check, (*path, "last"))
        on = event(item.get("on", "success"), check, (*path, "on"))
        if WRONG in (first, last, on):
            continue
        if first > last:
            check.wrong(path, f"first ({first}) is after last ({last})")
            continue
        span += last - first + 1
        found[Barrier(first, last, on)] = None
        if span > _MAX_SPAN:
            check.wrong(("barriers",), "they span too many jobs")
            return ()
    for at, job in enumerate(jobs):
        if job.get("blocking"):
            found[Barrier(at, at)] = None
    return tuple(sorted(found, key=lambda barrier: (barrier.last, -barrier.first, barrier.on)))


# -- a submission -----------------------------------------------------------------------------------------------------


def read_submission(document: object, *, now: float) -> Submission:
    """What `POST /v1/pipelines` was sent, checked. ``now`` is Unix seconds, for `begin: +2h`.

    Raises:
        InvalidPipeline: it will not do; its problems name every mistake by key path.
    """
    check = Check(now)
    try:
        submission = _submission(document, check)
    except Enough:
        submission = None
    if submission is None:
        mistakes = "1 mistake" if len(check.problems) == 1 else f"{len(check.problems)} mistakes"
        raise InvalidPipeline(f"cannot queue the pipeline: it has {mistakes}", check.problems)
    return submission


def _submission(document: object, check: Check) -> Submission | None:
    if not isinstance(document, dict):
        check.expected((), "a JSON object", document)
        return None
    check.unknown_keys(document, _DOCUMENT_KEYS, ())
    pipeline = read_pipeline(document, check)
    cwd = document.get("cwd")
    if not isinstance(cwd, str) or not cwd.startswith("/") or len(cwd) > 4096 or not fields.is_text(cwd):
        check.expected(("cwd",), "the absolute path of the submit directory", cwd)
    env = fields.env(document.get("env", {}), check, ("env",))
    umask = _umask(document.get("umask", 0o022), check, ("umask",))
    after = _after(document.get("after", []), check)
    hold = fields.flag(document.get("hold", False), check, ("hold",))
    priority = document.get("priority")
    if priority is not None and _priority(priority, check, ("priority",)) is not WRONG and pipeline is not None:
        pipeline = replace(pipeline, jobs=tuple(replace(job, priority=priority) for job in pipeline.jobs))
    if check.count or pipeline is None or not isinstance(cwd, str):
        return None
    return Submission(pipeline, cwd, env, umask, after, hold)


def _after(value: object, check: Check) -> tuple[int | str, ...]:
    if not isinstance(value, list) or len(value) > MAX_JOBS:
        check.expected(("after",), "a list of ids of jobs and pipelines", value)
        return ()
    found: dict[int | str, None] = {}
    for position, item in enumerate(value):
        number = isinstance(item, int) and not isinstance(item, bool) and 0 < item < 1 << 62
        if number or (isinstance(item, str) and _AFTER_PIPELINE.fullmatch(item)):
            found[item] = None
        else:
            check.expected(("after", position), "the id of a job (17) or of a pipeline ('p3')", item)
    return tuple(found)
