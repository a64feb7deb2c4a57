"""One look at a running attempt: its cards and its processes. Values only; None is "not known"."""

from __future__ import annotations

from dataclasses import dataclass

from runnersd.model import GpuId


@dataclass(frozen=True, slots=True)
class CardSample:
    """One of the attempt's cards at one moment, as the driver said. What else is on a shared card is in it too."""

    uuid: GpuId
    index: int
    name: str = ""
    memory_total: int | None = None  #: bytes
    memory_used: int | None = None  #: bytes
    utilization: float | None = None  #: 0 to 100
    power: float | None = None  #: watts
    temperature: float | None = None  #: Celsius


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """All processes of the attempt together.

    ``memory`` in bytes: what the kernel charges them with. ``cpu`` in cores: the mean since the sample before, and so
    None in the first one.
    """

    memory: int | None = None
    cpu: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """An attempt at one moment (``at``, Unix seconds), each of its cards in the order of their indices."""

    at: float
    gpus: tuple[CardSample, ...] = ()
    process: ProcessSample = ProcessSample()
