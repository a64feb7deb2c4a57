"""What one answer of the NVML process says, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runnersd.machine.nvml.topology import topology
from runnersd.model import Gpu, GpuId, GpuProcess, Topology

#: NVML's return codes that name a card's end, a driver changed under us, and an error without a name (nvml.h).
LOST, RESET_REQUIRED, MISMATCH, UNKNOWN = 15, 16, 18, 999
GONE = frozenset({LOST, RESET_REQUIRED})


@dataclass(frozen=True, slots=True)
class Sight:
    """One look at the cards.

    Either ``absent`` (a sentence: no driver) or ``error`` (a code of NVML itself, ``text`` its name) is set, or the
    rest holds: ``gpus`` that answered, ``failed`` ones with their codes, ``nameless`` codes of cards that do not even
    say their UUID, the ``cards`` present whole or divided, and ``doubtful`` calls that ended in an unknown error.
    ``silent`` are those of ``gpus`` whose processes the driver failed to list. ``topology`` is there if it was asked
    for.
    """

    absent: str | None = None
    error: int | None = None
    text: str = ""
    gpus: tuple[Gpu, ...] = ()
    failed: Mapping[GpuId, tuple[Gpu, int]] = field(default_factory=dict)
    nameless: tuple[int, ...] = ()
    cards: frozenset[GpuId] = frozenset()
    doubtful: frozenset[tuple[GpuId, str]] = frozenset()
    silent: frozenset[GpuId] = frozenset()
    topology: Topology | None = None


def sight(answer: Mapping[str, Any]) -> Sight:
    """The values in an answer of the NVML process.

    Raises:
        ValueError: it is not one.
    """
    try:
        return _sight(answer)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"an answer of another shape: {error!r}") from error


def _sight(answer: Mapping[str, Any]) -> Sight:
    if "absent" in answer:
        return Sight(absent=str(answer["absent"]))
    if "error" in answer:
        return Sight(error=int(answer["error"]), text=str(answer["text"]))
    gpus: list[Gpu] = []
    failed: dict[GpuId, tuple[Gpu, int]] = {}
    cards: set[GpuId] = set()
    doubtful: set[tuple[GpuId, str]] = set()
    silent: set[GpuId] = set()
    for seen in answer["cards"]:
        gpu = _gpu(seen)
        if "error" in seen:
            failed[gpu.uuid] = (gpu, int(seen["error"]))
            continue
        doubtful.update((gpu.uuid, call) for call in seen["doubtful"])
        if gpu.parent is None:
            cards.add(gpu.uuid)
        if seen.get("divided"):
            continue  # its MIG devices are scheduled, not the card
        if seen["processes"] is None:
            silent.add(gpu.uuid)
        gpus.append(gpu)
    return Sight(
        gpus=tuple(gpus),
        failed=failed,
        nameless=tuple(int(seen["error"]) for seen in answer["nameless"]),
        cards=frozenset(cards),
        doubtful=frozenset(doubtful),
        silent=frozenset(silent),
        topology=topology(answer["topology"], gpus) if "topology" in answer else None,
    )


def _gpu(seen: Mapping[str, Any]) -> Gpu:
    return Gpu(
        uuid=seen["uuid"],
        index=-1,  # a place among all the cards: the observer's to give
        name=seen["name"],
        memory_total=seen.get("total"),
        memory_used=seen.get("used"),
        utilization=seen.get("utilization"),
        power=seen.get("power"),
        temperature=seen.get("temperature"),
        compute_capability=seen["capability"],
        pci_bus=seen["pci"],
        parent=seen.get("parent"),
        minor=seen.get("minor"),
        processes=tuple(map(_process, seen.get("processes") or ())),
    )


def _process(seen: Mapping[str, Any]) -> GpuProcess:
    return GpuProcess(
        pid=seen["pid"],
        kind="graphics" if seen["kind"] == "graphics" else "compute",
        memory=seen["memory"],
        name=seen["name"],
        uid=seen["uid"],
        ancestors=tuple(seen["ancestors"]),
        run=str(seen["run"]),
    )
