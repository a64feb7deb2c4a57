"""What was measured while an attempt ran: the series, and what they come to."""

from __future__ import annotations

from typing import NotRequired, TypedDict


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
