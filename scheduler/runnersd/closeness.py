"""How close cards are to each other, by what connects them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from runnersd.model import GpuId, Topology

#: Where the ways of two cards meet on the bus, as NVML numbers it: what `nvidia-smi topo` calls that, how close it is.
_LEVELS = {
    0: ("SAME", 22),
    10: ("PIX", 20),
    20: ("PXB", 18),
    30: ("PHB", 14),
    40: ("NODE", 12),
    50: ("SYS", 10),
}
#: How close each NVLink brings two cards, on top of the closest on the bus: a link moves about what the bus does.
_LINK = 25

#: For each card, how close each other one is. Higher is closer; 0 is not known.
Closeness = Mapping[GpuId, Mapping[GpuId, int]]


@lru_cache(maxsize=8)
def closeness(topology: Topology) -> Closeness:
    """How close the cards are to each other."""
    return {
        card: {
            other: _score(topology.links[row][column], topology.levels[row][column])
            for column, other in enumerate(topology.cards)
            if column != row
        }
        for row, card in enumerate(topology.cards)
    }


@lru_cache(maxsize=8)
def neighbours(topology: Topology) -> Mapping[GpuId, tuple[str, tuple[GpuId, ...]]]:
    """For each card, what connects it with those that are closest to it, and which these are: `NV12` is 12 NVLinks.

    A card of which nothing is known has no entry.
    """
    found = {}
    scores = closeness(topology)
    for row, card in enumerate(topology.cards):
        best = max(scores[card].values(), default=0)
        if best > 0:
            nearest = tuple(other for other in topology.cards if scores[card].get(other) == best)
            column = topology.cards.index(nearest[0])
            found[card] = (_connection(topology.links[row][column], topology.levels[row][column]), nearest)
    return found


def _connection(links: int, level: int | None) -> str:
    """What connects two cards, in the words of `nvidia-smi topo`."""
    if links:
        return f"NV{links}"
    return _LEVELS[level][0] if level in _LEVELS else "?"


def _score(links: int, level: int | None) -> int:
    if links:
        return _LEVELS[0][1] + links * _LINK
    return _LEVELS[level][1] if level in _LEVELS else 0
