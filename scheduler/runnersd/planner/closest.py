"""Which of the cards that fit a job gets: some that are close to each other, so that those that stay free are too."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import combinations
from typing import NamedTuple

from runnersd.closeness import Closeness
from runnersd.model import GpuId

#: Among so many cards the best set is looked for among all; among more, one card after another is added.
EXACT = 16
#: So many steps of that search are taken at most: then the best set so far is it. (About 30 ms.)
STEPS = 5_000


class Candidate(NamedTuple):
    """A card that fits. ``kind`` tells models apart; ``size`` is what is wasted on a job that needs less, and 0 where
    that does not matter; the lower ``way``, the less it is in the way of others there."""

    uuid: GpuId
    kind: object
    size: int
    way: float


#: How good a set is, to be compared: of few kinds, small, the farthest pair close, all pairs close, far from the cards
#: that stay free, not in the way.
_Value = tuple[int, int, int, int, int, int]


def closest(
    candidates: Sequence[Candidate], count: int, near: Closeness, free: Collection[GpuId], own: int = 0
) -> list[Candidate]:
    """The best ``count`` of the candidates, of which there are enough, in their order. The first ``own`` go first.

    ``free`` are all cards that nobody has; the candidates are among them. Of sets that are equally good it is the one
    with the first candidates.
    """
    if count <= own:
        candidates, own = candidates[:own], 0
    if not near and all(one[1:3] == candidates[0][1:3] for one in candidates):
        rest = sorted(range(own, len(candidates)), key=lambda place: (candidates[place].way, place))
        return [candidates[place] for place in sorted([*range(own), *rest[: count - own]])]
    search = _Search(candidates, count, near, free, own)
    return [candidates[place] for place in sorted(search.best())]


class _Search:
    def __init__(
        self, candidates: Sequence[Candidate], count: int, near: Closeness, free: Collection[GpuId], own: int
    ) -> None:
        self._count, self._own = count, own
        number = len(candidates)
        ways = {way: rank for rank, way in enumerate(sorted({one.way for one in candidates}))}
        # Those that are least in the way come first: of equals they are found first.
        self._order = [*range(own), *sorted(range(own, number), key=lambda place: (candidates[place].way, place))]
        ordered = [candidates[place] for place in self._order]
        kinds = {kind: place for place, kind in enumerate(dict.fromkeys(one.kind for one in ordered))}
        self._kinds = [kinds[one.kind] for one in ordered]
        self._sizes = [one.size for one in ordered]
        self._ranks = [ways[one.way] for one in ordered]
        rows = [near.get(one.uuid, {}) for one in ordered]
        self._near = [[row.get(one.uuid, 0) for one in ordered] for row in rows]
        self._ties = [sum(row.get(uuid, 0) for uuid in free) for row in rows]
        pairs = {self._near[one][other] for one, other in combinations(range(number), 2)}
        self._closest_pair = max(pairs, default=0)
        self._alike = len(kinds) == 1 and len(set(self._sizes)) == 1 and len(pairs) < 2 and len(set(self._ties)) == 1
        self._found: list[int] = []
        self._value: _Value | None = None
        self._steps = 0

    def best(self) -> list[int]:
        """The places of the best set among the candidates."""
        number = len(self._order)
        if self._alike or number == self._count:
            return self._order[: self._count]
        for start in range(self._own, number):
            self._offer(self._grown(start))
        if number <= EXACT:
            self._classes = self._alike_ones()
            self._extend(self._own, list(range(self._own)))
        return [self._order[place] for place in self._found]

    def _grown(self, start: int) -> list[int]:
        """A set made by adding to some card, one after another, the one that is best."""
        chosen = [*range(self._own), start]
        while len(chosen) < self._count:
            rest = [place for place in range(self._own, len(self._order)) if place not in chosen]
            chosen.append(max(rest, key=lambda place: (self._worth([*chosen, place]), -place)))
        return sorted(chosen)

    def _offer(self, chosen: list[int]) -> None:
        value = self._worth(chosen)
        if self._value is None or value > self._value or (value == self._value and chosen < self._found):
            self._value, self._found = value, chosen

    def _worth(self, chosen: Sequence[int], more: int = 0) -> _Value:
        """How good a set is; with ``more`` cards to come, how good it can become at most."""
        near = self._near
        inner = [near[one][other] for one, other in combinations(chosen, 2)]
        pairs = more * len(chosen) + more * (more - 1) // 2
        low = min(inner, default=self._closest_pair)
        total = sum(inner) + pairs * self._closest_pair
        ties = sum(self._ties[place] for place in chosen)
        size = sum(self._sizes[place] for place in chosen)
        ranks = sum(self._ranks[place] for place in chosen)
        if more:
            size += more * min(self._sizes)
            ties += more * min(self._ties)
        return (-len({self._kinds[place] for place in chosen}), -size, low, total, 2 * total - ties, -ranks)

    def _extend(self, start: int, chosen: list[int]) -> None:
        """Try every set that begins with the ``chosen`` and goes on with places from ``start`` on."""
        missing = self._count - len(chosen)
        if not missing:
            self._offer(chosen)
            return
        tried: set[int] = set()
        for place in range(start, len(self._order) - missing + 1):
            if self._classes[place] in tried:
                continue  # one just like it has been tried here
            tried.add(self._classes[place])
            self._steps += 1
            if self._steps > STEPS:
                return
            longer = [*chosen, place]
            if self._value is None or self._worth(longer, missing - 1) > self._value:
                self._extend(place + 1, longer)

    def _alike_ones(self) -> list[int]:
        """For each card the first that could stand in its place without any difference."""
        near, number = self._near, len(self._order)

        def same(one: int, other: int) -> bool:
            return (
                self._kinds[one] == self._kinds[other]
                and self._sizes[one] == self._sizes[other]
                and self._ranks[one] == self._ranks[other]
                and self._ties[one] == self._ties[other]
                and all(near[one][x] == near[other][x] for x in range(number) if x not in (one, other))
            )

        classes: list[int] = []
        for place in range(number):
            classes.append(next((first for first in sorted(set(classes)) if same(first, place)), place))
        return classes
