"""What is drawn of jobs: a panel for each thing that was measured, a line for each card, over the time since the start.

Times in seconds since the start of each attempt, so that several can be compared. Memory in GiB, or where processes
have little of it in MiB; power in watts, utilisation in percent, processor time in cores. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runners.api import CardSeriesView, JobDetailView, TelemetryView
from runners.render import words

GIB = 1 << 30
Values = list[float | None]


@dataclass(frozen=True, slots=True)
class Line:
    """One card's numbers, or those of a job's processes, at the job's times. ``label`` tells it from the others."""

    label: str
    values: Values
    most: float | None = None  #: what there is of it: the card's memory

    @property
    def peak(self) -> float | None:
        """The highest."""
        return max((value for value in self.values if value is not None), default=None)

    @property
    def mean(self) -> float | None:
        """The mean of those that are known."""
        known = [value for value in self.values if value is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt of one job: when it ran, and what it is called."""

    job: int
    name: str
    user: str
    state: str
    attempt: int
    submitted_at: float  #: Unix seconds
    started_at: float
    waited: float  #: seconds before its first attempt started
    lasted: float  #: seconds
    times: list[float]
    cards: list[str]  #: their names, each once
    indices: list[int]  #: of its cards
    verdict: list[str]
    over: bool

    @property
    def title(self) -> str:
        """``12 train``."""
        return f"{self.job} {self.name}"

    @property
    def told(self) -> str:
        """``ann, succeeded, waited 2m 10s, ran 41m 03s, card 0``."""
        attempt = f", attempt {self.attempt}" if self.attempt > 1 else ""
        cards = ",".join(map(str, self.indices))
        where = f", card{'s' if len(self.indices) > 1 else ''} {cards}" if self.indices else ""
        ran = "ran" if self.over else "has run"
        return (
            f"{self.user}, {self.state.replace('_', ' ')}{attempt}, waited {words.duration(self.waited)}, "
            f"{ran} {words.duration(self.lasted)}{where}"
        )


@dataclass(frozen=True, slots=True)
class Panel:
    """One thing that was measured: the lines of each run, in the order of the runs."""

    name: str
    unit: str
    lines: list[list[Line]]
    ceiling: float | None = None  #: the end of the axis, where that is given

    @property
    def peak(self) -> float:
        """The highest of all."""
        return max((line.peak or 0.0 for lines in self.lines for line in lines), default=0.0)

    @property
    def most(self) -> float | None:
        """What there is of it on the largest of the cards."""
        return max((line.most for lines in self.lines for line in lines if line.most is not None), default=None)


@dataclass(frozen=True, slots=True)
class Curves:
    """All that is drawn of some jobs."""

    runs: list[Run]
    panels: list[Panel]

    @property
    def lasted(self) -> float:
        """Seconds that the longest run took."""
        return max((run.lasted for run in self.runs), default=0.0)


def curves(jobs: Sequence[tuple[JobDetailView, TelemetryView]], now: float) -> Curves:
    """What is drawn of these jobs, each with the telemetry of one of its attempts, which has started."""
    runs = [_run(job, series, now) for job, series in jobs]
    series = [one for _, one in jobs]
    return Curves(runs, [panel for panel in _panels(series) if any(_known(lines) for lines in panel.lines)])


def _run(job: JobDetailView, series: TelemetryView, now: float) -> Run:
    start = series["started_at"]
    assert start is not None, "only attempts that have started are drawn"
    end = series["finished_at"]
    first = next((one["started_at"] for one in job["attempts"] if one["started_at"] is not None), start)
    said = (words.attempt_state(one) for one in job["attempts"] if one["attempt"] == series["attempt"])
    state = next(said, job["state"])
    began = job["spec"].get("begin")
    eligible = max(series["submitted_at"], began) if isinstance(began, (int, float)) else series["submitted_at"]
    summary: Mapping[str, Any] = series["summary"] or {}
    return Run(
        job=job["id"],
        name=words.clean(job["name"]),
        user=words.clean(job["user"]),
        state=state,
        attempt=series["attempt"],
        submitted_at=series["submitted_at"],
        started_at=start,
        waited=max(first - eligible, 0.0),
        lasted=max((now if end is None else end) - start, max(series["at"], default=start) - start, 0.0),
        times=[at - start for at in series["at"]],
        cards=list(dict.fromkeys(words.clean(gpu["name"]) for gpu in series["gpus"])),
        indices=sorted(gpu["index"] for gpu in series["gpus"]),
        verdict=[words.clean(sentence) for sentence in summary.get("verdict", ())],
        over=end is not None,
    )


def _panels(series: Sequence[TelemetryView]) -> Iterator[Panel]:
    def cards(read: Callable[[CardSeriesView], Iterable[float | None]], most: bool = False) -> list[list[Line]]:
        return [
            [
                Line(f"card {gpu['index']}", list(read(gpu)), _gib(gpu["memory_total"]) if most else None)
                for gpu in sorted(one["gpus"], key=lambda gpu: gpu["index"])
            ]
            for one in series
        ]

    yield Panel("GPU utilisation", "%", cards(lambda gpu: gpu["utilization"]), 100.0)
    yield Panel("GPU memory", "GiB", cards(lambda gpu: map(_gib, gpu["memory_used"]), most=True))
    yield Panel("GPU power", "W", cards(lambda gpu: gpu["power"]))
    yield Panel("Process CPU", "cores", [[Line("", list(one["process"]["cpu"]))] for one in series])
    memory = [one["process"]["memory"] for one in series]
    peak = max((value for values in memory for value in values if value is not None), default=0)
    unit, size = ("GiB", GIB) if peak >= GIB else ("MiB", 1 << 20)
    yield Panel("Process memory", unit, [[Line("", [_in(size, value) for value in values])] for values in memory])


def _gib(value: float | None) -> float | None:
    return _in(GIB, value)


def _in(size: int, value: float | None) -> float | None:
    return None if value is None else value / size


def _known(lines: Iterable[Line]) -> bool:
    return any(value is not None for line in lines for value in line.values)


def together(lines: Sequence[Line]) -> tuple[Values, Values, Values]:
    """The mean of the lines at each time, and the least and the most of them."""
    means: Values = []
    low: Values = []
    high: Values = []
    for values in zip(*(line.values for line in lines), strict=True):
        known = [value for value in values if value is not None]
        means.append(sum(known) / len(known) if known else None)
        low.append(min(known, default=None))
        high.append(max(known, default=None))
    return means, low, high


def resampled(times: Sequence[float], values: Sequence[float | None], until: float, count: int) -> Values:
    """The means over ``count`` equal spans from 0 to ``until``.

    A span without a number takes the one before it, if that is nearer than two usual steps of the series.
    """
    if count < 1 or until <= 0:
        return []
    sums: Mapping[int, list[float]] = _by_span(times, values, until, count)
    step = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
    reach = int(2 * step * count / until) if step > 0 else 0
    found: Values = []
    last: float | None = None
    gap = 0
    for span in range(count):
        if span in sums:
            last, gap = sum(sums[span]) / len(sums[span]), 0
            found.append(last)
        else:
            gap += 1
            found.append(last if gap <= reach else None)
    return found


def _by_span(
    times: Sequence[float], values: Sequence[float | None], until: float, count: int
) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for at, value in zip(times, values, strict=True):
        if value is not None and 0 <= at <= until:
            found.setdefault(min(int(at * count / until), count - 1), []).append(value)
    return found
