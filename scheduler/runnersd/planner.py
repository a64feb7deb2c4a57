"""What should happen next, given everything known. Decides; never acts.

Order is by priority, then submission. A job that does not fit now *claims* every card it could use: later jobs may
flow round its claim but not through it, so a job that needs eight cards is not starved by jobs that need one. A job
that could not run even if all of our jobs ended (its cards are foreign, drained or lost) claims nothing.

The walk looks at one head per pipeline and shape (see `runnersd.snapshot`), and leaves a shape at the first job of it
that does not fit: a turn costs what it starts, not what is queued.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from runners.api import Code, JobState
from runners.pipeline.quantities import format_size
from runnersd.inventory import foreign_processes, matches
from runnersd.model import (
    EngineState,
    ForeignPolicy,
    Gpu,
    GpuId,
    ImageState,
    Inventory,
    Job,
    JobId,
    PipelineId,
    Reason,
)
from runnersd.snapshot import Key, Shape, Snapshot

#: Sets of cards for which containers are made ready at a time.
FORESEEN = 4
#: Seconds after which what is known of an image is looked at again, and after which it does not count any more.
IMAGE_STALE, IMAGE_OLD = 10.0, 60.0


@dataclass(frozen=True, slots=True)
class World:
    """Everything a plan depends on, but the clock. Sizes in bytes."""

    snapshot: Snapshot
    inventory: Inventory
    drained: Mapping[GpuId, str] = field(default_factory=dict)
    paused: str | None = None
    low_disk: str | None = None
    max_running: int = 64
    cpus: float = 1.0
    memory: int = 1 << 62
    margin: int = 0  #: memory of a card that stays free beside a job's `gpu_memory`
    foreign: ForeignPolicy = field(default_factory=ForeignPolicy)
    supervisors: Mapping[JobId, int] = field(default_factory=dict)
    engine: EngineState = field(default_factory=EngineState)
    images: Mapping[str, ImageState] = field(default_factory=dict)
    proven_dead: frozenset[int] = frozenset()  #: supervisors that ended since the inventory was taken


@dataclass(frozen=True, slots=True)
class Start:
    """Reserve these cards for the job and launch it."""

    job: Job
    gpus: tuple[GpuId, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """End a live job, for this reason."""

    job: Job
    reason: Reason


@dataclass(frozen=True, slots=True)
class Drop:
    """Settle a job that will never run."""

    job: Job
    reason: Reason


@dataclass(frozen=True, slots=True)
class Fail:
    """Settle a job that cannot be started, though nothing stands in its way."""

    job: Job
    reason: Reason


@dataclass(frozen=True, slots=True)
class Resolve:
    """Find out which image a name means, and have it pulled if it is not there."""

    image: str


Decision = Start | Stop | Drop | Fail | Resolve


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, why the shapes that wait do so, and when to look again at the latest (Unix seconds)."""

    decisions: tuple[Decision, ...] = ()
    blocked: Mapping[Shape, Reason] = field(default_factory=dict)
    look_again: float | None = None
    next_up: tuple[Start, ...] = ()  #: container jobs that may be made ready, each for the cards it may get


def plan(world: World, now: float) -> Plan:
    """The next decisions. The same world and clock give the same plan."""
    snapshot = world.snapshot
    decisions: list[Decision] = [*_stops(world, now)]
    for id in sorted(snapshot.doomed):
        job = snapshot.jobs[id]
        decisions.append(Drop(job, snapshot.progress[job.pipeline.id].failed_need(job)))
    walk = _Walk(world, now)
    if world.paused is None and world.low_disk is None:
        walk.run()
    times = [time for time in (snapshot.next_timer, *_deadlines(world, now)) if time is not None]
    settled = [Fail(job, reason) for job, reason in walk.failed]
    resolve = [Resolve(image) for image in walk.unresolved]
    return Plan(
        (*decisions, *settled, *walk.starts, *resolve), walk.blocked, min(times, default=None), tuple(walk.next_up)
    )


def time_limit_of(job: Job) -> float | None:
    """When a running job must be stopped (Unix seconds), if ever."""
    if job.spec.time_limit is None or job.started_at is None:
        return None
    return job.started_at + job.spec.time_limit


def usable(gpu: Gpu, world: World) -> Reason | None:
    """Why a new job cannot have the card at all, whoever of ours holds it; None when it can."""
    if gpu.lost:
        return Reason(Code.NO_FREE_GPU, f"card {gpu.index} is lost")
    if gpu.uuid in world.drained:
        return Reason(Code.NO_FREE_GPU, f"card {gpu.index} is drained")
    if gpu.owner is not None:
        whose = gpu.owner.user or "another user"
        return Reason(
            Code.FOREIGN_GPU_USE, f"card {gpu.index} belongs to another daemon of {whose} (pid {gpu.owner.pid})"
        )
    foreign = foreign_processes(gpu, supervisors_on(gpu, world), world.foreign)
    if foreign:
        process = foreign[0]
        return Reason(
            Code.FOREIGN_GPU_USE, f"card {gpu.index} is used by {process.name or 'a process'} (pid {process.pid})"
        )
    return None


def supervisors_on(gpu: Gpu, world: World) -> frozenset[int]:
    """The supervisors whose processes belong on the card: its holders', and those proven dead since it was seen."""
    holders = world.snapshot.holders.get(gpu.uuid, {})
    mine = {world.supervisors[id] for id in holders if id in world.supervisors}
    return world.proven_dead | mine


def _stops(world: World, now: float) -> Iterator[Stop]:
    seen = {gpu.uuid: gpu for gpu in world.inventory.gpus}
    complete = not world.inventory.stale and world.inventory.problem is None
    for job in world.snapshot.live.values():
        if job.state not in (JobState.STARTING, JobState.RUNNING):
            continue
        lost = [id for id in job.gpus if (id in seen and seen[id].lost) or (id not in seen and complete)]
        limit = time_limit_of(job)
        if lost:
            yield Stop(job, Reason(Code.GPU_LOST, f"the driver lost card {', '.join(lost)}"))
        elif limit is not None and now >= limit:
            yield Stop(job, Reason(Code.TIME_LIMIT, f"over its time limit of {job.spec.time_limit:g} s"))


def _deadlines(world: World, now: float) -> Iterator[float]:
    for job in world.snapshot.live.values():
        limit = time_limit_of(job)
        if limit is not None and limit > now and job.state is not JobState.STOPPING:
            yield limit


class _Shape:
    """One shape's jobs in order: a cursor over the pipelines' heads, and the successors of those taken."""

    def __init__(self, shape: Shape, heads: list[tuple[Key, PipelineId]]) -> None:
        self.shape = shape
        self._heads = heads
        self._at = 0
        self._successors: list[tuple[Key, PipelineId]] = []

    def peek(self) -> tuple[Key, PipelineId] | None:
        head = self._heads[self._at] if self._at < len(self._heads) else None
        if self._successors and (head is None or self._successors[0] < head):
            return self._successors[0]
        return head

    def advance(self, keys: Sequence[Key] | None) -> None:
        """Leave the first; its pipeline's next follows, when ``keys`` (all of its ready jobs here) are given."""
        first = self.peek()
        if first is None:
            return
        if self._successors and first is self._successors[0]:
            heapq.heappop(self._successors)
        else:
            self._at += 1
        if keys is not None:
            after = bisect_right(keys, first[0])
            if after < len(keys):
                heapq.heappush(self._successors, (keys[after], first[1]))


class _Walk:
    """One pass over what is ready, best first, handing out what is free."""

    def __init__(self, world: World, now: float) -> None:
        self.world = world
        self.now = now
        self.starts: list[Start] = []
        self.failed: list[tuple[Job, Reason]] = []
        self.next_up: list[Start] = []
        self.unresolved: dict[str, None] = {}  #: images that are not known well enough
        self.blocked: dict[Shape, Reason] = {}
        snapshot = world.snapshot
        self._running = len(snapshot.live)
        self._started: dict[PipelineId, int] = {}
        self._cpus = world.cpus - sum(job.spec.cpus_wanted for job in snapshot.live.values())
        self._memory = world.memory - sum(job.spec.memory or 0 for job in snapshot.live.values())
        self._claimed: dict[GpuId, Job] = {}
        self._waiting_for: dict[Code, Job] = {}  # CPUs and memory are claimed whole
        self._cards: list[Gpu] | None = None
        self._free: dict[GpuId, Gpu] = {}
        self._unusable: dict[GpuId, Reason] = {}

    def run(self) -> None:
        snapshot = self.world.snapshot
        order: list[tuple[Key, int, _Shape]] = []
        for number, (shape, heads) in enumerate(snapshot.heads.items()):
            order.append((heads[0][0], number, _Shape(shape, heads)))
        heapq.heapify(order)
        while order:
            key, number, line = order[0]
            head = line.peek()
            assert head is not None, "a line stays in the order only while it has a head"
            job = snapshot.jobs[key[1]]
            taken = self._take(job, line.shape)
            if not taken and line.shape in self.blocked:
                heapq.heappop(order)
                continue
            line.advance(snapshot.followers(head[1], line.shape) if taken else None)
            following = line.peek()
            if following is None:
                heapq.heappop(order)
            else:
                heapq.heapreplace(order, (following[0], number, line))

    def _take(self, job: Job, shape: Shape) -> bool:
        """Start the job if it fits, or settle it if it never will; whether that was done.

        Blocks its shape if it does not fit; passes over it if its pipeline is at its limit.
        """
        pipeline = job.pipeline.id
        live = self.world.snapshot.progress[pipeline].live + self._started.get(pipeline, 0)
        if live >= job.pipeline.num_jobs:
            return False
        if shape.image is not None:
            image = self._image(job, shape.image)
            if image is not None and image.code is Code.LAUNCH_FAILED:
                self.failed.append((job, image))
                return True
            if image is not None:
                self.blocked[shape] = image
                return False
        gpus: tuple[GpuId, ...] = ()
        reason = self._machine(job)
        if shape.num_gpus:
            chosen = self._choose(job, reason is not None)
            if isinstance(chosen, Reason):
                reason = reason or chosen
            else:
                gpus = chosen
        if reason is not None:
            self.blocked[shape] = reason
            return False
        for id in gpus:
            del self._free[id]
        self._running += 1
        self._cpus -= job.spec.cpus_wanted
        self._memory -= job.spec.memory or 0
        self._started[pipeline] = self._started.get(pipeline, 0) + 1
        self.starts.append(Start(job, gpus))
        return True

    def _image(self, job: Job, name: str) -> Reason | None:
        """Why a container job cannot be given cards yet, for its image's or the engine's sake; None when it can.

        With the code `launch_failed` it never can. Nothing is claimed meanwhile: a pull holds no card.
        """
        engine = self.world.engine
        if engine.problem is not None:
            return Reason(Code.ENGINE_UNAVAILABLE, f"the container engine does not answer: {engine.problem}")
        if job.spec.num_gpus and engine.cards is None:
            return Reason(Code.ENGINE_UNAVAILABLE, engine.no_cards)
        known = self.world.images.get(name)
        if known is not None and known.progress is not None:
            return Reason(Code.PULLING_IMAGE, known.progress)
        if known is not None and known.failure is not None and job.submitted_at <= known.at:
            return Reason(Code.LAUNCH_FAILED, known.failure)
        if known is None or known.failure is not None or self.now - known.at > IMAGE_OLD:
            self.unresolved[name] = None
            return Reason(Code.PULLING_IMAGE, f"looking for the image {name}")
        if self.now - known.at > IMAGE_STALE:
            self.unresolved[name] = None  # it is good enough for this job, and better for the next
        return None

    def _machine(self, job: Job) -> Reason | None:
        """Whether the machine's limit, CPUs or memory keep the job from starting."""
        if self._running >= self.world.max_running:
            running = "1 job runs" if self._running == 1 else f"{self._running} jobs run"
            return Reason(Code.RUNNING_LIMIT, f"{running}, the most at once on this machine (jobs.max_running)")
        # A job that names no CPUs is counted, but never held back for them: its cards would idle.
        wants = ((Code.NO_CPUS, job.spec.cpus, self._cpus), (Code.NO_MEMORY, job.spec.memory, self._memory))
        for code, wanted, left in wants:
            if wanted is None:
                continue
            ahead = self._waiting_for.get(code)
            if ahead is not None:
                return Reason(
                    Code.BEHIND_RESERVATION, f"job {ahead.id} ({_user(ahead)}) is ahead and waits for the same"
                )
            if wanted > left:
                self._waiting_for[code] = job
                if code is Code.NO_CPUS:
                    cpus = "1 CPU" if wanted == 1 else f"{wanted:g} CPUs"
                    return Reason(code, f"needs {cpus}: {max(left, 0):g} of {self.world.cpus:g} free")
                free = format_size(max(int(left), 0))
                return Reason(code, f"needs {format_size(int(wanted))} of memory: {free} free")
        return None

    def _choose(self, job: Job, held_back: bool) -> tuple[GpuId, ...] | Reason:
        """Cards for the job; or why there are none, having claimed those it could use."""
        if self._cards is None:
            self._look_at_cards()
        assert self._cards is not None, "just looked at"
        spec = job.spec
        if self.world.inventory.stale:
            return Reason(Code.INVENTORY_STALE, self.world.inventory.problem or "the driver does not answer")
        fitting = [gpu for gpu in self._cards if matches(gpu, spec)]
        able = [gpu for gpu in fitting if gpu.uuid not in self._unusable]
        if len(able) < spec.num_gpus:
            reasons = [self._unusable[gpu.uuid] for gpu in fitting if gpu.uuid in self._unusable]
            code = reasons[0].code if reasons else Code.NO_FREE_GPU
            why = "; ".join(reason.text for reason in reasons[:3]) or "no card of this machine fits"
            return Reason(code, f"needs {_cards(spec.num_gpus)}, {len(able)} can be had: {why}")
        roomy = [gpu for gpu in able if gpu.uuid in self._free and self._has_room(gpu, spec.gpu_memory)]
        unclaimed = [gpu for gpu in roomy if gpu.uuid not in self._claimed]
        if not held_back and len(unclaimed) >= spec.num_gpus:
            return tuple(gpu.uuid for gpu in unclaimed[: spec.num_gpus])
        ahead = next((self._claimed[gpu.uuid] for gpu in able if gpu.uuid in self._claimed), None)
        if ahead is None and spec.run_in == "container" and not held_back:
            self._foresee(job, able)
        for gpu in able:
            self._claimed.setdefault(gpu.uuid, job)
        if len(roomy) >= spec.num_gpus and ahead is not None:
            return Reason(
                Code.BEHIND_RESERVATION,
                f"job {ahead.id} ({_user(ahead)}) is ahead and needs {_cards(ahead.spec.num_gpus)}",
            )
        free = [gpu for gpu in able if gpu.uuid in self._free]
        if len(free) >= spec.num_gpus and spec.gpu_memory is not None:
            return Reason(
                Code.NO_GPU_MEMORY,
                f"needs {_cards(spec.num_gpus)} with {format_size(spec.gpu_memory)} free: "
                f"{len(roomy)} of {len(free)} have it",
            )
        foreign = [
            self._unusable[gpu.uuid]
            for gpu in fitting
            if gpu.uuid in self._unusable and self._unusable[gpu.uuid].code is Code.FOREIGN_GPU_USE
        ]
        # The code names what would let it start now; the sentence names everything.
        code = Code.FOREIGN_GPU_USE if foreign and len(free) + len(foreign) >= spec.num_gpus else Code.NO_FREE_GPU
        others = "".join(f", {reason.text}" for reason in foreign[:2])
        return Reason(code, f"needs {_cards(spec.num_gpus)}: {len(free)} free{self._held(able)}{others}")

    def _foresee(self, job: Job, able: list[Gpu]) -> None:
        """Which cards the first job in line may get next: those whose holders are expected to leave first."""

        def leaves(gpu: Gpu) -> tuple[float, float, int]:
            holders = self.world.snapshot.holders.get(gpu.uuid, {}).values()
            limits = [time_limit_of(holder) or math.inf for holder in holders]
            started = [holder.started_at or math.inf for holder in holders]
            return max(limits, default=0.0), max(started, default=0.0), gpu.index

        first = sorted(able, key=leaves)
        sets = [[gpu] for gpu in first[: FORESEEN - len(self.next_up)]] if job.spec.num_gpus == 1 else [first]
        for cards in sets:
            if len(self.next_up) < FORESEEN:
                chosen = sorted(cards[: job.spec.num_gpus], key=lambda gpu: able.index(gpu))
                self.next_up.append(Start(job, tuple(gpu.uuid for gpu in chosen)))

    def _look_at_cards(self) -> None:
        self._cards = list(self.world.inventory.gpus)
        for gpu in self._cards:
            reason = usable(gpu, self.world)
            if reason is not None:
                self._unusable[gpu.uuid] = reason
            elif gpu.uuid not in self.world.snapshot.holders:
                self._free[gpu.uuid] = gpu

    def _has_room(self, gpu: Gpu, wanted: int | None) -> bool:
        if wanted is None or gpu.memory_total is None:
            return True
        return gpu.memory_total - (gpu.memory_used or 0) >= wanted

    def _held(self, able: list[Gpu]) -> str:
        holders: dict[JobId, tuple[Job, int]] = {}
        for gpu in able:
            for id, job in self.world.snapshot.holders.get(gpu.uuid, {}).items():
                holders[id] = (job, holders.get(id, (job, 0))[1] + 1)
        parts = [f"{count} held by {id} ({_user(job)})" for id, (job, count) in sorted(holders.items())[:3]]
        return "".join(f", {part}" for part in parts) + (", ..." if len(holders) > 3 else "")


def _user(job: Job) -> str:
    return job.pipeline.submitter.user or str(job.pipeline.submitter.uid)


def _cards(count: int) -> str:
    return "1 card" if count == 1 else f"{count} cards"
