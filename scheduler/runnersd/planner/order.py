"""Who is looked at next among the ready jobs of a priority: the user who has had least, and theirs that is due first.

What somebody is going to use counts as soon as it starts. So when many cards are free at once, they do not all go to
the one who has had least so far.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Mapping
from typing import Literal

from runnersd.lines import Line, Shape
from runnersd.model import JobId, PipelineId
from runnersd.ready import Ready

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

    def __init__(self, lines: Ready, shapes: Mapping[Shape, list[tuple[float, JobId, Line]]]) -> None:
        self._lines = lines
        self._shapes = list(shapes.items())
        self._left = [0] * len(self._shapes)
        # When it is due, the job, which shape; the place of its line in it, or -1 for one that is looked at again.
        self._queue: list[tuple[float, JobId, int, int, _Cursor]] = []
        for number in range(len(self._shapes)):
            self._push(number, 0)

    def first(self, closed: set[Shape]) -> tuple[JobId, Line] | None:
        """The job that is due first, of no shape that is closed."""
        while self._queue:
            _, id, number, _, cursor = self._queue[0]
            if self._shapes[number][0] not in closed and self._left[number] < DEPTH:
                return id, cursor.line
            heapq.heappop(self._queue)
        return None

    def go_on(self, outcome: Outcome) -> None:
        """Say what came of the first."""
        _, _, number, place, cursor = heapq.heappop(self._queue)
        if outcome == "cards left":
            least = self._shapes[number][0].num_gpus
            for other, (shape, _) in enumerate(self._shapes):
                if shape.num_gpus >= least:
                    self._left[other] = DEPTH
        if outcome in ("shape left", "cards left"):
            return
        if place >= 0:
            self._push(number, place + 1)
        if outcome == "line left":
            self._left[number] += 1
            return
        cursor.advance(taken=outcome == "taken")
        following = cursor.peek()
        if following is not None:
            due = self._lines.due(cursor.line, following[0])
            heapq.heappush(self._queue, (due, following[0], number, -1, cursor))

    def _push(self, number: int, place: int) -> None:
        places = self._shapes[number][1]
        if place < len(places):
            due, id, line = places[place]
            heapq.heappush(self._queue, (due, id, number, place, _Cursor(self._lines, line)))


class Order:
    """The ready jobs of one priority. Ask for the `first`, then say what came of it with `go_on`.

    ``used`` is what every user has used and is expected to use, in card-seconds.
    """

    def __init__(self, lines: Ready, priority: int, used: Mapping[int, float]) -> None:
        self._used = used
        self._closed: set[Shape] = set()
        users = lines.bands.get(priority, {})
        self._users = [(used.get(uid, 0.0), uid, _User(lines, shapes)) for uid, shapes in users.items()]
        heapq.heapify(self._users)

    def first(self) -> tuple[JobId, Line] | None:
        """The job that is next, with its line; None when nothing is left."""
        while self._users:
            used, uid, user = self._users[0]
            now = self._used.get(uid, 0.0)
            if now > used:
                heapq.heapreplace(self._users, (now, uid, user))
                continue
            found = user.first(self._closed)
            if found is not None:
                return found
            heapq.heappop(self._users)
        return None

    def go_on(self, outcome: Outcome) -> None:
        """Say what came of the first."""
        _, _, user = self._users[0]
        if outcome == "user left":
            heapq.heappop(self._users)
            return
        if outcome == "shape left":
            found = user.first(self._closed)
            assert found is not None, "it has just been looked at"
            self._closed.add(found[1].shape)
        user.go_on(outcome)
