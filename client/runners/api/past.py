"""What was: which attempts held which cards and when, and what that adds up to."""

from __future__ import annotations

from typing import TypedDict


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
