"""zarr caches, built once: by one process, while all others that want the same one wait, and read by everybody.

    from runners.cache import Items, open_cache, write_items

    def build(group):
        write_items(group, (features(path, window=512) for path in paths))

    group = open_cache("musdb", {"window": 512}, build, source="/data/musdb")
    for batch in Items(group).batches(32):
        ...

A cache lies in a folder of the cache directory (:data:`runners.config.cache_directory`), named by what it was made of:
its name, its parameters, and the state of its source. Its folder has that name only when it is whole and on the disk.
Importing this loads neither zarr nor NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .layout import CacheError
from .opening import open_cache

if TYPE_CHECKING:
    from .items import Items, write_items

__all__ = ["CacheError", "Items", "open_cache", "write_items"]


def __getattr__(name: str) -> Any:
    """What needs NumPy is loaded when it is asked for."""
    if name in ("Items", "write_items"):
        from . import items

        return getattr(items, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
