"""Which ready job is looked at next. The best of all shapes' heads first, and a shape that does not fit is left."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Sequence

from runnersd.model import Job, PipelineId
from runnersd.snapshot import Key, Shape, Snapshot


class Line:
    """One shape's jobs in order: a cursor over the pipelines' heads, and the successors of those taken."""

    def __init__(self, shape: Shape, heads: list[tuple[Key, PipelineId]]) -> None:
        self.shape = shape
        self._heads = heads
        self._at = 0
        self._successors: list[tuple[Key, PipelineId]] = []

    def peek(self) -> tuple[Key, PipelineId] | None:
        """The first of it that has not been left."""
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


class Order:
    """What is ready, best first. Ask for the `first`, then say what came of it with one of the other methods."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._lines: list[tuple[Key, int, Line]] = []
        for number, (shape, heads) in enumerate(snapshot.heads.items()):
            self._lines.append((heads[0][0], number, Line(shape, heads)))
        heapq.heapify(self._lines)

    def first(self) -> tuple[Job, Shape] | None:
        """The best job that has not been left, with its shape; None when nothing is left."""
        if not self._lines:
            return None
        key, _, line = self._lines[0]
        return self._snapshot.jobs[key[1]], line.shape

    def leave_shape(self) -> None:
        """The first does not fit, so none of its shape does."""
        heapq.heappop(self._lines)

    def pass_over(self) -> None:
        """The first stays where it is, and so does the rest of its pipeline in that shape."""
        self._go_on(None)

    def take(self) -> None:
        """The first is settled or starts: the next of its pipeline comes into the order."""
        _, _, line = self._lines[0]
        head = line.peek()
        assert head is not None, "a line stays in the order only while it has a head"
        self._go_on(self._snapshot.followers(head[1], line.shape))

    def _go_on(self, keys: Sequence[Key] | None) -> None:
        _, number, line = self._lines[0]
        line.advance(keys)
        following = line.peek()
        if following is None:
            heapq.heappop(self._lines)
        else:
            heapq.heapreplace(self._lines, (following[0], number, line))
