"""What a plan says: decisions, what is kept for whom, why the others wait, and when to look again. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from runnersd.lines import Line, Shape
from runnersd.model import GpuId, Job, JobId, Reason


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
class Reservation:
    """What is kept for a job that waits: its cards, from when on, and until when it is expected to need them.

    Times are Unix seconds. Others may have the cards until then, and no longer.
    """

    job: Job
    gpus: tuple[GpuId, ...]
    at: float
    until: float
    owed: bool = False  #: kept from nobody but those who heed it


class Over(NamedTuple):
    """Jobs of a user that need at least ``num_gpus`` cards are over a quota."""

    num_gpus: int
    reason: Reason  #: of all of them; it does not say how many each needs


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, why the shapes that wait do so, and when to look again at the latest (Unix seconds).

    ``blocked_for`` says it by line, where whose a job is and how long it runs makes a difference.
    """

    decisions: tuple[Decision, ...] = ()
    blocked: Mapping[Shape, Reason] = field(default_factory=dict)
    look_again: float | None = None
    next_up: tuple[Start, ...] = ()  #: container jobs that may be made ready, each for the cards it may get
    reservations: tuple[Reservation, ...] = ()
    blocked_for: Mapping[Line, Reason] = field(default_factory=dict)
    claims: Mapping[JobId, Reason] = field(default_factory=dict)  #: for whom others make way, oldest first
    over_quota: Mapping[int, tuple[Over, ...]] = field(default_factory=dict)  #: by uid
