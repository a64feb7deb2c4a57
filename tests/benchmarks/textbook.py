"""Textbook policies, each told how long every job will run, to compare a planner with. Nothing of ours is in them.

A shared job goes to the fullest card that has room, any other to the first free ones.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Literal

from benchmarks.trace import Run, TraceJob

#: What to do behind a job that does not fit: wait; start whatever fits; or start what cannot delay it.
Passing = Literal["nobody", "anybody", "harmless"]
_EPSILON = 1e-9


class _Machine:
    """Cards, by how much of each is free, and what runs on them."""

    def __init__(self, cards: int) -> None:
        self.free = [1.0] * cards
        self.running: list[tuple[float, int, TraceJob, tuple[int, ...]]] = []  # a heap, by end

    def start(self, job: TraceJob, cards: tuple[int, ...], now: float) -> None:
        for card in cards:
            self.free[card] -= job.share if job.shared else 1.0
        heapq.heappush(self.running, (now + job.duration, job.id, job, cards))

    def end(self, now: float) -> None:
        while self.running and self.running[0][0] <= now:
            _, _, job, cards = heapq.heappop(self.running)
            release(self.free, job, cards)


def release(free: list[float], job: TraceJob, cards: Sequence[int]) -> None:
    """Give back what the job held."""
    for card in cards:
        free[card] += job.share if job.shared else 1.0


def place(job: TraceJob, free: Sequence[float], without: frozenset[int] = frozenset()) -> tuple[int, ...] | None:
    """Cards for the job, if there are any now."""
    if job.shared:
        roomy = [card for card, left in enumerate(free) if left >= job.share - _EPSILON and card not in without]
        return (min(roomy, key=lambda card: (free[card], card)),) if roomy else None
    whole = [card for card, left in enumerate(free) if left >= 1 - _EPSILON and card not in without]
    return tuple(whole[: job.num_gpus]) if len(whole) >= job.num_gpus else None


def replay(jobs: Sequence[TraceJob], cards: int, key: Callable[[TraceJob], float], passing: Passing) -> dict[int, Run]:
    """When each job runs if the queue is kept in order of ``key``, and jobs pass others as said."""
    machine = _Machine(cards)
    runs: dict[int, Run] = {}
    queue: list[tuple[float, int, TraceJob]] = []
    coming = 0
    while coming < len(jobs) or machine.running:
        arrival = jobs[coming].submitted if coming < len(jobs) else float("inf")
        now = min(arrival, machine.running[0][0] if machine.running else float("inf"))
        machine.end(now)
        while coming < len(jobs) and jobs[coming].submitted <= now:
            insort(queue, (key(jobs[coming]), jobs[coming].id, jobs[coming]), key=lambda entry: entry[:2])
            coming += 1
        for job, chosen in _starts(machine, queue, passing, now):
            runs[job.id] = Run(now, now + job.duration, chosen)
    return runs


def _starts(
    machine: _Machine, queue: list[tuple[float, int, TraceJob]], passing: Passing, now: float
) -> list[tuple[TraceJob, tuple[int, ...]]]:
    """What starts now; it is taken out of the queue."""
    started: list[tuple[TraceJob, tuple[int, ...]]] = []
    promised: tuple[float, frozenset[int]] | None = None
    left: list[tuple[float, int, TraceJob]] = []
    for position, entry in enumerate(queue):
        job = entry[2]
        chosen = place(job, machine.free)
        if chosen is not None and promised is not None and now + job.duration > promised[0]:
            chosen = place(job, machine.free, promised[1])
        if chosen is not None:
            machine.start(job, chosen, now)
            started.append((job, chosen))
            continue
        left.append(entry)
        if passing == "nobody":
            left += queue[position + 1 :]
            break
        if passing == "harmless" and promised is None:
            promised = _promise(machine, job)
    queue[:] = left
    return started


def _promise(machine: _Machine, job: TraceJob) -> tuple[float, frozenset[int]]:
    """When, and on which cards, the job can start at the earliest."""
    free = list(machine.free)
    for end, group in groupby(sorted(machine.running), key=lambda running: running[0]):
        for _, _, running, cards in group:
            release(free, running, cards)
        chosen = place(job, free)
        if chosen is not None:
            return end, frozenset(chosen)
    raise ValueError(f"cannot place job {job.id}: it wants {job.num_gpus} cards, there are {len(free)}")


#: By name: strict first come, first served; whatever fits; EASY backfill; and the least work first.
POLICIES: dict[str, Callable[[Sequence[TraceJob], int], dict[int, Run]]] = {
    "fifo": lambda jobs, cards: replay(jobs, cards, lambda job: job.submitted, "nobody"),
    "greedy": lambda jobs, cards: replay(jobs, cards, lambda job: job.submitted, "anybody"),
    "easy": lambda jobs, cards: replay(jobs, cards, lambda job: job.submitted, "harmless"),
    "sjf": lambda jobs, cards: replay(jobs, cards, lambda job: job.work, "anybody"),
}
