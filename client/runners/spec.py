"""What a pipeline is once its file has been read: values both sides agree on, and nothing that acts.

A file becomes a :class:`PipelineSpec` in the client (`runners.pipeline`), travels as JSON, and becomes the same value
in the daemon by the same checks (`runners.pipeline.schema`). Durations are seconds, sizes bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal

#: When a need counts as met: only by success, or by any end.
On = Literal["success", "finished"]


@dataclass(frozen=True, slots=True)
class Need:
    """A job waits for every job that ``job`` names (a job, a matrix's jobs, a nested item's jobs, or ``all`` above)."""

    job: str
    on: On = "success"


@dataclass(frozen=True, slots=True)
class Barrier:
    """Nothing after position ``last`` starts before the jobs from ``first`` to ``last`` have ended as ``on`` says."""

    first: int
    last: int
    on: On = "success"


#: Of what somebody can be told: any end of a job, a bad one, cards that do nothing, others on its cards.
ON = ("end", "failure", "idle", "contaminated")


@dataclass(frozen=True, slots=True)
class Notify:
    """Who is told of a job, and of what; None leaves it to what the daemon knows of its user."""

    email: str | None = None
    webhook: str | None = None
    on: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Only what is said, as plain data."""
        on = None if self.on is None else list(self.on)
        said = {"email": self.email, "webhook": self.webhook, "on": on}
        return {name: value for name, value in said.items() if value is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | str) -> Notify:
        """What :meth:`to_json` wrote; or the word that an older daemon kept, which never checked it."""
        if isinstance(data, str):
            return cls(email=data) if "@" in data and "/" not in data else cls()
        on = data.get("on")
        return cls(data.get("email"), data.get("webhook"), None if on is None else tuple(on))


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One job as it was asked for. Defaults are the contract's; ``None`` means "not asked for"."""

    name: str
    command: str | tuple[str, ...]  #: a string runs under `sh -c`, a tuple as it is
    run_in: Literal["host", "container"] = "host"
    image: str | None = None
    num_gpus: int = 0
    gpu_memory: int | None = None
    gpu_shared: bool = False
    gpu_model: str | None = None
    gpu_capability: str | None = None  #: the least CUDA compute capability, `major.minor`
    gpus: tuple[str, ...] = ()  #: indices (as digits) or UUIDs
    cpus: float | None = None
    memory: int | None = None
    shm_size: int | None = None
    num_workers: int = 1
    time_limit: float | None = None
    grace: float = 10.0
    retries: int = 0
    retry_delay: float = 5.0
    blocking: bool = False
    needs: tuple[Need, ...] = ()
    allow_failure: bool = False
    priority: int = 0
    env: Mapping[str, str] | None = None
    workdir: str | None = None
    mounts: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()  #: `8889:8888`: the machine's loopback address, the container
    begin: float | None = None  #: Unix time
    experiment: str | None = None
    preemptible: bool = False
    notify: Notify | None = None
    comet_offline: bool = False

    def to_json(self) -> dict[str, Any]:
        """Only what differs from the defaults, as plain data that :meth:`from_json` takes back."""
        out: dict[str, Any] = {}
        for name, default in _DEFAULTS:
            value = getattr(self, name)
            if value != default:
                out[name] = value
        if self.needs:
            out["needs"] = [{"job": need.job, "on": need.on} for need in self.needs]
        if self.notify is not None:
            out["notify"] = self.notify.to_json()
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> JobSpec:
        """The job that :meth:`to_json` wrote. Trusts its input: what users send goes through the schema."""
        values = dict(data)
        for name in ("command", "gpus", "mounts", "ports"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        if "needs" in values:
            values["needs"] = tuple(Need(need["job"], need["on"]) for need in values["needs"])
        if values.get("notify") is not None:
            values["notify"] = Notify.from_json(values["notify"])
        return cls(**values)

    @property
    def base_name(self) -> str:
        """The name without its matrix values: `train` of `train[lr=0.1]`."""
        return base_name(self.name)

    @property
    def cpus_wanted(self) -> float:
        """CPUs to account for: ``cpus``, else ``num_workers`` for a job with cards, else none."""
        if self.cpus is not None:
            return self.cpus
        return float(self.num_workers) if self.num_gpus else 0.0


_DEFAULTS: tuple[tuple[str, Any], ...] = tuple(
    (field.name, None if field.default is MISSING else field.default) for field in fields(JobSpec)
)


@dataclass(frozen=True, slots=True)
class PipelineSpec:
    """Jobs in the order of their file, and how they wait for one another."""

    name: str
    jobs: tuple[JobSpec, ...]
    num_jobs: int = 10
    barriers: tuple[Barrier, ...] = ()  #: by position; one for every blocking job or item
    items: tuple[str, ...] = ()  #: names of nested `pipeline:` items; a need on one means all of its jobs


@dataclass(frozen=True, slots=True)
class Submission:
    """A pipeline with where it was submitted from. ``env`` is a secret: never listed, never logged."""

    pipeline: PipelineSpec
    cwd: str
    env: Mapping[str, str]
    umask: int = 0o022
    after: tuple[int | str, ...] = ()  #: jobs (17) and pipelines ("p3") that must succeed before these start
    hold: bool = False


def base_name(name: str) -> str:
    """`train` of `train[lr=0.1]`; the name itself otherwise."""
    return name.partition("[")[0]


def groups(names: Sequence[str], items: Sequence[str]) -> dict[str, list[int]]:
    """Every name a need may use, with the positions of the jobs it stands for.

    A job's own name, the name its matrix jobs share, and each nested item (``a`` for ``a.b``).
    """
    found: dict[str, list[int]] = {}
    known = frozenset(items)
    for position, name in enumerate(names):
        found.setdefault(name, []).append(position)
        base = base_name(name)
        if base != name:
            found.setdefault(base, []).append(position)
        if known:
            parts = base.split(".")
            for depth in range(1, len(parts)):
                prefix = ".".join(parts[:depth])
                if prefix in known:
                    found.setdefault(prefix, []).append(position)
    return found
