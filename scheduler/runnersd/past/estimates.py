"""How long a job may run, from what jobs like it did and from its own time limit. Durations in seconds."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

#: So many that ran longer are needed to say of a job how much longer it runs.
_FEW = 2

#: What an estimate rests on, best first: jobs of its kind; others of its user; its limit alone; nothing.
Ground = Literal["kind", "user", "limit", "nothing"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is thought of a job's duration. ``likely`` are durations of jobs that it may turn out like, sorted.

    ``wider`` are those of its user's other jobs: what is left to go by for one that has outrun all of its kind.
    """

    ground: Ground
    likely: tuple[float, ...] = ()
    limit: float | None = None  #: at which it is stopped
    wider: tuple[float, ...] = ()
    peak_memory: int | None = None  #: bytes that few jobs like it passed

    @property
    def known(self) -> bool:
        """Whether there is anything to go by."""
        return self.ground != "nothing"

    def expected(self, unknown: float) -> float:
        """The mean; ``unknown`` where there is nothing to go by."""
        if self.likely:
            return sum(self.likely) / len(self.likely)
        return self.limit if self.limit is not None else unknown

    def quantile(self, share: float, unknown: float) -> float:
        """A duration that so large a share (0 to 1) of jobs like it do not pass."""
        if self.likely:
            return quantile(self.likely, share)
        return self.limit if self.limit is not None else unknown

    def remaining(self, elapsed: float, share: float, unknown: float) -> float:
        """How much longer it runs, as so large a share of those that ran as long so far do not pass.

        A job that has outrun all others is thought to need half as long again as it has had.
        """
        left = self._left(elapsed, share, unknown)
        return left if self.limit is None else max(min(left, self.limit - elapsed), 0.0)

    def _left(self, elapsed: float, share: float, unknown: float) -> float:
        for durations in (self.likely, self.wider):
            longer = durations[bisect_right(durations, elapsed) :]
            if len(longer) >= _FEW or (longer and durations is self.wider):
                return quantile(longer, share) - elapsed
        if self.likely:
            return elapsed / 2
        total = self.limit if self.limit is not None else unknown
        return max(total - elapsed, elapsed / 2)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the values that at least so large a share of them does not pass. They are sorted, and some."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
