"""A finished cache as zarr sees it: a store that reads, and that holds a lease as long as anything of it is in use."""

from __future__ import annotations

import os
from pathlib import Path

import zarr
from zarr.storage import LocalStore

from . import layout, locks
from .layout import CacheError
from .locks import Lease


class LeasedStore(LocalStore):
    """The files of one cache, to be read. Its group and arrays keep it, and with it the lease; so does a pickle's
    receiver, which takes a lease of its own. ``close`` lets go of it.
    """

    def __init__(self, directory: str, id: str, lease: Lease) -> None:
        super().__init__(Path(directory) / id / layout.DATA, read_only=True)
        self.directory = directory
        self.id = id
        self.lease = lease

    def with_read_only(self, read_only: bool = False) -> LeasedStore:
        """Itself: it cannot be written."""
        if not read_only:
            raise ValueError(f"cache {self.id} is finished and can only be read; other parameters make another cache")
        return self

    def close(self) -> None:
        """Let go of the cache; what has it still must not read on."""
        self.lease.close()
        super().close()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LeasedStore) and self.root == other.root

    __hash__ = None  # type: ignore[assignment]  # as LocalStore

    def __reduce__(self) -> tuple[object, ...]:
        return reopened, (self.directory, self.id)


def reopened(directory: str, id: str) -> LeasedStore:
    """The store of a cache that another process has open.

    Raises:
        CacheError: it has been removed meanwhile.
    """
    with layout.opened(directory) as where:
        folder = layout.open_folder(where, id)
        if folder is not None:
            try:
                lease = locks.take_lease(where, id, folder)
            finally:
                os.close(folder)
            if lease is not None:
                return LeasedStore(where.path, id, lease)
    raise CacheError(f"cannot open cache {id} in {directory} again: it has been removed")


def group_of(directory: str, id: str, lease: Lease) -> zarr.Group:
    """The group of a finished cache, which has the lease from now on."""
    return zarr.open_group(LeasedStore(directory, id, lease), mode="r", zarr_format=3)


def new_group(path: str) -> zarr.Group:
    """An empty group to be filled."""
    return zarr.create_group(LocalStore(path), zarr_format=3)


def version() -> str:
    """Of zarr."""
    return str(zarr.__version__)


def items_in(group: zarr.Group) -> int | None:
    """How many items were written into it and its groups; None when none were written as items."""
    counts = [group.attrs.get("items")]
    counts += [one.attrs.get("items") for _name, one in group.members(max_depth=None) if isinstance(one, zarr.Group)]
    known = [count for count in counts if isinstance(count, int)]
    return sum(known) if known else None
