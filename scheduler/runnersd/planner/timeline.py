"""How much of one thing (a card, the CPUs, the memory) is taken at which time, now and later. Times in Unix seconds."""

from __future__ import annotations

import math
from bisect import bisect_right

#: What rounding may make of amounts that are equal, as a part of what there is.
_EPSILON = 1e-9


class Timeline:
    """Something of which there is so much, and stretches of time in which parts of it are taken."""

    __slots__ = ("_amounts", "_taken", "_times", "capacity")

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self._taken: list[tuple[float, float, float]] = []  # start, end, amount
        self._times: list[float] | None = None
        self._amounts: list[float] = []

    def take(self, start: float, end: float, amount: float) -> None:
        """So much is taken from ``start`` until ``end``."""
        if end > start and amount > 0:
            self._taken.append((start, end, amount))
            self._times = None

    def give_back(self, start: float, end: float, amount: float) -> None:
        """Undo a :meth:`take`."""
        if end > start and amount > 0:
            self._taken.remove((start, end, amount))
            self._times = None

    def taken(self, at: float) -> float:
        """How much is taken then."""
        times, amounts = self._steps()
        place = bisect_right(times, at)
        return amounts[place - 1] if place else 0.0

    def room(self, amount: float, at: float) -> float:
        """For how many seconds from then on so much is free: 0 when it is not, infinity when nothing ends it."""
        times, amounts = self._steps()
        most = self._most(amount)
        place = bisect_right(times, at) - 1
        if (amounts[place] if place >= 0 else 0.0) > most:
            return 0.0
        for later in range(place + 1, len(times)):
            if amounts[later] > most:
                return times[later] - at
        return math.inf

    def next_room(self, amount: float, at: float, seconds: float) -> float:
        """The first time, not before ``at``, from which on so much is free for so long; infinity if there is none."""
        times, amounts = self._steps()
        most = self._most(amount)
        place = bisect_right(times, at) - 1
        since = at if (amounts[place] if place >= 0 else 0.0) <= most else math.inf
        for later in range(place + 1, len(times)):
            if times[later] - since >= seconds:  # as `room` has it: a sum may be rounded to another answer
                return since
            if amounts[later] > most:
                since = math.inf
            elif since == math.inf:
                since = times[later]
        return since

    def _most(self, amount: float) -> float:
        """How much may be taken beside the amount."""
        return self.capacity - amount + _EPSILON * max(self.capacity, 1.0)

    def _steps(self) -> tuple[list[float], list[float]]:
        """When what is taken changes, and how much it is from then on."""
        if self._times is None:
            changes: dict[float, float] = {}
            for start, end, amount in self._taken:
                changes[start] = changes.get(start, 0.0) + amount
                changes[end] = changes.get(end, 0.0) - amount
            self._times = sorted(changes)
            self._amounts, total = [], 0.0
            for time in self._times:
                total += changes[time]
                self._amounts.append(total)
        return self._times, self._amounts
