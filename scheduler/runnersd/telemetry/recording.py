"""Where samples go that somebody wants to see again one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from runnersd.model import GpuId, JobId
from runnersd.telemetry.sample import Sample


class Recorder(Protocol):
    """Keeps the samples of every attempt, and tells them again.

    `began`, `add` and `ended` are called in the loop, once a sample: none of them waits, and none fails.
    """

    def began(self, job: JobId, attempt: int, started_at: float, cards: Sequence[GpuId]) -> None:
        """Samples of this attempt follow. Said again of one that ran on over a restart of the daemon."""

    def add(self, job: JobId, attempt: int, sample: Sample) -> None:
        """One sample, later than all before it."""

    def ended(self, job: JobId, attempt: int) -> None:
        """No more follow: the attempt is over."""

    async def read(self, job: JobId, attempt: int, points: int) -> bytes:
        """What is kept of an attempt, at no more than so many times: a JSON object with `every`, `at`, `gpus` and
        `process`, as `runners.api.TelemetryView` has them. An empty one where nothing is kept.

        Raises:
            Unavailable: it cannot be read, or not in time.
        """

    async def forget(self, attempts: Sequence[tuple[JobId, int]]) -> None:
        """Keep nothing of these attempts any more."""


class NoRecorder:
    """Keeps nothing: for a daemon without zarr, or with telemetry off."""

    def began(self, job: JobId, attempt: int, started_at: float, cards: Sequence[GpuId]) -> None:
        """As `Recorder.began`."""

    def add(self, job: JobId, attempt: int, sample: Sample) -> None:
        """As `Recorder.add`."""

    def ended(self, job: JobId, attempt: int) -> None:
        """As `Recorder.ended`."""

    async def read(self, job: JobId, attempt: int, points: int) -> bytes:
        """As `Recorder.read`."""
        return b"{}"

    async def forget(self, attempts: Sequence[tuple[JobId, int]]) -> None:
        """As `Recorder.forget`."""
