"""The things the daemon reasons about. Values only: nothing here acts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from runners.api import LIVE, SETTLED, Code, JobState
from runners.spec import Barrier, JobSpec

GpuId = str
JobId = int
PipelineId = int
BookingId = int


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a job is in its state: a code for programs, a sentence for people."""

    code: Code
    text: str
    about: JobId | None = None  #: the job that it makes way for


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that NVML sees on a card. ``ancestors`` are the pids above it, nearest first, as /proc told.

    ``run`` is the attempt that its environment says it is of: a run name, or in a container `JOB.ATTEMPT`. Anybody can
    set that, so it proves nothing.
    """

    pid: int
    kind: Literal["compute", "graphics"]
    memory: int | None
    name: str = ""
    uid: int | None = None
    ancestors: tuple[int, ...] = ()
    user: str = ""  #: the name of ``uid``, where it has one
    run: str = ""


@dataclass(frozen=True, slots=True)
class Intrusion:
    """A process that was on a card while an attempt held it, and that belonged to none of the card's jobs.

    ``since`` and ``until`` are when it was first and last seen there (Unix seconds), ``memory`` is the most that it had
    (bytes).
    """

    job: JobId
    attempt: int
    gpu: GpuId
    pid: int
    since: float
    until: float
    uid: int | None = None
    user: str = ""
    program: str = ""
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class CardOwner:
    """The other daemon that holds a card's lock; a field is None where it could not be read."""

    user: str | None
    pid: int | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device, as just seen. Memory in bytes, power in watts, temperature in Celsius; None is "not known"."""

    uuid: GpuId
    index: int
    name: str = ""
    memory_total: int | None = None
    memory_used: int | None = None
    utilization: int | None = None
    power: float | None = None
    temperature: int | None = None
    compute_capability: str | None = None
    pci_bus: str = ""
    parent: GpuId | None = None  #: the card a MIG device is a part of
    minor: int | None = None  #: N of /dev/nvidiaN, of the whole card
    processes: tuple[GpuProcess, ...] = ()
    lost: bool = False
    owner: CardOwner | None = None  #: another daemon, when its lock is not ours


@dataclass(frozen=True, slots=True)
class Topology:
    """How cards reach each other: a row and a column for each of ``cards``.

    ``links`` is how many NVLinks two have in common, directly or through a switch. ``levels`` is where their ways on
    the PCIe bus meet, as NVML numbers that (`runnersd.closeness`), and None where the driver does not say.
    """

    cards: tuple[GpuId, ...] = ()
    links: tuple[tuple[int, ...], ...] = ()
    levels: tuple[tuple[int | None, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Xid:
    """An error that the driver has reported of a card, by its number in NVIDIA's catalog (`runnersd.xids`)."""

    gpu: GpuId  #: the whole card, also of one that is divided
    number: int


@dataclass(frozen=True, slots=True)
class Inventory:
    """The devices as just seen, in PCI order. ``stale`` means the driver did not answer this time.

    ``problem`` is a sentence for people when there is something to say (no driver, a driver that hangs). ``unlisted``
    are devices that are there, and that the configuration leaves to others. ``xids`` have come since the look before.
    """

    gpus: tuple[Gpu, ...] = ()
    stale: bool = False
    problem: str | None = None
    unlisted: frozenset[GpuId] = frozenset()
    topology: Topology = Topology()
    xids: tuple[Xid, ...] = ()


@dataclass(frozen=True, slots=True)
class Drain:
    """Why an operator lets nothing new start on a card, who that is, and since when (Unix seconds).

    What is not known is "" and None.
    """

    reason: str = ""
    by: str = ""
    at: float | None = None

    def __str__(self) -> str:
        """``drained by root: fan is loud``."""
        return "drained" + (f" by {self.by}" if self.by else "") + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True, slots=True)
class Booking:
    """Cards that somebody has for themselves for some time, whatever the queue. Times are Unix seconds."""

    id: BookingId
    uid: int
    user: str
    gpus: tuple[GpuId, ...]
    starts_at: float
    ends_at: float
    made_at: float
    reason: str = ""

    def active(self, now: float) -> bool:
        """Whether it has begun and is not over."""
        return self.starts_at <= now < self.ends_at


@dataclass(frozen=True, slots=True)
class ImageState:
    """What is known of an image that jobs ask for: the image, or how far it is, or why it cannot be had.

    ``at`` is when that was learned (Unix seconds).
    """

    at: float
    image: Image | None = None
    progress: str | None = None  #: it is being pulled: a sentence
    failure: str | None = None  #: the registry said no: a sentence


@dataclass(frozen=True, slots=True)
class EngineState:
    """The container engine as just seen. ``problem`` is why it cannot be used now, in a sentence.

    ``cards`` is how it hands cards to containers; None when it cannot, and ``no_cards`` says what to install.
    """

    problem: str | None = None
    cards: Literal["cdi", "nvidia"] | None = None
    no_cards: str = ""
    seen: bool = False  #: whether it has ever answered, or is at least installed
    root: str = ""  #: where it keeps images and containers; empty where that cannot be seen from here


@dataclass(frozen=True, slots=True)
class ForeignPolicy:
    """What counts as somebody else's use of a card, and what that means for jobs."""

    min_graphics_memory: int = 1 << 30
    ignore: frozenset[str] = frozenset()
    share: bool = False  #: whether shared jobs may have what it leaves of a card's memory


@dataclass(frozen=True, slots=True)
class Submitter:
    """Who a pipeline belongs to: read from the kernel, never from the request."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    user: str = ""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A submitted pipeline without its jobs. Its environment stays in the store."""

    id: PipelineId
    name: str
    submitter: Submitter
    cwd: str
    umask: int
    num_jobs: int
    submitted_at: float
    size: int  #: how many jobs it has
    barriers: tuple[Barrier, ...] = ()
    items: tuple[str, ...] = ()
    after: tuple[JobId, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """One command, wanted once. Times are Unix seconds."""

    id: JobId
    pipeline: Pipeline
    position: int  #: in its pipeline's file, from 0
    spec: JobSpec
    state: JobState = JobState.QUEUED
    attempt: int = 0
    gpus: tuple[GpuId, ...] = ()
    reason: Reason | None = None  #: None while it waits: then `explain` says why
    exit_code: int | None = None
    submitted_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    not_before: float | None = None  #: begin time, or the end of a retry's delay
    failures: int = 0  #: attempts that counted against `retries`
    preempted: int = 0  #: attempts that made way for a job of a higher priority
    idle_since: float | None = None  #: since when its cards have done nothing, once that is for too long
    stopping_at: float | None = None  #: since when it has had to end

    @property
    def came_at(self) -> float:
        """From when on the job waits for nothing that it named itself (Unix seconds)."""
        return max(self.submitted_at, self.spec.begin or 0.0)

    @property
    def live(self) -> bool:
        """Whether it holds its cards: starting, running or stopping."""
        return self.state in LIVE

    @property
    def settled(self) -> bool:
        """Whether it is over for good."""
        return self.state in SETTLED

    @property
    def priority(self) -> int:
        """-100 to 100; higher goes first."""
        return self.spec.priority

    @property
    def tolerated(self) -> bool:
        """Whether what waits for it may go on: it succeeded, or it may fail."""
        return self.state is JobState.SUCCEEDED or (self.settled and self.spec.allow_failure)


@dataclass(frozen=True, slots=True)
class RunName:
    """Names one attempt to the outside world, so that another daemon can find it again."""

    database: str  #: the state directory's own id
    job: JobId
    attempt: int

    def __str__(self) -> str:
        return f"runners-{self.database}-{self.job}-{self.attempt}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended, as its supervisor recorded it. ``exit_code`` is the process's own, 128+n for signal n.

    ``failure`` is set when nothing ran (``launch_failed``), or when the end was not seen (``supervisor_lost``,
    ``machine_restarted``); then ``exit_code`` may be None. ``peak_memory`` is bytes.
    """

    exit_code: int | None
    signal: int | None = None
    started_at: float | None = None
    finished_at: float | None = None
    failure: Reason | None = None
    peak_memory: int | None = None
    truncated: bool = False  #: output passed `log_max`
    stopped: bool = False  #: it was told to stop while its first process ran


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory or file of the host that a container sees. ``asked`` is the submitter's own wish (`mounts`), which
    may only name what the daemon's `allowed_mounts` hold."""

    source: str
    target: str
    read_only: bool = False
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """A container image as the engine has it: its id, and what it was built with."""

    id: str
    name: str = ""
    environment: tuple[tuple[str, str], ...] = ()
    size: int = 0  #: bytes
    volumes: tuple[str, ...] = ()  #: directories that are each container's own


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """What a container adds to a launch. Sizes in bytes; ``minors`` are those of its cards where they are known."""

    image: Image
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    mounts: tuple[Mount, ...] = ()
    allowed: tuple[str, ...] = ()  #: below these lies what a submitter may mount
    masked: tuple[str, ...] = ()  #: directories in it that are covered by an empty one
    home: str = "/home/runner"
    memory: int | None = None
    cpus: float | None = None
    shm_size: int = 8 << 30
    pids: int = 4096
    network: str = "bridge"
    log_max: int = 50 << 20
    ports: tuple[str, ...] = ()  #: `host:container`, on the loopback address
    minors: tuple[int | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything a launcher needs to run one attempt; nothing in it is looked up again.

    ``argv`` is exec'ed as it is. ``environment`` is complete (nothing is inherited). ``submitter`` is None when the
    daemon runs as a user and everything runs as that user. ``cwd`` of a container is a directory in it.
    """

    run: RunName
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: str
    umask: int
    submitter: Submitter | None
    gpus: tuple[GpuId, ...]
    grace: float
    log_max: int
    container: ContainerSpec | None = None
    experiment: str | None = None  #: the folder whose record is told of the attempt; of host jobs
    away: tuple[int, ...] = ()  #: minors of the cards that it must not be able to use; of host jobs of other users
