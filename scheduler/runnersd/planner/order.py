"""Who is looked at next among the ready jobs of a priority: the user who has had least, and theirs that is due first.

What somebody is going to use counts as soon as it starts. So when many cards are free at once, they do not all go to
the one who has had least so far.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Mapping, Set
from typing import Literal

from runnersd.lines import Line, Shape
from runnersd.model import JobId, PipelineId
from runnersd.ready import Place, Ready

#: So many lines of one user and shape are looked at in a turn, for one that is short enough to pass a reservation.
DEPTH = 50

#: What comes of a look at a job: it starts or is settled; it is passed over, but not the line; its line is left; or
#: everything of its shape is, whoever it belongs to; or what its user has that needs as many cards, or all of that.
Outcome = Literal["taken", "passed over", "line left", "shape left", "cards left", "user left"]


class _Cursor:
    """One line's jobs in order: its pipelines' heads, and the successors of those taken."""

    def __init__(self, lines: Ready, line: Line) -> None:
        self.line = line
        self._lines = lines
        self._heads = lines.heads[line]
        self._at = 0
        self._successors: list[tuple[JobId, PipelineId]] = []

    def peek(self) -> tuple[JobId, PipelineId] | None:
        """The first of it that has not been left."""
        head = self._heads[self._at] if self._at < len(self._heads) else None
        if self._successors and (head is None or self._successors[0] < head):
            return self._successors[0]
        return head

    def advance(self, *, taken: bool) -> None:
        """Leave the first; its pipeline's next follows if it was taken."""
        first = self.peek()
        if first is None:
            return
        if self._successors and first is self._successors[0]:
            heapq.heappop(self._successors)
        else:
            self._at += 1
        if taken:
            ids = self._lines.followers(first[1], self.line)
            after = bisect_right(ids, first[0])
            if after < len(ids):
                heapq.heappush(self._successors, (ids[after], first[1]))


class _User:
    """One user's lines, by when their first jobs are due."""

    def __init__(self, lines: Ready, shapes: Mapping[Shape, list[Place]]) -> None:
        self._lines = lines
        self._shapes = list(shapes.values())
        self._left = [0] * len(self._shapes)
        # When it is due, the job, which shape, the place of its line in it, the line; and where in the line it is, for
        # one that is looked at again. Jobs differ, so nothing behind them is compared.
        self._queue: list[tuple[float, JobId, int, int, Line, _Cursor | None]] = [
            (*places[0][:2], number, 0, places[0][2], None) for number, places in enumerate(self._shapes)
        ]
        heapq.heapify(self._queue)

    def first(self, closed: Set[Shape]) -> tuple[JobId, Line] | None:
        """The job that is due first, of no shape that is closed."""
        while self._queue:
            _, id, number, _, line, _ = self._queue[0]
            if line.shape not in closed and self._left[number] < DEPTH:
                return id, line
            heapq.heappop(self._queue)
        return None

    def go_on(self, outcome: Outcome) -> None:
        """Say what came of the first."""
        _, _, number, place, line, cursor = heapq.heappop(self._queue)
        if outcome == "cards left":
            for other, those in enumerate(self._shapes):
                if those[0][2].shape.num_gpus >= line.shape.num_gpus:
                    self._left[other] = DEPTH
        if outcome in ("shape left", "cards left"):
            return
        places = self._shapes[number]
        if cursor is None and place + 1 < len(places):
            due, id, following = places[place + 1]
            heapq.heappush(self._queue, (due, id, number, place + 1, following, None))
        if outcome == "line left":
            self._left[number] += 1
            return
        if cursor is None:
            cursor = _Cursor(self._lines, line)
        cursor.advance(taken=outcome == "taken")
        head = cursor.peek()
        if head is not None:
            due = self._lines.due(line, head[0])
            heapq.heappush(self._queue, (due, head[0], number, place, line, cursor))


class Order:
    """The ready jobs of one priority. Ask for the `first`, then say what came of it with `go_on`.

    ``used`` is what every user has used and is expected to use, in card-seconds.
    """

    def __init__(self, lines: Ready, priority: int, used: Mapping[int, float]) -> None:
        self._used = used
        self._closed: set[Shape] = set()
        bands = lines.bands.get(priority, {})
        self._lines, self._bands = lines, bands
        self._open = {shape for shapes in bands.values() for shape in shapes}
        self._met: dict[int, _User] = {}
        self._users = [(used.get(uid, 0.0), uid) for uid in bands]
        heapq.heapify(self._users)

    def first(self) -> tuple[JobId, Line] | None:
        """The job that is next, with its line; None when nothing is left."""
        while self._users and self._open:
            used, uid = self._users[0]
            now = self._used.get(uid, 0.0)
            if now > used:
                heapq.heapreplace(self._users, (now, uid))
                continue
            user = self._met.get(uid)
            if user is None:
                user = self._met[uid] = _User(self._lines, self._bands[uid])
            found = user.first(self._closed)
            if found is not None:
                return found
            heapq.heappop(self._users)
        return None

    def go_on(self, outcome: Outcome) -> None:
        """Say what came of the first."""
        if outcome == "user left":
            heapq.heappop(self._users)
            return
        user = self._met[self._users[0][1]]
        if outcome == "shape left":
            found = user.first(self._closed)
            assert found is not None, "it has just been looked at"
            self._closed.add(found[1].shape)
            self._open.discard(found[1].shape)
        user.go_on(outcome)
