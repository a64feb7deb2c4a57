"""What is expected: who is ahead of a job, with what it would start now, and what a change or a submission would do."""

from __future__ import annotations

from typing import Any, TypedDict

from .states import ReasonView


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
