"""A trace of jobs, and what became of them under some policy: waits, and how well the cards were used.

A trace is a CSV file with the columns ``job,submit_s,duration_s,num_gpus,gpu_share,cpus,memory_mib``. A job for one
card with a share below 1 may share its card with others; any other job has its cards to itself.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class TraceJob(NamedTuple):
    """One job of a trace. Times in seconds since its beginning, sizes in bytes."""

    id: int
    submitted: float
    duration: float
    num_gpus: int
    share: float  #: of a card; 1 has it alone
    cpus: float
    memory: int

    @property
    def shared(self) -> bool:
        """Whether it may share its card."""
        return self.num_gpus == 1 and self.share < 1

    @property
    def work(self) -> float:
        """Card-seconds."""
        return self.duration * self.num_gpus * (self.share if self.shared else 1.0)


class Run(NamedTuple):
    """When a job of the trace ran, and on which cards (from 0)."""

    start: float
    end: float
    cards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """What a policy made of a trace. Times in seconds."""

    mean_wait: float
    p95_wait: float
    max_wait: float
    mean_jct: float  #: from submission to the end
    multi_gpu_mean_wait: float
    multi_gpu_max_wait: float
    utilization: float  #: of all card-seconds from the first submission to the last end
    double_bookings: int
    runtime_s: float = 0.0
    in_range: float | None = None  #: which part of the jobs foretold started when it was said
    foretold: int | None = None


def read(path: Path) -> list[TraceJob]:
    """The jobs of a trace, in the order in which they were submitted.

    Raises:
        ValueError: the file is no trace.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        jobs = [
            TraceJob(
                int(row["job"]),
                float(row["submit_s"]),
                float(row["duration_s"]),
                int(row["num_gpus"]),
                float(row["gpu_share"]),
                float(row["cpus"]),
                int(float(row["memory_mib"]) * (1 << 20)),
            )
            for row in rows
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"cannot read {path}: not a trace of jobs ({error})") from error
    if not jobs:
        raise ValueError(f"cannot read {path}: it has no jobs")
    return sorted(jobs, key=lambda job: (job.submitted, job.id))


def figures(jobs: Sequence[TraceJob], runs: Mapping[int, Run], cards: int, runtime: float = 0.0) -> Figures:
    """The figures of a replay in which every job ran; ``runtime`` is how long it took (seconds)."""
    waits = sorted(runs[job.id].start - job.submitted for job in jobs)
    wide = [runs[job.id].start - job.submitted for job in jobs if job.num_gpus > 1]
    span = max(run.end for run in runs.values()) - jobs[0].submitted
    return Figures(
        mean_wait=sum(waits) / len(waits),
        p95_wait=waits[int(0.95 * len(waits))],
        max_wait=waits[-1],
        mean_jct=sum(runs[job.id].end - job.submitted for job in jobs) / len(jobs),
        multi_gpu_mean_wait=sum(wide) / len(wide) if wide else 0.0,
        multi_gpu_max_wait=max(wide, default=0.0),
        utilization=sum(job.work for job in jobs) / (cards * span),
        double_bookings=double_bookings(jobs, runs),
        runtime_s=runtime,
    )


def double_bookings(jobs: Sequence[TraceJob], runs: Mapping[int, Run]) -> int:
    """How often a job was put on a card that had no room for it: looked at afresh, whatever the policy believed."""
    moves: list[tuple[float, bool, int, TraceJob]] = []
    for job in jobs:
        run = runs[job.id]
        moves.append((run.start, True, job.id, job))
        moves.append((run.end, False, job.id, job))
    used: dict[int, float] = {}
    alone: dict[int, int] = {}
    wrong = 0
    for _, starts, _, job in sorted(moves, key=lambda move: move[:3]):
        amount = job.share if job.shared else 1.0
        for card in runs[job.id].cards:
            if not starts:
                used[card] -= amount
                alone[card] -= not job.shared
                continue
            before = used.get(card, 0.0)
            wrong += before + amount > 1 + 1e-9 or alone.get(card, 0) > 0
            used[card] = before + amount
            alone[card] = alone.get(card, 0) + (not job.shared)
    return wrong
