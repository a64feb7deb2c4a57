"""What a change does to those who wait: the forecast without it and with it, side by side."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from runnersd.forecast.expectations import Expectation, Forecast
from runnersd.model import GpuId, JobId, Reason

#: Differences below so many seconds are nothing that anybody would notice.
NOTICED = 60.0


@dataclass(frozen=True, slots=True)
class Effect:
    """When a job is expected to start without the change and with it; None where nothing can be foretold."""

    job: JobId
    before: Expectation | None
    after: Expectation | None

    @property
    def later(self) -> float | None:
        """By how many seconds it starts later, negative for earlier; None where that is not known."""
        if self.before is None or self.after is None or self.before.likely is None or self.after.likely is None:
            return None
        return self.after.likely - self.before.likely


class Foreseen(NamedTuple):
    """What would become of a job if it were submitted now. ``gpus`` are what it would start on at once, else None."""

    name: str
    gpus: tuple[GpuId, ...] | None
    reason: Reason
    expected: Expectation | None


def effects(before: Forecast, after: Forecast, changed: Collection[JobId]) -> list[Effect]:
    """The jobs that are changed, then those that would start at another time for it, the most affected first."""
    mine = [Effect(id, before.expected.get(id), after.expected.get(id)) for id in changed]
    others = []
    for id in dict.fromkeys((*before.in_time, *after.in_time)):
        one = Effect(id, before.expected.get(id), after.expected.get(id))
        if id not in changed and one.before is not None and one.after is not None and abs(one.later or 0.0) >= NOTICED:
            others.append(one)
    return [*mine, *sorted(others, key=lambda one: (-abs(one.later or 0.0), one.job))]
