"""The cards that a container really got, whatever was asked for: by the device files and rules it has."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence

from runnersd.machine.docker import kernel
from runnersd.machine.docker.openat import IN_ROOT, held

#: The major number of /dev/nvidia0 and its sisters.
NVIDIA_MAJOR = 195
#: Minors from here on are the driver's own (nvidiactl, nvidia-modeset).
_FIRST_OWN = 254
_RULE = re.compile(r"^c 195:(\d+|\*) \w+$", re.MULTILINE)
_NODE = re.compile(r"nvidia(\d+)")


def difference(pid: int, minors: Sequence[int | None]) -> str | None:
    """What is wrong with the cards of the container whose first process is ``pid``, in a sentence; None when nothing.

    ``minors`` are those of its reservation; with one that is not known, only too many cards are noticed.

    Raises:
        OSError: its files cannot be looked at; the process may have ended.
    """
    seen = _nodes(pid)
    rules = kernel.allowed_devices(pid)
    open_to = set(_RULE.findall(rules or ""))
    known = {minor for minor in minors if minor is not None}
    if "*" in open_to and len(minors) == 0:
        return "it may open every card, though it has reserved none"
    allowed = {int(found) for found in open_to if found != "*" and int(found) < _FIRST_OWN}
    if None in minors:
        more = len(seen) - len(minors)
        return f"it sees {len(seen)} cards, though it has reserved {len(minors)}" if more > 0 else None
    if seen - known:
        return f"it sees the cards {_list(seen - known)}, which it has not reserved"
    if allowed - known:
        return f"it may open the cards {_list(allowed - known)}, which it has not reserved"
    if known - seen:
        return (
            f"it does not see the cards {_list(known - seen)} that it has reserved; "
            "the engine's NVIDIA toolkit or its CDI specification may be stale (nvidia-ctk cdi generate)"
        )
    return None


def _nodes(pid: int) -> set[int]:
    """Minors of the card nodes under the container's /dev, found as its own processes would find it."""
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with held(root, "/dev", IN_ROOT) as place:
            directory = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(root)
    try:
        found = set()
        for name in os.listdir(directory):
            if _NODE.fullmatch(name):
                node = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISCHR(node.st_mode) and os.major(node.st_rdev) == NVIDIA_MAJOR:
                    found.add(os.minor(node.st_rdev))
        return found
    finally:
        os.close(directory)


def _list(minors: set[int]) -> str:
    return ", ".join(f"/dev/nvidia{minor}" for minor in sorted(minors))
