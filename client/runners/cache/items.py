"""Items: a cache as a row of things alike, written in batches and read one by one or in batches, in any process.

An item is a mapping of names to arrays and numbers. Each name is one array of the group, whose first axis counts the
items; a chunk on the disk holds a few of them.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import zarr

from runners.errors import InvalidRequest

from .layout import CacheError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .progress import Progress

#: A chunk is made about so large, in bytes before compression, where the caller does not say.
_CHUNK = 1 << 18


def write_items(
    group: zarr.Group,
    items: Iterable[Mapping[str, Any]],
    *,
    batch: int = 64,
    chunk: int | None = None,
    total: int | None = None,
    title: str | None = None,
) -> int:
    """Write items into a group that is being built, many at once, and show how far it is on standard error.

    >>> group = zarr.create_group({})
    >>> write_items(group, ({"x": [n, n + 1], "label": n % 2} for n in range(5)), title="")
    5
    >>> Items(group)[3]["x"]
    array([3, 4])

    Args:
        group: The group; it has no items yet.
        items: Mappings of names to arrays and numbers. All have the same names, shapes and kinds.
        batch: How many are kept in memory and written at once.
        chunk: How many lie in one chunk of each array; unless given, about 256 KiB of them, and at most a
            batch. Whoever reads one item reads its chunk: fewer make shuffled reading faster, and more files.
        total: How many there will be, for the bar; the length of ``items`` where it has one.
        title: What the bar is called; empty for none.

    Returns:
        How many there were.

    Raises:
        InvalidRequest: an item is not like the first, or not of arrays and numbers; says which and how.
    """
    if batch < 1 or (chunk is not None and chunk < 1):
        raise InvalidRequest("cannot write items: a batch and a chunk hold at least one")
    if "items" in group.attrs:
        raise InvalidRequest(f"cannot write items into {group.name}: it has {group.attrs['items']} already")
    if total is None and isinstance(items, Sized):
        total = len(items)
    progress = _progress(title, group, total)
    writer = _Writer(group, batch, chunk)
    for item in items:
        writer.add(item)
        if progress:
            progress.at(writer.count)
    writer.flush()
    group.attrs["items"] = writer.count
    if progress:
        progress.end()
    return writer.count


def _progress(title: str | None, group: zarr.Group, total: int | None) -> Progress | None:
    if title == "":
        return None
    from .progress import Progress

    return Progress(title or group.name.strip("/") or "items", total, sys.stderr)


class _Writer:
    """Gathers items into batches, and writes each at the end of the arrays."""

    def __init__(self, group: zarr.Group, batch: int, chunk: int | None) -> None:
        self.group, self.batch, self.chunk = group, batch, chunk
        self.count = self.written = 0
        self.buffers: dict[str, NDArray[Any]] = {}
        self.arrays: dict[str, zarr.Array[Any]] = {}

    def add(self, item: Mapping[str, Any]) -> None:
        values = {name: np.asarray(value) for name, value in item.items()}
        if not self.count:
            self._begin(values)
        self._check(values)
        place = self.count - self.written
        for name, value in values.items():
            self.buffers[name][place] = value
        self.count += 1
        if place + 1 == self.batch:
            self.flush()

    def flush(self) -> None:
        waiting = self.count - self.written
        if not waiting:
            return
        for name, array in self.arrays.items():
            array.resize((self.count, *array.shape[1:]))
            array[self.written : self.count] = self.buffers[name][:waiting]
        self.written = self.count

    def _begin(self, values: Mapping[str, NDArray[Any]]) -> None:
        if not values:
            raise InvalidRequest("cannot write items: the first one is empty")
        for name, value in values.items():
            if value.dtype.kind not in "biufc":
                raise InvalidRequest(
                    f"cannot write items: {name!r} is {value.dtype}, and items are arrays and numbers; keep other "
                    "things in the attributes of the group"
                )
            if "/" in name or not name or name.startswith("."):
                raise InvalidRequest(f"cannot write items: {name!r} cannot name an array")
        chunks = {
            name: self.chunk or max(1, min(self.batch, _CHUNK // max(1, value.nbytes)))
            for name, value in values.items()
        }
        # A batch fills whole chunks, so that none is written twice.
        largest = max(chunks.values())
        self.batch = -(-self.batch // largest) * largest
        for name, value in values.items():
            while self.batch % chunks[name]:
                chunks[name] -= 1
            self.buffers[name] = np.empty((self.batch, *value.shape), value.dtype)
            self.arrays[name] = self.group.create_array(
                name,
                shape=(0, *value.shape),
                dtype=value.dtype,
                chunks=(chunks[name], *(max(1, length) for length in value.shape)),
            )

    def _check(self, values: Mapping[str, NDArray[Any]]) -> None:
        if values.keys() != self.buffers.keys():
            raise InvalidRequest(
                f"cannot write item {self.count}: it has {sorted(values)}, and those before it {sorted(self.buffers)}"
            )
        for name, value in values.items():
            wanted = self.buffers[name]
            if value.shape != wanted.shape[1:]:
                raise InvalidRequest(
                    f"cannot write item {self.count}: {name!r} has the shape {value.shape}, and those before it "
                    f"{wanted.shape[1:]}; cut or fill up what is not of one length"
                )
            if not np.can_cast(value.dtype, wanted.dtype, "same_kind"):
                raise InvalidRequest(
                    f"cannot write item {self.count}: {name!r} is {value.dtype}, and those before it {wanted.dtype}"
                )


class Items(Sequence[dict[str, Any]]):
    """The items of a group, to be read: a sequence, and a data set as PyTorch's loaders take it.

    It may be pickled and used after a fork: a loader's worker opens the cache for itself, with a lease of its own.

    Args:
        group: What :func:`runners.cache.open_cache` gave, or a group in it.
        names: Only these arrays; all of them unless given.

    Raises:
        CacheError: no items were written into the group, or none of such a name.
    """

    def __init__(self, group: zarr.Group, names: Sequence[str] | None = None) -> None:
        self._group = group
        self._process = os.getpid()
        count = group.attrs.get("items")
        if not isinstance(count, int):
            parts = ", ".join(sorted(group.group_keys()))
            raise CacheError(
                f"cannot read items of {group.name}: none were written into it"
                + (f"; it has the groups {parts}" if parts else "")
            )
        self._count = count
        there = sorted(group.array_keys())
        missing = sorted(set(names or ()) - set(there))
        if missing:
            raise CacheError(f"cannot read {missing[0]!r} of {group.name}: its items have {', '.join(there)}")
        self.names = tuple(names or there)  #: what each item has
        self._arrays = self._open()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        """One item, or with a slice a list of them: a mapping of names to arrays and NumPy's numbers."""
        if isinstance(index, slice):
            return self.__getitems__(range(self._count)[index])
        place = range(self._count)[index]
        return {name: cast("Any", array[place])[()] for name, array in self._here().items()}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Several items, in the order asked for; each chunk is read once. PyTorch's loaders ask for a batch so."""
        stacked = self.take(indices)
        return [{name: values[place] for name, values in stacked.items()} for place in range(len(indices))]

    def take(self, indices: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Several items stacked: a mapping of names to arrays whose first axis is theirs, in the order asked for."""
        places = np.array([range(self._count)[int(index)] for index in indices], dtype=np.intp)
        return {name: _picked(array, places) for name, array in self._here().items()}

    def batches(
        self, size: int, *, shuffle: bool = False, seed: int = 0, drop_last: bool = False
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """All items, ``size`` at a time and stacked; the last batch may be smaller, unless it is dropped.

        Args:
            size: Items in a batch.
            shuffle: In an order made of ``seed``; else in the order in which they were written.
            seed: Another for each epoch gives each another order.
            drop_last: Leave out a last batch that is not full.
        """
        if size < 1:
            raise InvalidRequest(f"cannot make batches of {size} items")
        order = np.random.default_rng(seed).permutation(self._count) if shuffle else None
        for start in range(0, self._count, size):
            end = min(start + size, self._count)
            if drop_last and end - start < size:
                return
            if order is None:
                yield {name: np.asarray(array[start:end]) for name, array in self._here().items()}
            else:
                yield self.take(cast("Sequence[int]", order[start:end]))

    def __getstate__(self) -> dict[str, Any]:
        return {"group": self._group, "names": self.names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["group"], state["names"])  # type: ignore[misc]

    def _open(self) -> dict[str, zarr.Array[Any]]:
        return {name: cast("zarr.Array[Any]", self._group[name]) for name in self.names}

    def _here(self) -> dict[str, zarr.Array[Any]]:
        """The arrays, opened by this very process."""
        if self._process != os.getpid():
            self._group = pickle.loads(pickle.dumps(self._group))
            self._arrays = self._open()
            self._process = os.getpid()
        return self._arrays


def _picked(array: zarr.Array[Any], places: NDArray[np.intp]) -> NDArray[Any]:
    """The items at these places; each chunk is read once, and several at a time."""
    if not len(places):
        return np.empty((0, *array.shape[1:]), array.dtype)
    in_order, back = np.unique(places, return_inverse=True)
    return np.asarray(array.oindex[in_order])[back]
