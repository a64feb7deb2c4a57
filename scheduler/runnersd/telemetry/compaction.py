"""Makes an old series small: means of minutes in place of samples, and the peaks that a mean hides. It needs zarr.

The minutes are written beside the samples, down to the disk; then one file is replaced, `zarr.json` of the whole, which
says where the rows are; then the samples go. Whatever is killed when, that file names one of the two, and it is whole.
What is left over is taken away the next time.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from runnersd.telemetry.layout import AT, MINUTES, SAMPLES, VERSION, Attempt, Quantity
from runnersd.telemetry.reading import load, means
from runnersd.telemetry.series import Busy, Column, lock, make, quantities
from runnersd.telemetry.storage import Folder, replace, sync_folders

#: Seconds that one row stands for.
MINUTE = 60.0
#: At most so many rows in a chunk: a week and more.
CHUNK = 16384
#: What an array of peaks is called after its quantity's name, and the quantities whose peaks somebody will miss.
PEAK = "_peak"
PEAKED = frozenset({"memory_used", "power", "process_memory"})


def compact(root: Path, attempt: Attempt, before: float) -> bool:
    """Make a series small if its last row is older than ``before`` (Unix seconds). Whether it was done now.

    Raises:
        Unreadable: it is broken.
        OSError: the disk does not take it.
    """
    path = attempt.path(root)
    try:
        held = lock(path, make=False)
    except (Busy, FileNotFoundError):
        return False
    try:
        series = load(root, attempt)
        if series is None:
            return False
        about = series.about
        if about["held_in"] == MINUTES:
            shutil.rmtree(path / SAMPLES, ignore_errors=True)
            return False
        if about["until"] is None or about["until"] >= before:
            return False
        shutil.rmtree(path / MINUTES, ignore_errors=True)
        columns = minutes(series.columns)
        _write(path, columns, len(about["cards"]))
        sync_folders(path / MINUTES)
        _commit(path, about, len(columns[AT.name]))
        shutil.rmtree(path / SAMPLES, ignore_errors=True)
        return True
    finally:
        os.close(held)


def minutes(columns: dict[str, Column]) -> dict[str, Column]:
    """Means of whole minutes of the clock, with the middle of the minute as their time, and beside each its peak."""
    timed = np.isfinite(columns[AT.name])
    minute = np.floor(columns[AT.name][timed] / MINUTE).astype(np.int64)
    used, place = np.unique(minute, return_inverse=True)
    found: dict[str, Column] = {AT.name: (used + 0.5) * MINUTE}
    for name, column in columns.items():
        if name != AT.name:
            found[name] = means(column[timed], place, len(used))
            if name in PEAKED:
                found[name + PEAK] = _peaks(column[timed], place, len(used))
    return found


def _peaks(column: Column, place: np.ndarray[Any, np.dtype[np.int64]], spans: int) -> Column:
    found = np.full((spans, *column.shape[1:]), -np.inf)
    np.fmax.at(found, place, column)
    found[np.isinf(found)] = np.nan
    return found


def _write(path: Path, columns: dict[str, Column], cards: int) -> None:
    rows = len(columns[AT.name])
    group = zarr.open_group(Folder(path, durable=True), mode="r+").create_group(MINUTES)
    for one in quantities(cards):
        for name in (one.name, one.name + PEAK):
            if name in columns:
                of = Quantity(name, one.kind, one.unit)
                width = columns[name].shape[1:]
                array = make(group, of, rows, width, chunk=min(max(rows, 1), CHUNK))
                array[:] = columns[name].astype(one.kind)


def _commit(path: Path, about: dict[str, Any], rows: int) -> None:
    told = {
        **about,
        "version": VERSION,
        "held_in": MINUTES,
        "rows": rows,
        "every": MINUTE,
        "measured_every": about["every"],
    }
    whole = {"attributes": told, "zarr_format": 3, "node_type": "group"}
    replace(path / "zarr.json", json.dumps(whole, indent=2).encode(), durable=True)
    sync_folders(path)
