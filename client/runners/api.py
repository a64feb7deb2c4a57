"""What the socket says: the states, the reason codes and the shapes both sides of it agree on.

Times are Unix seconds as floats, sizes bytes, durations seconds, utilisation 0 to 100; a number not known is null.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NotRequired, TypedDict


class JobState(StrEnum):
    """Where a job is. Waiting, then live, then settled."""

    QUEUED = "queued"
    HELD = "held"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    SKIPPED = "skipped"


#: Not started: in the queue, or kept out of it by its owner.
WAITING = frozenset({JobState.QUEUED, JobState.HELD})
#: A job holds its cards exactly while it is in one of these.
LIVE = frozenset({JobState.STARTING, JobState.RUNNING, JobState.STOPPING})
#: Over; such a state never changes.
SETTLED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.TIMED_OUT, JobState.SKIPPED})


class Code(StrEnum):
    """Why a job is in its state."""

    # waiting
    NEEDS_JOBS = "needs_jobs"
    BARRIER = "barrier"
    PIPELINE_LIMIT = "pipeline_limit"
    RUNNING_LIMIT = "running_limit"
    NO_FREE_GPU = "no_free_gpu"
    NO_GPU_MEMORY = "no_gpu_memory"
    FOREIGN_GPU_USE = "foreign_gpu_use"
    NO_CPUS = "no_cpus"
    NO_MEMORY = "no_memory"
    QUOTA = "quota"
    BEGIN_TIME = "begin_time"
    RETRY_DELAY = "retry_delay"
    BEHIND_RESERVATION = "behind_reservation"
    HELD = "held"
    PULLING_IMAGE = "pulling_image"
    ENGINE_UNAVAILABLE = "engine_unavailable"
    INVENTORY_STALE = "inventory_stale"
    PAUSED = "paused"
    LOW_DISK = "low_disk"
    STARTING_SOON = "starting_soon"
    # live
    LAUNCHING = "launching"
    RUNNING = "running"
    STOPPING = "stopping"
    UNKNOWN = "unknown"
    STUCK = "stuck"
    # over
    OK = "ok"
    EXIT_CODE = "exit_code"
    SIGNAL = "signal"
    OUT_OF_MEMORY = "out_of_memory"
    TIME_LIMIT = "time_limit"
    CANCELLED_BY = "cancelled_by"
    NEED_FAILED = "need_failed"
    LAUNCH_FAILED = "launch_failed"
    GPU_LOST = "gpu_lost"
    CONTAINER_LOST = "container_lost"
    SUPERVISOR_LOST = "supervisor_lost"
    MACHINE_RESTARTED = "machine_restarted"
    PREEMPTED = "preempted"
    IDLE = "idle"  # live too: it runs, and its cards do nothing


class ReasonView(TypedDict):
    """Why, as a code for programs and a sentence for people."""

    code: str
    text: str


class JobView(TypedDict):
    """One job as `status`, the events and `GET /v1/jobs` show it."""

    id: int
    name: str
    pipeline: str
    user: str
    uid: int
    state: str
    reason: ReasonView
    priority: int
    run_in: str
    num_gpus: int
    gpus: list[str]
    attempt: int
    exit_code: int | None
    submitted_at: float
    started_at: float | None
    finished_at: float | None
    expected_start: float | None
    expected_start_range: NotRequired[list[float | None] | None]  #: from when to when, in four cases of five
    idle_since: NotRequired[float]  #: its cards have done nothing since then, which is for too long
    caches: NotRequired[list[str]]  #: the words of `RUNNERS_CACHES` in its `env`, while it is not over


class IntruderView(TypedDict):
    """A process that was on an attempt's card and belonged to none of the card's jobs; when it was seen there."""

    gpu: str
    pid: int
    user: str | None
    uid: int | None
    program: str | None
    memory: int | None
    since: float
    until: float


class MeasureView(TypedDict):
    """What one number was over time: the mean over the ``seconds`` in which it was known, and its peak."""

    mean: float | None
    peak: float | None
    seconds: float


class CardSummaryView(TypedDict):
    """What one card of an attempt did: memory in bytes, power in watts, temperature in Celsius, energy in joules.

    ``idle`` is for how many seconds it did next to nothing. What others did on a shared card is in it too.
    """

    uuid: str
    index: int
    memory_total: int | None
    utilization: MeasureView
    memory: MeasureView
    power: MeasureView
    temperature: MeasureView
    idle: float
    energy: float | None


class ProcessSummaryView(TypedDict):
    """What an attempt's processes had together: bytes of memory, and CPUs in cores."""

    memory: MeasureView
    cpu: MeasureView


class SummaryView(TypedDict):
    """What an attempt did with what it had, over ``seconds`` of looks; ``verdict`` says it in sentences."""

    seconds: float
    samples: int
    energy: float | None
    gpus: list[CardSummaryView]
    process: ProcessSummaryView
    verdict: NotRequired[list[str]]


class AttemptView(TypedDict):
    """One try at a job."""

    attempt: int
    state: str
    reason: ReasonView
    exit_code: int | None
    gpus: list[str]
    started_at: float | None
    finished_at: float | None
    peak_memory: int | None  #: bytes: of its largest process, or of its container
    contaminated: NotRequired[list[IntruderView]]
    telemetry: NotRequired[SummaryView | None]


class CardSeriesView(TypedDict):
    """One card while an attempt ran: in each list a number for each of the series' times."""

    uuid: str
    index: int
    name: str
    memory_total: int | None  #: bytes
    utilization: list[float | None]  #: 0 to 100
    memory_used: list[float | None]  #: bytes
    power: list[float | None]  #: watts
    temperature: list[float | None]  #: degrees Celsius


class ProcessSeriesView(TypedDict):
    """An attempt's own processes, together: in each list a number for each of the series' times."""

    memory: list[float | None]  #: bytes
    cpu: list[float | None]  #: cores


class TelemetryView(TypedDict):
    """What was measured while an attempt ran, every ``every`` seconds; what was not known then is None.

    ``at`` has the times. Where there are more of them than were asked for, each number is the mean of an equal span
    of time, and its time that span's middle. No times: nothing is kept of the attempt (yet, or any more).
    """

    job: int
    attempt: int
    every: float
    submitted_at: float
    started_at: float | None
    finished_at: float | None
    at: list[float]
    gpus: list[CardSeriesView]
    process: ProcessSeriesView
    summary: SummaryView | None


class EventView(TypedDict):
    """One thing that happened to a job."""

    id: int
    at: float
    type: str


class AheadJobView(TypedDict):
    """A job that waits too, and is expected to start earlier."""

    id: int
    name: str
    user: str


class AheadView(TypedDict):
    """Who is ahead of a waiting job: how many, and the first few."""

    count: int
    jobs: list[AheadJobView]


class AdviceView(TypedDict):
    """With what a job would start now: a key of it, or `undrain`; the value; and words to follow "would start now"."""

    key: str
    value: Any
    text: str


class EffectView(TypedDict):
    """When a job would start without a change and with it; ``later`` is the difference, negative when it is earlier."""

    id: int
    name: str
    user: str
    before: float | None
    before_range: list[float | None] | None
    after: float | None
    after_range: list[float | None] | None
    later: float | None


class ForeseenView(TypedDict):
    """What would become of a job if it were submitted now; ``gpus`` are those on which it would start at once."""

    id: None
    name: str
    starts_now: bool
    gpus: list[str]
    reason: ReasonView
    expected_start: float | None
    expected_start_range: list[float | None] | None


class JobDetailView(JobView):
    """Everything known of one job. ``spec`` holds the job's keys; ``env`` only for its owner and operators."""

    spec: dict[str, Any]
    attempts: list[AttemptView]
    events: list[EventView]
    contaminated: NotRequired[bool]  #: whether others were on its cards in any attempt
    pipeline_name: NotRequired[str]
    cwd: NotRequired[str]
    logs: NotRequired[dict[str, str]]
    ahead: NotRequired[AheadView]
    would_start_now: NotRequired[list[AdviceView]]


class GpuProcessView(TypedDict):
    """A process on a card that belongs to none of the card's jobs.

    ``job`` is another job of the daemon that it is of, or, when it is ``left_behind``, one that is over.
    """

    pid: int
    user: str | None
    uid: int | None
    program: str | None
    memory: int | None
    job: int | None
    left_behind: bool


class DrainView(TypedDict):
    """Why a card is drained, by whom and since when."""

    reason: str
    by: str
    at: float | None


class NearView(TypedDict):
    """What connects a card with those that are closest to it (as `nvidia-smi topo` says that), and which these are."""

    by: str
    gpus: list[str]


class GpuView(TypedDict):
    """One card. ``state`` is the first that applies of lost, drained, reserved, shared, foreign, free."""

    index: int
    uuid: str
    name: str
    memory_total: int | None
    memory_used: int | None
    utilization: int | None
    state: str
    jobs: list[int]
    foreign_pids: list[int]
    power: NotRequired[float | None]
    temperature: NotRequired[int | None]
    compute_capability: NotRequired[str | None]
    reason: NotRequired[str]
    foreign: NotRequired[list[GpuProcessView]]
    near: NotRequired[NearView | None]  #: None where the driver does not say
    drained: NotRequired[DrainView]
    booking: NotRequired[int]  #: that has it now, or is the next to


class BookingView(TypedDict):
    """Cards that somebody has for themselves for some time. ``waits_for``: jobs of others that still run there.

    ``text`` says what else there is to know, and is empty when there is nothing.
    """

    id: int
    user: str
    uid: int
    gpus: list[str]
    starts_at: float
    ends_at: float
    made_at: float
    reason: str
    active: bool
    waits_for: list[int]
    text: str


class DaemonView(TypedDict):
    """Who answers."""

    version: str
    pid: int
    uptime: float
    engine: str
    paused: NotRequired[str | None]
    notice: NotRequired[str]
    directories: NotRequired[dict[str, str]]  #: `DATA_DIRECTORY` and its sisters, where the configuration sets them
    default_script_args: NotRequired[dict[str, Any]]  #: where the configuration says other than usual


class StatusView(TypedDict):
    """What `status --json` prints."""

    daemon: DaemonView
    gpus: list[GpuView]
    jobs: list[JobView]
    counts: NotRequired[dict[str, int]]
    bookings: NotRequired[list[BookingView]]


class PastIntruderView(TypedDict):
    """A process that was on a card of an attempt, and not the attempt's; its user, where that is known."""

    gpu: str
    since: float
    until: float
    user: str | None


class PastAttemptView(TypedDict):
    """The time for which an attempt held its cards."""

    attempt: int
    state: str
    gpus: list[str]
    reserved_at: float
    finished_at: float | None
    intruders: list[PastIntruderView]


class PastJobView(TypedDict):
    """A job that asks for cards, and its attempts. ``submitted_at``, or its `begin` if that is later."""

    id: int
    name: str
    pipeline: str
    user: str
    uid: int
    state: str
    num_gpus: int
    submitted_at: float
    finished_at: float | None
    attempts: list[PastAttemptView]


class CardChangeView(TypedDict):
    """A card came into another state."""

    at: float
    uuid: str
    state: str
    reason: str | None


class HistoryView(TypedDict):
    """A page of jobs, by id; ``next`` is the ``after`` of the next page. The first page has the cards' changes."""

    jobs: list[PastJobView]
    changes: list[CardChangeView]
    next: int | None


class UsageSums(TypedDict):
    """What attempts add up to. Card time is what was held; a shared card counts as the share that was asked for."""

    jobs: int  #: that had an attempt in the period
    attempts: int
    card_seconds: float
    wait_mean: float | None  #: from submission (or `begin`) to the first start, of jobs that had it in the period
    wait_median: float | None
    efficiency: float | None  #: the cards' mean utilisation, as far as it was measured
    idle_card_seconds: float | None
    energy: float | None  #: joules
    failures: int  #: attempts that failed or timed out
    failure_share: float | None  #: 0 to 1: of the attempts that are over
    contaminated: int  #: jobs on whose cards others were
    preempted: int  #: attempts that made way for others


class UsageRow(UsageSums):
    """Of one user, pipeline or script; what does not apply is null."""

    user: str | None
    uid: int | None
    pipeline: str | None
    pipeline_name: str | None
    script: str | None


class UsageView(TypedDict):
    """What `usage --json` prints: the rows with the most card time first, and the total of all."""

    by: str
    since: float | None
    until: float
    rows: list[UsageRow]
    total: UsageSums
    left_out: int  #: rows that there are beyond the limit
