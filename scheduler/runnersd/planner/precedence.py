"""Whose jobs for several cards come first, and whose wait for those who have had less.

Cards are kept for a job that needs several, and what is kept comes before everything else. If that held whoever asks,
one user's jobs for all cards would follow each other while everybody else waits. So who has just started one such job
has nothing kept for the next while somebody waits for cards who has had less, and waited then already; unless it is
later than reservations may be delayed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from runnersd.lines import Line, Shape
from runnersd.model import Job, JobId, Reason
from runnersd.planner.space import Space
from runnersd.ready import Place, Ready
from runnersd.snapshot import Snapshot


class _Waiting(NamedTuple):
    uid: int
    used: float
    since: float


class Precedence:
    """Among the ready jobs of one priority. ``used`` is what everybody has had and will have (card-seconds), by uid."""

    def __init__(
        self, lines: Ready, jobs: Mapping[JobId, Job], priority: int, snapshot: Snapshot, space: Space,
        used: Mapping[int, float],
    ) -> None:  # fmt: skip
        self._lines, self._jobs, self._space = lines, jobs, space
        self._used, self._started = used, snapshot.wide_starts
        self._waiting: list[_Waiting] | None = None
        self._users = lines.bands.get(priority, {})
        self._found: dict[int, bool] = {}

    def yields(self, line: Line, overdue: bool) -> bool:
        """Whether nothing is kept for the line's first job yet; ``overdue`` if it is too late for that."""
        if overdue or len(self._users) < 2:
            return False
        found = self._found.get(line.uid)
        if found is None:
            found = self._found[line.uid] = self._yields(line.uid)
        return found

    def _yields(self, uid: int) -> bool:
        started = self._started.get(uid)
        if started is None:
            return False
        if self._waiting is None:
            self._waiting = [
                _Waiting(other, self._used.get(other, 0.0), since)
                for other, shapes in self._users.items()
                if (since := self._since(shapes)) is not None
            ]
        mine = self._used.get(uid, 0.0)
        return any(one.uid != uid and one.used < mine and one.since < started for one in self._waiting)

    def _since(self, shapes: Mapping[Shape, list[Place]]) -> float | None:
        """Since when a user waits for cards that they could have (Unix seconds); None if for none."""
        firsts = [
            places[0][1]
            for shape, places in shapes.items()
            if shape.num_gpus and not isinstance(self._space.cards.able(self._jobs[places[0][1]], shape), Reason)
        ]
        return min(map(self._lines.submitted, firsts), default=None)
