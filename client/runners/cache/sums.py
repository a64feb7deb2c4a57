"""The digest of every file of a cache: made when it is built, on its way to the disk, and compared by `verify`.

They are kept as `sha256sum` writes them, so `sha256sum --check SHA256SUMS` in a cache's folder does the same.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from . import layout

#: Files that are read and written back at once: disks like several, and hashing needs no interpreter.
_AT_ONCE = 4


class Sealed(NamedTuple):
    """What :func:`seal` has found."""

    files: int
    bytes: int
    sums: str  #: the digest of the list of digests


def seal(folder: int) -> Sealed:
    """Write `SHA256SUMS` of the data in a cache's folder, and everything down to the disk, folders too.

    Raises:
        layout.CacheError: something in it is neither a file nor a folder.
    """
    names = sorted(_names(folder))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = list(pool.map(lambda name: _digest_of(folder, name, sync=True), names))
    lines = [_line(digest, name) for name, (digest, _size) in zip(names, found, strict=True)]
    text = "".join(lines).encode("utf-8", "surrogateescape")
    layout.write_file(folder, layout.SUMS, text)
    for _path, _folders, _files, fd in os.fwalk(layout.DATA, dir_fd=folder):
        os.fsync(fd)
    return Sealed(len(names), sum(size for _digest, size in found), hashlib.sha256(text).hexdigest())


def damage(folder: int, sums: str) -> Iterator[str]:
    """What is wrong with a finished cache, a sentence each; nothing for one that is as it was built.

    ``sums`` is the digest of `SHA256SUMS` that `meta.json` has.
    """
    try:
        text = layout.read_file(folder, layout.SUMS, 1 << 34)
    except (OSError, ValueError) as error:
        yield f"{layout.SUMS} cannot be read: {error}"
        return
    if hashlib.sha256(text).hexdigest() != sums:
        yield f"{layout.SUMS} is not the one that was written when it was built"
        return
    wanted = dict(map(_read, text.decode("utf-8", "surrogateescape").splitlines()))
    try:
        there = set(_names(folder))
    except (OSError, layout.CacheError) as error:
        yield f"{layout.DATA} cannot be read: {error}"
        return
    yield from (f"{name} is missing" for name in sorted(wanted.keys() - there))
    yield from (f"{name} was not there when it was built" for name in sorted(there - wanted.keys()))
    names = sorted(wanted.keys() & there)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for name, found in zip(names, pool.map(lambda name: _try_digest(folder, name), names), strict=True):
            if found != wanted[name]:
                yield f"{name} is not what was written" if len(found) == 64 else f"{name} cannot be read: {found}"


def _names(folder: int) -> Iterator[str]:
    """Every file of the data, by its path in the cache's folder. Links are not followed, and not had."""
    for path, folders, files, fd in os.fwalk(layout.DATA, dir_fd=folder, onerror=_raise):
        for name in (*folders, *files):
            mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
            if stat.S_ISREG(mode):
                yield f"{path}/{name}"
            elif not stat.S_ISDIR(mode):
                raise layout.CacheError(f"cannot keep {path}/{name} in a cache: it is neither a file nor a folder")


def _raise(error: OSError) -> None:
    raise error


def _digest_of(folder: int, name: str, *, sync: bool) -> tuple[str, int]:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(fd, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if sync:
            os.fsync(file.fileno())
        return digest, os.fstat(file.fileno()).st_size


def _try_digest(folder: int, name: str) -> str:
    try:
        return _digest_of(folder, name, sync=False)[0]
    except OSError as error:
        return error.strerror or str(error)


def _line(digest: str, name: str) -> str:
    r"""``DIGEST  NAME``; with a backslash before it where the name has one, or a line's end, in it."""
    if "\\" in name or "\n" in name or "\r" in name:
        name = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        return f"\\{digest}  {name}\n"
    return f"{digest}  {name}\n"


def _read(line: str) -> tuple[str, str]:
    """The name and the digest of a line."""
    escaped = line.startswith("\\")
    digest, _, name = line.removeprefix("\\").partition("  ")
    if escaped:
        out, marks = [], {"\\": "\\", "n": "\n", "r": "\r"}
        letters = iter(name)
        for letter in letters:
            out.append(marks.get(next(letters, ""), "") if letter == "\\" else letter)
        name = "".join(out)
    return name, digest
