"""Jobs: as lists and events show them, and everything known of one."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from .forecast import AdviceView, AheadView
from .states import ReasonView
from .telemetry import SummaryView


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


class XidView(TypedDict):
    """An error that the driver reported of a card, with the attempt that had the card when it came."""

    attempt: int
    gpu: str
    number: int
    text: str


class EventView(TypedDict):
    """One thing that happened to a job."""

    id: int
    at: float
    type: str
    xid: NotRequired[XidView]  #: of `job.xid`


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
