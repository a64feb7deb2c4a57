"""Writes and reads the group of one attempt (`runnersd.telemetry.layout`). It needs zarr: only the child imports it.

Rows are written a chunk at a time. The last chunk is written again, whole, until it is full, so a day of samples is
some hundred files and not 86,400. A kill between two files of it leaves rows in some arrays that others lack; `rows`
does not count them yet, and the next write puts its own in their place.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import ZstdCodec

from runnersd.telemetry.layout import AT, OF_CARDS, OF_PROCESS, SAMPLES, VERSION, Attempt, Quantity
from runnersd.telemetry.storage import Folder

#: Rows of a chunk: a quarter of an hour of seconds. A week is 672 chunks of each of the seven arrays, and what is
#: written again at each flush stays below 60 kB an array, for eight cards.
CHUNK = 900
#: So many rows wait for a disk that takes none; then the oldest of them are lost.
MOST_WAITING = CHUNK
#: Seconds that the end of an attempt waits for an earlier daemon's process, which writes what it has and ends.
PATIENCE = 5.0

Column = npt.NDArray[np.floating[Any]]
#: One number, or one for each card.
Value = float | Sequence[float]
#: `at`, and each other quantity's value; of a quantity that is not in it nothing is known.
Row = Mapping[str, Value]


class Busy(Exception):
    """Another process writes this group: an earlier daemon's, which has not ended yet."""


@dataclass(frozen=True, slots=True)
class Card:
    """A card as the attempt had it; what is not known is None."""

    uuid: str
    index: int | None = None
    name: str = ""
    memory_total: int | None = None

    def attributes(self) -> dict[str, Any]:
        """As JSON."""
        return {"uuid": self.uuid, "index": self.index, "name": self.name, "memory_total": self.memory_total}


class Writer:
    """Keeps the rows of one attempt, and writes them to its group when told to."""

    def __init__(self, root: Path, attempt: Attempt, every: float, started_at: float, cards: Sequence[Card]) -> None:
        self.attempt = attempt
        self.cards = tuple(cards)
        self._path = attempt.path(root)
        self._about = {"job": attempt.job, "attempt": attempt.number, "every": every, "started_at": started_at}
        self._waiting: list[Row] = []
        self._lock: int | None = None
        self._group: zarr.Group | None = None
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._rows = 0
        self._chunk: dict[str, Column] = {}
        self._told: dict[str, Any] = {}

    def claim(self) -> None:
        """Keep the group for this process, if it can be had now; else the first flush does."""
        if self._lock is None:
            with contextlib.suppress(Busy, OSError):
                self._lock = lock(self._path)

    def add(self, row: Row) -> None:
        """Take one row."""
        if len(self._waiting) >= MOST_WAITING:
            del self._waiting[0]
        self._waiting.append(row)

    @property
    def waiting(self) -> int:
        """How many rows are to be written."""
        return len(self._waiting)

    def flush(self) -> None:
        """Write what there is.

        Raises:
            Busy: another process has the group. Everything else too can be tried again.
            OSError: the disk does not take it.
            ValueError: there is a group already that is none of ours.
        """
        if not self._waiting:
            return
        self._open()
        while self._waiting:
            begin = self._rows % CHUNK
            batch = self._waiting[: CHUNK - begin]
            self._fill(begin, batch)
            self._write(self._rows - begin)
            self._commit(self._rows + len(batch), cast(float, batch[-1]["at"]))
            del self._waiting[: len(batch)]

    def close(self, *, ended: bool = False, fewest: int = 0) -> None:
        """Write what there is, cut the arrays to it, and let go of the group.

        ``ended``: the attempt is over. One that never had ``fewest`` rows gets no group.

        Raises:
            as `flush`; the group is let go of all the same.
        """
        try:
            if ended and len(self._waiting) < fewest and not (self._path / "zarr.json").exists():
                with contextlib.suppress(OSError):
                    self._path.rmdir()  # made for its lock
                return
            if self._waiting and self._lock is None:
                self._lock = lock(self._path, patience=PATIENCE)
            self.flush()
            if self._group is not None:
                for array in self._arrays.values():
                    array.resize((self._rows, *array.shape[1:]))
                if ended:
                    self._tell({"ended": True})
        finally:
            self._group = None
            self._arrays = {}
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    # -- the group ---------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        if self._group is not None:
            return
        self._lock = self._lock if self._lock is not None else lock(self._path)
        store = Folder(self._path)
        whole = zarr.open_group(store, mode="a", zarr_format=3)
        self._told = dict(whole.attrs)
        if not self._told:
            self._tell_first(whole)
        elif self._told.get("version") != VERSION or self._told.get("held_in") != SAMPLES:
            raise ValueError("there is a series already that cannot be gone on with")
        self._rows = int(self._told["rows"])
        uuids = [card["uuid"] for card in self._told["cards"]]
        if uuids != [card.uuid for card in self.cards]:
            raise ValueError("there is a series already, of other cards")
        group = whole.require_group(SAMPLES)
        self._arrays = {one.name: self._array(group, one) for one in quantities(len(self.cards))}
        self._group = whole
        self._load()

    def _tell_first(self, whole: zarr.Group) -> None:
        cards = [card.attributes() for card in self.cards]
        about = {"version": VERSION, **self._about, "cards": cards, "held_in": SAMPLES, "rows": 0, "until": None}
        whole.update_attributes({**about, "ended": False})
        self._told = dict(whole.attrs)

    def _array(self, group: zarr.Group, quantity: Quantity) -> zarr.Array[Any]:
        if quantity.name in group:
            return cast("zarr.Array[Any]", group[quantity.name])
        return make(group, quantity, CHUNK, (len(self.cards),) if quantity in OF_CARDS else ())

    def _load(self) -> None:
        """Take up the last chunk where it is not full."""
        begin = self._rows % CHUNK
        for one in quantities(len(self.cards)):
            array = self._arrays[one.name]
            chunk = np.full((CHUNK, *array.shape[1:]), np.nan, one.kind)
            if begin:
                chunk[:begin] = array[self._rows - begin : self._rows]
            self._chunk[one.name] = chunk

    def _fill(self, begin: int, batch: Sequence[Row]) -> None:
        for name, chunk in self._chunk.items():
            chunk[begin:] = np.nan
            for place, row in enumerate(batch, begin):
                chunk[place] = row.get(name, np.nan)

    def _write(self, start: int) -> None:
        end = start + CHUNK
        for name, array in self._arrays.items():
            if array.shape[0] < end:
                array.resize((end, *array.shape[1:]))
            array[start:end] = self._chunk[name]

    def _commit(self, rows: int, until: float) -> None:
        self._tell({"rows": rows, "until": until, "cards": [card.attributes() for card in self.cards], "ended": False})
        self._rows = rows

    def _tell(self, news: Mapping[str, Any]) -> None:
        assert self._group is not None, "nothing is told of a group that is not open"
        self._group.update_attributes(dict(news))


def lock(path: Path, *, make: bool = True, patience: float = 0.0) -> int:
    """Keep other processes from writing a group; until the descriptor is closed. ``patience``: seconds to wait for one.

    Raises:
        Busy: one does.
        FileNotFoundError: there is none, and none is to be made.
        OSError: it cannot be opened.
    """
    if make:
        path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(descriptor)
                raise Busy from None
            time.sleep(0.05)


def quantities(cards: int) -> tuple[Quantity, ...]:
    """What is kept of an attempt with so many cards."""
    return (AT, *(OF_CARDS if cards else ()), *OF_PROCESS)


def make(
    group: zarr.Group, quantity: Quantity, rows: int, width: tuple[int, ...], chunk: int = CHUNK
) -> zarr.Array[Any]:
    """An array for a quantity, with nothing known yet. ``width``: what each row is beside long; ``chunk``: in rows."""
    return group.create_array(
        quantity.name,
        shape=(rows, *width),
        chunks=(chunk, *width),
        dtype=quantity.kind,
        fill_value=float("nan"),
        compressors=[ZstdCodec(level=1)],
        dimension_names=("time", "card") if width else ("time",),
        attributes={"unit": quantity.unit},
        overwrite=True,
    )
