"""Where caches lie: the cache directory, what is in it, and what is in one cache's folder.

<cache directory>/
    musdb-3f2a91c07d5566aa/         a finished cache
        .runners-cache              the mark: without it nothing is ever deleted
        lease                       locked (shared) by readers; its time is when the cache was last used
        data.zarr/                  the group
        SHA256SUMS                  of every file of it, as `sha256sum --check` reads them
        meta.json                   what made it
    .building-musdb-3f2a91c07d5566aa.5d0c1e77/    the same, not finished
    .lock-musdb-3f2a91c07d5566aa    locked by its builder
    .trash-musdb-3f2a91c07d5566aa.90ab12cd/       on its way out
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runners.errors import InvalidRequest, NotFound, RunnersError

from . import naming

MARK = ".runners-cache"
LEASE = "lease"
DATA = "data.zarr"
SUMS = "SHA256SUMS"
META = "meta.json"
LOCK_PREFIX = ".lock-"
SCRATCH_PREFIX = ".building-"
TRASH_PREFIX = ".trash-"
_MARK_TEXT = b"This folder is a cache of runners. `runners-client caches` lists, verifies and removes it.\n"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_META = 16 << 20


class CacheError(RunnersError):
    """A cache cannot be used, built or locked; says which, and what to do about it."""

    code = "cache-unusable"


class Directory:
    """The cache directory, open: what is done in it is done through ``fd``, wherever its name points by then."""

    __slots__ = ("fd", "path")

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd

    def file(self, *names: str) -> str:
        """The path of something in it."""
        return os.path.join(self.path, *names)


@contextmanager
def opened(path: str, *, make: bool = False) -> Iterator[Directory]:
    """The cache directory at ``path``; ``make``: made if it is not there.

    Raises:
        NotFound: there is none.
    """
    path = os.path.realpath(path)
    if make:
        os.makedirs(path, exist_ok=True)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"cannot find a cache: there is no directory {path}") from None
    except NotADirectoryError:
        raise InvalidRequest(f"cannot keep caches in {path}: it is not a directory") from None
    try:
        yield Directory(path, fd)
    finally:
        os.close(fd)


def open_folder(directory: Directory, name: str) -> int | None:
    """A folder directly in the directory, never through a link; None where there is no such folder."""
    try:
        return os.open(name, _FOLDER, dir_fd=directory.fd)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if os.path.islink(directory.file(name)):
            return None
        raise CacheError(f"cannot use {directory.file(name)}: {error.strerror}") from None


def is_marked(folder: int) -> bool:
    """Whether it has our mark: a plain file, not a link to one."""
    try:
        return stat.S_ISREG(os.stat(MARK, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def write_file(folder: int, name: str, text: bytes) -> None:
    """Write a new file, down to the disk."""
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=folder)
    with os.fdopen(fd, "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def mark(folder: int) -> None:
    """Say that this folder is ours."""
    write_file(folder, MARK, _MARK_TEXT)


def read_file(folder: int, name: str, most: int = _MOST_META) -> bytes:
    """A plain file's bytes. Raises FileNotFoundError, and ValueError for something else or one that is too large."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size > most:
            raise ValueError(f"{name} is not a plain file of at most {most} bytes")
        return file.read()


def read_meta(directory: Directory, id: str, folder: int) -> dict[str, Any]:
    """What made a finished cache.

    Raises:
        CacheError: its folder lacks it, or it was written by a later version.
    """
    advice = f"see `runners-client caches verify {id}`, and remove it with `runners-client caches rm {id}`"
    try:
        meta = json.loads(read_file(folder, META))
    except (OSError, ValueError) as error:
        raise CacheError(
            f"cannot use cache {directory.file(id)}: its {META} cannot be read ({error}); {advice}"
        ) from None
    if not isinstance(meta, dict) or not isinstance(meta.get("format"), int):
        raise CacheError(f"cannot use cache {directory.file(id)}: its {META} is not one; {advice}")
    if meta["format"] > naming.FORMAT:
        raise CacheError(
            f"cannot use cache {directory.file(id)}: it has format {meta['format']}, and this runners knows up to "
            f"{naming.FORMAT}; upgrade it"
        )
    return meta


def chosen_directory(given: str | os.PathLike[str] | None) -> str:
    """The cache directory: the one given, else :data:`runners.config.cache_directory`, else `$CACHE_DIRECTORY` now.

    Raises:
        InvalidRequest: none is set.
    """
    from runners import config

    found = given or config.cache_directory or os.environ.get("CACHE_DIRECTORY")
    if not found:
        raise InvalidRequest(
            "cannot tell where caches are: set CACHE_DIRECTORY, as configs/environment/default.sh does, or name the "
            "directory"
        )
    return os.fspath(found)


def write_meta(folder: int, meta: dict[str, Any]) -> None:
    """Write what made a cache; the last of its files."""
    write_file(folder, META, json.dumps(meta, indent=2, ensure_ascii=False).encode() + b"\n")
