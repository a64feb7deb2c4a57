"""What a plan is made of, and what it says about a card whoever of ours holds it."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from runners.api import Code
from runnersd.inventory import foreign_memory, foreign_processes, process_text
from runnersd.model import (
    Booking,
    Drain,
    EngineState,
    ForeignPolicy,
    Gpu,
    GpuId,
    GpuProcess,
    ImageState,
    Inventory,
    Job,
    JobId,
    Reason,
)
from runnersd.quotas import Quotas
from runnersd.snapshot import Snapshot
from runnersd.urgency import Measures

#: Seconds after which a job that shows no process on its card is taken to have some that cannot be seen.
WARMING_UP = 60.0


@dataclass(frozen=True, slots=True)
class World:
    """Everything a plan depends on, but the clock. Sizes in bytes."""

    snapshot: Snapshot
    inventory: Inventory
    drained: Mapping[GpuId, Drain] = field(default_factory=dict)
    paused: str | None = None
    low_disk: str | None = None
    engine_low_disk: str | None = None  #: the same of the container engine's disk: only jobs in containers wait for it
    max_running: int = 64
    cpus: float = 1.0
    memory: int = 1 << 62
    margin: int = 0  #: memory of a card that stays free beside a job's `gpu_memory`
    foreign: ForeignPolicy = field(default_factory=ForeignPolicy)
    supervisors: Mapping[JobId, int] = field(default_factory=dict)
    engine: EngineState = field(default_factory=EngineState)
    images: Mapping[str, ImageState] = field(default_factory=dict)
    quotas: Quotas = field(default_factory=Quotas)
    min_run: float | None = None  #: seconds that a job runs before it may be preempted; None: none ever is
    claimants: tuple[JobId, ...] = ()  #: waiting jobs that others have made way for, by when that began
    #: Seconds by which the machine's clock was set while an attempt (job and number) ran: none of its time.
    clock_set: Mapping[tuple[JobId, int], float] = field(default_factory=dict)
    interrupted: frozenset[tuple[JobId, int]] = frozenset()  #: attempts that a restart of the machine has ended
    ended: frozenset[int] = frozenset()  #: supervisors of attempts that ended since the inventory was taken
    leftovers: Mapping[int, JobId] = field(default_factory=dict)  #: pids that outlived their attempt, and whose it was
    bookings: tuple[Booking, ...] = ()  #: made in advance, by when they begin
    stop_idle: bool = False  #: whether jobs whose cards do nothing are stopped

    @property
    def measures(self) -> Measures:
        """What urgency and use are measured by."""
        return self.snapshot.measures

    def began(self, job: Job) -> float | None:
        """When the job's attempt would have started by the clock as it is set now (Unix seconds); None: it has not."""
        return None if job.started_at is None else job.started_at + self.clock_set.get((job.id, job.attempt), 0.0)


def usable(gpu: Gpu, world: World) -> Reason | None:
    """Why a new job cannot have the card at all, whoever of ours holds it; None when it can."""
    if gpu.lost:
        return Reason(Code.NO_FREE_GPU, f"card {gpu.index} is lost")
    if gpu.uuid in world.drained:
        return Reason(Code.NO_FREE_GPU, f"card {gpu.index} is {world.drained[gpu.uuid]}")
    if gpu.owner is not None:
        whose = gpu.owner.user or "another user"
        return Reason(
            Code.FOREIGN_GPU_USE, f"card {gpu.index} belongs to another daemon of {whose} (pid {gpu.owner.pid})"
        )
    beside = outsiders(gpu, world)
    return beside.reason if beside is not None and beside.memory is None else None


@dataclass(frozen=True, slots=True)
class Outsiders:
    """Those who are on a card and do not belong there, in a sentence.

    ``memory`` is what they hold of it, in bytes, if shared jobs may have the rest; None if nobody may.
    """

    reason: Reason
    memory: int | None


def outsiders(gpu: Gpu, world: World) -> Outsiders | None:
    """Who is on the card that does not belong there; None when nobody is."""
    foreign = foreign_processes(gpu, supervisors_on(gpu, world), world.foreign)
    if not foreign:
        return None
    left = next((process for process in foreign if process.pid in world.leftovers), None)
    if left is not None:
        return Outsiders(
            Reason(Code.FOREIGN_GPU_USE, f"card {gpu.index} is used by {outsider_text(left, world)}"), None
        )
    more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
    reason = Reason(Code.FOREIGN_GPU_USE, f"card {gpu.index} is used by {outsider_text(foreign[0], world)}{more}")
    known = world.foreign.share and gpu.memory_total is not None
    return Outsiders(reason, foreign_memory(gpu, foreign) if known else None)


def unclaimed_memory(gpu: Gpu, world: World, beside: Outsiders | None, now: float) -> int:
    """What the driver measured as used on the card and is counted for nobody, in bytes; 0 where it does not tell.

    Counted are those ``beside`` ours, what attempts had that have ended since, and what its holders show. One that
    shows nothing has not begun, or nobody can see its processes: after a while its share counts whole.
    """
    if gpu.memory_used is None:
        return 0
    counted = (beside.memory if beside is not None else None) or 0
    for process in gpu.processes:
        if _is_below(process, world.ended):
            counted += process.memory or 0
    for job in world.snapshot.holders.get(gpu.uuid, {}).values():
        share = (job.spec.gpu_memory if job.spec.gpu_shared else None) or gpu.memory_used
        supervisor = world.supervisors.get(job.id)
        shown = [one.memory for one in gpu.processes if supervisor is not None and _is_below(one, {supervisor})]
        told = [memory for memory in shown if memory is not None]
        if shown and len(told) == len(shown):
            counted += sum(told)
        elif shown or ((began := world.began(job)) is not None and now - began >= WARMING_UP):
            counted += share
    return max(gpu.memory_used - counted, 0)


def _is_below(process: GpuProcess, supervisors: AbstractSet[int]) -> bool:
    return process.pid in supervisors or not supervisors.isdisjoint(process.ancestors)


def outsider_text(process: GpuProcess, world: World) -> str:
    """A process that does not belong on a card, as people are told of it; with the job of ours that it is of."""
    if process.pid in world.leftovers:
        return f"{process_text(process)}, which job {world.leftovers[process.pid]} has left behind"
    job = job_of(process, world)
    return process_text(process) + (f" of job {job}" if job is not None else "")


def job_of(process: GpuProcess, world: World) -> JobId | None:
    """The live job that the process is of, whichever cards that has; None if it is of none of ours."""
    above = {process.pid, *process.ancestors}
    return next((job for job, pid in world.supervisors.items() if pid in above), None)


def supervisors_on(gpu: Gpu, world: World) -> frozenset[int]:
    """The supervisors whose processes belong on the card: its holders', and those of attempts that have ended since it
    was seen, whose processes are gone.

    Such a supervisor may have another attempt by now, on another card. What that has on this card is seen at the next
    look, and is foreign then.
    """
    holders = world.snapshot.holders.get(gpu.uuid, {})
    mine = {world.supervisors[id] for id in holders if id in world.supervisors}
    return world.ended | mine
