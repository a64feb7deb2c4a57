"""Rows j and k: reading a cache in batches, beside zarr by hand on the same files."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable

import numpy as np
import zarr

from benchmarks.table import Row
from runners.cache import Items, open_cache, write_items

ITEMS, BATCH = 1000, 64
_SHAPE = (64, 64)


def reading(rounds: int = 5) -> list[Row]:
    """Items of 16 KiB, 64 at a time: in their order, and shuffled."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        group = open_cache("bench", {}, _build, directory=folder)
        items = Items(group)
        array = group["x"]
        assert isinstance(array, zarr.Array)

        def in_order() -> Iterable[object]:
            return (array[start : start + BATCH] for start in range(0, ITEMS, BATCH))

        def shuffled() -> Iterable[object]:
            order = np.random.default_rng(1).permutation(ITEMS)
            return (array.oindex[order[start : start + BATCH]] for start in range(0, ITEMS, BATCH))

        rows = [
            _row("j", "a cache's batches of 64, in order", lambda: items.batches(BATCH), in_order, rounds, ">= 0.9"),
            _row("k", "the same, shuffled", lambda: items.batches(BATCH, shuffle=True), shuffled, rounds, ">= 0.9"),
        ]
        group.store.close()
    return rows


def _build(group: zarr.Group) -> None:
    chance = np.random.default_rng(0)
    write_items(group, ({"x": chance.random(_SHAPE, np.float32)} for _ in range(ITEMS)), title="")


def _row(
    key: str, what: str, ours: Callable[[], Iterable[object]], by_hand: Callable[[], Iterable[object]], rounds: int, wanted: str
) -> Row:  # fmt: skip
    speeds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for read, times in zip((ours, by_hand), speeds, strict=True):
            start = time.perf_counter()
            for _batch in read():
                pass
            times.append(ITEMS / (time.perf_counter() - start))
    mine, floor = map(statistics.median, speeds)
    return Row(key, what, f"{mine:.0f} items/s", f"{floor:.0f} items/s zarr by hand", f"{mine / floor:.2f}", wanted)
