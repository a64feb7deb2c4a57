"""The machine: its cards, who has booked them, the daemon that answers, and with the jobs what `status` prints."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from .jobs import JobView


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


class KeptView(TypedDict):
    """The job that waits and has a card kept, whose it is, and when it is expected to start there (Unix seconds)."""

    job: int
    user: str
    at: float


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
    kept: NotRequired[KeptView]  #: of a free card: others start there only if they are done by then


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
