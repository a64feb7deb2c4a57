"""A static shell of the host's, for gates: it runs in every image, and is nobody else's.

Debian's `busybox-static` has one. Where there is none, an image's own shell waits at the gate.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

log = logging.getLogger(__name__)

#: Where one usually is.
PLACES = (Path("/bin/busybox"), Path("/usr/bin/busybox"))


def prepared(state: Path) -> Path | None:
    """A copy in the state directory, up to date, to be linked into gates; None where there is no such shell."""
    program = found()
    if program is None:
        return None
    copy, scratch = state / "sh", state / "sh.new"
    try:
        if os.statvfs(state).f_flag & os.ST_NOEXEC:
            return None  # it could not be run from there
        shutil.copyfile(program, scratch)
        scratch.chmod(0o755)
        scratch.replace(copy)
    except OSError as error:
        log.warning("cannot copy %s to %s: %s; images' own shells wait at gates", program, copy, error.strerror)
        return None
    return copy


def found() -> Path | None:
    """The host's static shell; None where it has none."""
    return next(filter(is_static, PLACES), None)


def is_static(path: Path) -> bool:
    """Whether a program needs no loader: its ELF has no interpreter."""
    try:
        head = path.read_bytes()[:4096]
    except OSError:
        return False
    return head[:4] == b"\x7fELF" and b"/ld-" not in head
