"""Short ways to make the daemon's values in tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from runners.spec import Barrier, JobSpec, Need
from runnersd.lifecycle import Event, apply
from runnersd.model import Gpu, Inventory, Job, Pipeline, Submitter
from runnersd.planner import World
from runnersd.snapshot import Snapshot

ANN = Submitter(1000, 1000, (1000,), "ann")
GIB = 1 << 30


def gpu(index: int, **facts: Any) -> Gpu:
    """A healthy, empty 80 GiB card."""
    given: dict[str, Any] = {"name": "NVIDIA H100 80GB HBM3", "memory_total": 80 * GIB, "memory_used": 0}
    given |= {"compute_capability": "9.0", **facts}
    return Gpu(uuid=facts.pop("uuid", f"GPU-{index}"), index=index, **{k: v for k, v in given.items() if k != "uuid"})


def cards(count: int) -> Inventory:
    """So many healthy cards."""
    return Inventory(tuple(gpu(index) for index in range(count)))


def spec(name: str = "job", **keys: Any) -> JobSpec:
    """A job that runs `true`; ``needs`` may be plain names."""
    needs = tuple(need if isinstance(need, Need) else Need(need) for need in keys.pop("needs", ()))
    return JobSpec(name=name, command=keys.pop("command", "true"), needs=needs, **keys)


class Queue:
    """A snapshot that is filled and moved as the store would, without a store."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self._jobs = 0
        self._pipelines = 0

    def add(self, *specs: JobSpec, num_jobs: int = 10, barriers: Sequence[Barrier] = (), items: Iterable[str] = (),
            user: Submitter = ANN, after: Sequence[int] = (), at: float = 0.0) -> list[int]:  # fmt: skip
        """Queue a pipeline, submitted ``at`` (Unix seconds); returns its jobs' ids."""
        self._pipelines += 1
        derived = [Barrier(n, n) for n, one in enumerate(specs) if one.blocking]
        pipeline = Pipeline(
            self._pipelines, f"pipeline{self._pipelines}", user, "/work", 0o022, num_jobs, at, len(specs),
            (*derived, *barriers), tuple(items), tuple(after),
        )  # fmt: skip
        jobs = []
        for position, one in enumerate(specs):
            self._jobs += 1
            jobs.append(Job(self._jobs, pipeline, position, one, submitted_at=at, not_before=one.begin))
        settled = [
            self.snapshot.jobs[id] for id in after if id in self.snapshot.jobs and self.snapshot.jobs[id].settled
        ]
        self.snapshot.add(pipeline, jobs, settled)
        return [job.id for job in jobs]

    def take(self, event: Event) -> Job:
        """Apply an event as the store would."""
        job = apply(self.snapshot.jobs[event.job], event)
        self.snapshot.replace(job)
        return job

    def world(self, inventory: Inventory | int = 0, **facts: Any) -> World:
        """The world with these cards."""
        seen = cards(inventory) if isinstance(inventory, int) else inventory
        return World(self.snapshot, seen, **{"cpus": 64.0, **facts})
