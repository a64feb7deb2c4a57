"""Deleting a folder of ours and everything below it, and nothing else, whatever happens in it meanwhile.

Every step is taken from an open folder to a name in it, and no link is followed: a link that somebody puts in its way
is itself removed, and what it points to stays. Another file system mounted below is left alone. The mark goes last, so
that what a killed deletion has left is still known to be ours.
"""

from __future__ import annotations

import os

from . import layout
from .layout import CacheError, Directory

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: zarr needs a few levels; each costs an open file.
_DEEPEST = 200


def delete(directory: Directory, name: str) -> None:
    """Delete one marked folder directly in the cache directory. One that is empty needs no mark.

    Raises:
        CacheError: it is not ours, or something in it cannot be deleted.
    """
    where = directory.file(name)
    folder = layout.open_folder(directory, name)
    if folder is None:
        raise CacheError(f"cannot delete {where}: it is not a folder")
    try:
        if not layout.is_marked(folder) and os.listdir(folder):
            raise CacheError(f"cannot delete {where}: it lacks the mark {layout.MARK}, so it is not ours")
        empty(folder, os.fstat(folder).st_dev, where, keep=layout.MARK)
        if layout.is_marked(folder):
            os.unlink(layout.MARK, dir_fd=folder)
        os.rmdir(name, dir_fd=directory.fd)
    except OSError as error:
        raise CacheError(f"cannot delete {where}: {error.strerror} ({error.filename})") from None
    finally:
        os.close(folder)


def empty(folder: int, device: int, where: str, *, keep: str = "", depth: int = 0) -> None:
    """Delete all that is in an open folder, but for one name (``keep``) at its top.

    ``device`` is the file system that it is on, ``where`` its path, for messages.

    Raises:
        CacheError: another file system is mounted below, or there is no end to the depth.
        OSError: something cannot be deleted.
    """
    if depth > _DEEPEST:
        raise CacheError(f"cannot delete {where}: it is more than {_DEEPEST} folders deep")
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in found:
        if name == keep:
            continue
        if not is_folder:
            os.unlink(name, dir_fd=folder)
            continue
        below = os.open(name, _FOLDER, dir_fd=folder)
        try:
            if os.fstat(below).st_dev != device:
                raise CacheError(f"cannot delete {where}/{name}: another file system is mounted there")
            empty(below, device, f"{where}/{name}", depth=depth + 1)
        finally:
            os.close(below)
        os.rmdir(name, dir_fd=folder)
