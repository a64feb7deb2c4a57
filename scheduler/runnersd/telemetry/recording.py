"""Where samples go that somebody wants to see again one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from runnersd.model import GpuId, JobId
from runnersd.telemetry.sample import Sample


class Recorder(Protocol):
    """Keeps the samples of every attempt. Called in the loop, once a sample: no call waits, and none fails."""

    def began(self, job: JobId, attempt: int, started_at: float, cards: Sequence[GpuId]) -> None:
        """Samples of this attempt follow. Said again of one that ran on over a restart of the daemon."""

    def add(self, job: JobId, attempt: int, sample: Sample) -> None:
        """One sample, later than all before it."""

    def ended(self, job: JobId, attempt: int) -> None:
        """No more follow: the attempt is over."""


class NoRecorder:
    """Keeps nothing: for a daemon without zarr, or with telemetry off."""

    def began(self, job: JobId, attempt: int, started_at: float, cards: Sequence[GpuId]) -> None:
        """As `Recorder.began`."""

    def add(self, job: JobId, attempt: int, sample: Sample) -> None:
        """As `Recorder.add`."""

    def ended(self, job: JobId, attempt: int) -> None:
        """As `Recorder.ended`."""
