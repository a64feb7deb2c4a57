"""Can every job of a pipeline have its turn? Needs must name something, and nothing may wait for itself. Pure.

Jobs, names that stand for several jobs, "every job above" and barriers are all nodes of one graph, so that its size is
that of the file, not the square of it. The order is Kahn's ("Topological sorting of large networks", 1962).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from runners.pipeline.checking import Check, shown
from runners.spec import Barrier, Need, groups

_MAX_CIRCLES = 20  #: reported at once


def check_order(
    names: Sequence[str],
    items: Sequence[str],
    needs: Sequence[Sequence[Need]],
    barriers: Sequence[Barrier],
    check: Check,
    missing: Sequence[str] = (),
) -> None:
    """Tell ``check`` of every need that names nothing, and of circles of jobs that wait for one another.

    Needs on names that are ``missing``, or below them, are passed over; an empty name there means any.
    """
    known = groups(names, items)
    clean = True
    for position, wanted in enumerate(needs):
        for place, need in enumerate(wanted):
            if need.job == "all" or need.job in known:
                continue
            if any(not name or need.job == name or need.job.startswith((f"{name}.", f"{name}[")) for name in missing):
                known[need.job] = []
                continue
            clean = False
            near = check.nearest(need.job, known)
            hint = f"; did you mean `{near}`?" if near else "; name a job of this pipeline, or `all`"
            check.wrong(("jobs", position, "needs", place), f"no job is named {shown(need.job)}{hint}")
    if clean:
        graph = _Graph(names, known, needs, barriers)
        for circle in graph.circles():
            position, place, sentence = graph.describe(circle)
            check.wrong(("jobs", position, "needs", place), sentence)


class _Graph:
    """Who waits for whom. Nodes 0 to n-1 are the jobs; those after them stand for several."""

    def __init__(
        self,
        names: Sequence[str],
        known: dict[str, list[int]],
        needs: Sequence[Sequence[Need]],
        barriers: Sequence[Barrier],
    ) -> None:
        self.names = names
        self.waits: list[list[int]] = [[] for _ in names]
        self.gates: set[int] = set()
        above = self._everything_above(needs)
        named: dict[str, int] = {}
        for position, wanted in enumerate(needs):
            for need in wanted:
                if need.job == "all":
                    self.waits[position].append(above[position])
                elif len(known[need.job]) == 1:
                    self.waits[position].append(known[need.job][0])
                else:
                    if need.job not in named:
                        named[need.job] = self._node(known[need.job])
                    self.waits[position].append(named[need.job])
        self._barriers(barriers)

    def _node(self, waits: list[int]) -> int:
        self.waits.append(waits)
        return len(self.waits) - 1

    def _everything_above(self, needs: Sequence[Sequence[Need]]) -> list[int]:
        """For each job a node that waits for all jobs above it; none at all when no job asks for `all`."""
        if not any(need.job == "all" for wanted in needs for need in wanted):
            return []
        nodes = [self._node([])]
        for position in range(1, len(self.names)):
            nodes.append(self._node([nodes[-1], position - 1]))
        return nodes

    def _barriers(self, barriers: Sequence[Barrier]) -> None:
        """Each job below a barrier waits for its gate, and each gate for the gate above it."""
        gate: int | None = None
        queue = sorted(barriers, key=lambda barrier: barrier.last, reverse=True)
        for position in range(len(self.names)):
            while queue and queue[-1].last < position:
                barrier = queue.pop()
                waits = list(range(barrier.first, barrier.last + 1))
                gate = self._node(waits if gate is None else [gate, *waits])
                self.gates.add(gate)
            if gate is not None:
                self.waits[position].append(gate)

    def circles(self) -> list[list[int]]:
        """Circles that share no node, each as the nodes along it; every one that is left blocks some job for ever."""
        followers: list[list[int]] = [[] for _ in self.waits]
        unmet = [len(waits) for waits in self.waits]
        for node, waits in enumerate(self.waits):
            for other in waits:
                followers[other].append(node)
        done = [False] * len(self.waits)
        ready = [node for node, count in enumerate(unmet) if not count]
        found: list[list[int]] = []
        start = 0
        while True:
            while ready:
                node = ready.pop()
                if done[node]:
                    continue
                done[node] = True
                for follower in followers[node]:
                    unmet[follower] -= 1
                    if not unmet[follower]:
                        ready.append(follower)
            while start < len(done) and done[start]:
                start += 1
            if start == len(done) or len(found) == _MAX_CIRCLES:
                return found
            found.append(self._circle(start, done))
            ready = list(found[-1])

    def _circle(self, node: int, done: list[bool]) -> list[int]:
        """Follow what is still waited for until a node comes up again."""
        seen: dict[int, int] = {}
        walk: list[int] = []
        while node not in seen:
            seen[node] = len(walk)
            walk.append(node)
            node = next(other for other in self.waits[node] if not done[other])
        return walk[seen[node] :]

    def describe(self, circle: list[int]) -> tuple[int, int, str]:
        """The position of a job in the circle that needs another, which of its needs that is, and a sentence."""
        count = len(self.names)
        first = next(place for place, node in enumerate(circle) if node < count and self._by_need(circle, place))
        turned = [*circle[first:], *circle[:first]]
        need = self.waits[turned[0]].index(turned[1 % len(turned)])  # a job's needs come first in what it waits for
        jobs = [place for place, node in enumerate(turned) if node < count]
        if len(jobs) == 1:
            return turned[0], need, f"{shown(self.names[turned[0]])} needs itself"
        clauses = []
        for here, there in pairwise([*jobs, len(turned)]):
            name, other = shown(self.names[turned[here]]), shown(self.names[turned[there % len(turned)]])
            verb = "needs" if self._by_need(turned, here) else "is below blocking"
            clauses.append(f"{name} {verb} {other}")
        if len(clauses) > 8:
            clauses[4:-3] = ["..."]
        return turned[0], need, f"a circle, so none of these could ever start: {', '.join(clauses)}"

    def _by_need(self, circle: list[int], place: int) -> bool:
        """Whether the job at this place waits for the next one by a need, not by standing below a barrier."""
        return circle[(place + 1) % len(circle)] not in self.gates
