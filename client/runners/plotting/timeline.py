"""What is drawn of the machine: attempts as bars in the rows of their cards, what kept cards from everybody, the queue.

Times in Unix seconds. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from runners.api import GpuView, HistoryView, PastJobView
from runners.render import words

#: States of a card in which it is for nobody, as they are drawn.
CLOSED = ("drained", "foreign", "lost")
#: What is drawn of an intruder on a card that a job holds.
INTRUDER = "intruder"


@dataclass(frozen=True, slots=True)
class Bar:
    """An attempt on one card. Those that share a card at a time lie in ``lanes`` below each other."""

    start: float
    end: float
    job: int
    name: str
    user: str
    state: str
    lane: int = 0
    lanes: int = 1

    @property
    def label(self) -> str:
        """``12 train``."""
        return f"{self.job} {self.name}"


@dataclass(frozen=True, slots=True)
class Span:
    """A time in which a card was in another state than ours, or had an intruder."""

    start: float
    end: float
    kind: str


@dataclass(slots=True)
class Row:
    """A card, what ran on it, and what kept it from running more."""

    uuid: str
    index: int | None  #: None for one that is not there any more
    bars: list[Bar] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)

    @property
    def label(self) -> str:
        """``card 3``, or the beginning of the UUID of one that is gone."""
        return f"card {self.index}" if self.index is not None else words.clean(self.uuid[:12])


@dataclass(frozen=True, slots=True)
class Timeline:
    """All that is drawn of the machine from ``since`` to ``until``."""

    since: float
    until: float
    rows: list[Row]
    users: list[tuple[str, float]]  #: those who had cards, and for how many card-seconds, the most first
    queue: list[tuple[float, int]]  #: from when on so many jobs waited for cards

    @property
    def held(self) -> float:
        """Which part of the cards' time jobs held, 0 to 1. Several on one card count once."""
        whole = (self.until - self.since) * len(self.rows)
        return sum(map(_covered, self.rows)) / whole if whole > 0 else 0.0

    @property
    def longest_queue(self) -> int:
        """The most jobs that ever waited."""
        return max((count for _, count in self.queue), default=0)


def timeline(history: HistoryView, gpus: Sequence[GpuView], since: float | None, until: float) -> Timeline:
    """What is drawn. Without ``since`` it begins with the first attempt."""
    jobs = history["jobs"]
    if since is None:
        since = min((one["reserved_at"] for job in jobs for one in job["attempts"]), default=until - 3600.0)
    since = min(since, until - 1.0)
    rows = {gpu["uuid"]: Row(gpu["uuid"], gpu["index"]) for gpu in sorted(gpus, key=lambda gpu: gpu["index"])}
    taken: dict[str, float] = {}
    for job in jobs:
        user = words.clean(job["user"])
        for attempt in job["attempts"]:
            start = max(attempt["reserved_at"], since)
            end = min(until if attempt["finished_at"] is None else attempt["finished_at"], until)
            if end < start:
                continue
            for uuid in attempt["gpus"]:
                row = rows.setdefault(uuid, Row(uuid, None))
                row.bars.append(Bar(start, end, job["id"], words.clean(job["name"]), user, attempt["state"]))
                taken[user] = taken.get(user, 0.0) + end - start
            for other in attempt["intruders"]:
                if other["gpu"] in rows and other["until"] >= since:
                    rows[other["gpu"]].spans.append(
                        Span(max(other["since"], since), min(other["until"], until), INTRUDER)
                    )
    for row in rows.values():
        row.bars = list(_in_lanes(row.bars))
    for gpu in gpus:
        rows[gpu["uuid"]].spans += _closed(gpu, history, since, until)
    users = sorted(taken.items(), key=lambda one: (-one[1], one[0]))
    return Timeline(since, until, list(rows.values()), users, _queue(jobs, since, until))


def thinned(bars: Iterable[Bar], dot: float) -> list[Bar]:
    """The bars that can be seen where ``dot`` seconds are one dot: of those shorter than that, in each dot the longest,
    as long as the dot. A hundred thousand of them take minutes to draw, and look the same."""
    seen: list[Bar] = []
    small: dict[tuple[int, int, int], Bar] = {}
    for bar in bars:
        if bar.end - bar.start >= dot:
            seen.append(bar)
            continue
        place = (int(bar.start / dot), bar.lane, bar.lanes)
        other = small.get(place)
        if other is None or bar.end - bar.start > other.end - other.start:
            small[place] = bar
    return seen + [replace(bar, end=bar.start + dot) for bar in small.values()]


def _closed(gpu: GpuView, history: HistoryView, since: float, until: float) -> Iterator[Span]:
    """When the card was drained, foreign or lost: by its changes, and by what it is now."""
    changes = [(one["at"], one["state"]) for one in history["changes"] if one["uuid"] == gpu["uuid"]]
    drain = gpu.get("drained")
    if drain is not None and drain["at"] is not None:
        # Who drained it, and when, is kept; that it is, is told anew at every start of the daemon.
        changes = [(at, state) for at, state in changes if at < drain["at"]] + [(drain["at"], "drained")]
    ends = [at for at, _ in changes[1:]] + [until]
    for (at, state), end in zip(changes, ends, strict=False):
        if state in CLOSED and end > since:
            yield Span(max(at, since), min(end, until), state)


def _queue(jobs: Iterable[PastJobView], since: float, until: float) -> list[tuple[float, int]]:
    """How many jobs waited: from their submission, or the end of an attempt, to the next attempt or the job's end."""
    moves: dict[float, int] = {}
    for job in jobs:
        over = until if job["finished_at"] is None else job["finished_at"]
        begins = [job["submitted_at"], *(one["finished_at"] or until for one in job["attempts"])]
        ends = [*(one["reserved_at"] for one in job["attempts"]), over]
        for start, end in zip(begins, ends, strict=True):
            start, end = max(start, since), min(end, until)
            if end > start:
                moves[start] = moves.get(start, 0) + 1
                moves[end] = moves.get(end, 0) - 1
    steps = [(since, 0)]
    for at in sorted(moves):
        count = steps[-1][1] + moves[at]
        if at == since:
            steps[-1] = (since, count)
        elif moves[at]:
            steps.append((at, count))
    return steps


def _in_lanes(bars: list[Bar]) -> Iterator[Bar]:
    """The bars, those side by side that overlap in time."""
    together: list[Bar] = []
    ends: list[float] = []
    for bar in sorted(bars, key=lambda bar: (bar.start, bar.end, bar.job)):
        if ends and bar.start >= max(ends):
            yield from (replace(one, lanes=len(ends)) for one in together)
            together, ends = [], []
        lane = next((lane for lane, end in enumerate(ends) if end <= bar.start), len(ends))
        ends[lane : lane + 1] = [bar.end]
        together.append(replace(bar, lane=lane))
    yield from (replace(one, lanes=len(ends)) for one in together)


def _covered(row: Row) -> float:
    total, reached = 0.0, float("-inf")
    for bar in sorted(row.bars, key=lambda bar: bar.start):
        total += max(bar.end - max(bar.start, reached), 0.0)
        reached = max(reached, bar.end)
    return total
