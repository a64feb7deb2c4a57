"""The state of what a cache is made from: the files of a folder, as a digest that changes when one of them does."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from typing import TypedDict

from runners.errors import NotFound


class SourceState(TypedDict):
    """What `meta.json` keeps of a source. ``by`` says what the digest is made of: `mtime`, or `content`."""

    path: str
    by: str
    files: int
    bytes: int
    digest: str


def state_of(path: str | os.PathLike[str], contents: bool = False) -> SourceState:
    """The state of a file, or of every file below a folder; links are followed.

    It is made of the files' names below ``path``, their sizes and their times of modification; with ``contents`` of
    their names and what is in them, which a copy does not change, but which takes as long as reading them all. Where
    the folder lies does not matter: a container may have it elsewhere.

    Raises:
        NotFound: there is nothing at ``path``.
    """
    top = os.fspath(path)
    if not os.path.exists(top):
        raise NotFound(f"cannot make a cache from {top}: there is no such file or folder")
    digest = hashlib.sha256()
    files = total = 0
    for name, full in sorted(_files(top)):
        found = _stat(full)
        if found is None:  # a link to nothing: that it is one is part of the state
            digest.update(_record(name, "link", os.readlink(full)))
            continue
        files += 1
        total += found.st_size
        told = _digest(full) if contents else str(found.st_mtime_ns)
        digest.update(_record(name, str(found.st_size), told))
    return {
        "path": os.path.abspath(top),
        "by": "content" if contents else "mtime",
        "files": files,
        "bytes": total,
        "digest": digest.hexdigest(),
    }


def _files(top: str) -> Iterator[tuple[str, str]]:
    """Every file's name below ``top`` and its path. A folder that contains itself by a link is entered once."""
    if not os.path.isdir(top):
        yield "", top
        return
    seen: set[tuple[int, int]] = set()
    waiting = [("", top)]
    while waiting:
        prefix, folder = waiting.pop()
        here = os.stat(folder)
        if (here.st_dev, here.st_ino) in seen:
            continue
        seen.add((here.st_dev, here.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                name = f"{prefix}{entry.name}"
                if entry.is_dir():
                    waiting.append((f"{name}/", entry.path))
                else:
                    yield name, entry.path


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _digest(path: str) -> str:
    if not stat.S_ISREG(os.stat(path).st_mode):
        return "no file"  # reading a pipe or a device would never end
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _record(*parts: str) -> bytes:
    """The parts, told apart whatever is in them."""
    return b"".join(b"%d:%s" % (len(one), one) for one in (os.fsencode(part) for part in parts)) + b"\n"
