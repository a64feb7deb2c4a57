"""What the NVML process says of how the cards are connected, as a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runnersd.model import Gpu, GpuId, Topology

#: NVML's level of two parts of one card.
_INTERNAL = 0


def topology(said: Mapping[str, Any], gpus: Sequence[Gpu]) -> Topology:
    """How the ``gpus`` are connected. ``said`` is of whole cards; the parts of one are close, and have no links.

    Raises:
        KeyError, TypeError, ValueError: it is of another shape.
    """
    levels = {(one, other): int(level) for one, other, level in said["levels"]}
    levels |= {(other, one): level for (one, other), level in levels.items()}
    links: dict[GpuId, Mapping[str, int]] = dict(said["links"])
    cards = {gpu.pci_bus for gpu in gpus}
    peers = {frozenset(pair) for pair in said["peers"]}

    def linked(one: Gpu, other: Gpu) -> int:
        if one.parent or other.parent or one.uuid == other.uuid:
            return 0
        mine, theirs = links.get(one.uuid, {}), links.get(other.uuid, {})
        direct = mine.get(other.pci_bus, 0)
        switched = sum(min(count, theirs.get(bus, 0)) for bus, count in mine.items() if bus and bus not in cards)
        if direct or switched:
            return direct or switched
        # The driver may say that two are linked, and not where the links lead.
        return min(mine.get("", 0), theirs.get("", 0)) if {one.uuid, other.uuid} in peers else 0

    def level(one: Gpu, other: Gpu) -> int | None:
        whole, another = one.parent or one.uuid, other.parent or other.uuid
        return _INTERNAL if whole == another else levels.get((whole, another))

    gpus = sorted(gpus, key=lambda gpu: (gpu.pci_bus, gpu.uuid))
    return Topology(
        tuple(gpu.uuid for gpu in gpus),
        tuple(tuple(linked(one, other) for other in gpus) for one in gpus),
        tuple(tuple(level(one, other) for other in gpus) for one in gpus),
    )
