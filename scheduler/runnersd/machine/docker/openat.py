"""Files held without being opened, with a say in how links on the way are followed (openat2(2))."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

#: How links are followed: none of /proc's, none at all, and as for a process whose root the directory is.
NO_MAGICLINKS, NO_SYMLINKS, IN_ROOT = 0x02, 0x04, 0x10
#: In place of a directory: the path is absolute.
ANYWHERE = -100

_OPENAT2 = 437
_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


@contextmanager
def held(directory: int, path: str, resolve: int) -> Iterator[int]:
    """A descriptor that only holds the file at ``path``, from ``directory``; nothing is opened.

    Raises:
        OSError: there is none, or it may not be reached so; ELOOP for a link that is not to be followed.
    """
    how = _How(os.O_PATH | os.O_CLOEXEC, 0, resolve)
    fd: int = _libc.syscall(_OPENAT2, directory, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    try:
        yield fd
    finally:
        os.close(fd)
