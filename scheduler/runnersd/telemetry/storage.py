"""A folder of zarr's files in which each file is whole or not there, whatever dies when."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import zarr
from zarr.core.buffer.core import default_buffer_prototype
from zarr.storage import LocalStore

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

#: What a file is called until it is whole. A later write of the same file takes it over, so none is left for long.
PARTIAL = ".partial"

# One thread is enough for files of some kilobytes, and costs least.
zarr.config.set({"async.concurrency": 1, "threading.max_workers": 1})


class Folder(LocalStore):
    """zarr's own store of files replaces each by a rename too, but leaves a file of another name for every kill, and
    hands each call to a thread, which costs more than the call.

    ``durable``: what is written is on the disk, not only in the kernel's hands, before it gets its name.
    """

    def __init__(self, root: Path, *, read_only: bool = False, durable: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self._durable = durable

    def with_read_only(self, read_only: bool = False) -> Folder:
        """As `zarr.abc.store.Store.with_read_only`."""
        return Folder(self.root, read_only=read_only, durable=self._durable)

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """As `zarr.abc.store.Store.get`."""
        return self.get_sync(key, prototype=prototype or default_buffer_prototype(), byte_range=byte_range)

    async def _set(self, key: str, value: Buffer, exclusive: bool = False) -> None:
        self._check_writable()
        replace(self.root / key, value.as_buffer_like(), durable=self._durable, exclusive=exclusive)


def replace(path: Path, data: bytes | bytearray | memoryview, *, durable: bool, exclusive: bool = False) -> None:
    """Write a file, and its folders, in one step. The caller is the only one who writes there.

    Raises:
        FileExistsError: it is there, and ``exclusive`` was asked for.
        OSError: the disk does not take it; what was there is still there.
    """
    if exclusive and path.exists():
        raise FileExistsError(path)
    partial = path.with_name(path.name + PARTIAL)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        partial.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()  # a full disk needs the room
        raise


def sync_folders(folder: Path) -> None:
    """Put the names in a folder, and in all folders below, on the disk."""
    for path, _, _ in os.walk(folder):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
