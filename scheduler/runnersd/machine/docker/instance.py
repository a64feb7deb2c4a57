"""Which engine process answers: containers of one that is gone are gone with it, unless it restores them."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from pathlib import Path

from runnersd.in_thread import in_thread
from runnersd.machine.docker import kernel

#: An engine process: its pid and its start time, in clock ticks after boot.
Instance = tuple[int, int]

_NAMES = ("dockerd", "podman")
#: Where an engine finds the hook that hands cards to containers, where its own PATH cannot be read.
_PATHS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOOK = "nvidia-container-runtime-hook"


async def who_answers(path: str) -> Instance | None:
    """The process that answers a new connection to the socket at ``path``; None when that cannot be told.

    The kernel names who made the socket. Under systemd's socket activation that is systemd: then the one process
    named as an engine is meant.

    Raises:
        OSError: nobody answers.
    """
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
        if not await reader.read(1):
            raise ConnectionResetError("it hung up")
        raw = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    finally:
        writer.close()
    return await in_thread(_engine_of, struct.unpack("3i", raw)[0])


def _engine_of(pid: int) -> Instance | None:
    if pid and kernel.name(pid) not in ("systemd", "init", ""):
        return _started(pid)
    engines = [int(name) for name in os.listdir("/proc") if name.isdigit() and kernel.name(int(name)) in _NAMES]
    return _started(engines[0]) if len(engines) == 1 else None


def finds_hook(instance: Instance | None) -> bool:
    """Whether that engine has NVIDIA's hook on its PATH, which is how it passes cards without CDI."""
    path = _PATHS
    if instance is not None:
        try:
            for entry in Path(f"/proc/{instance[0]}/environ").read_bytes().split(b"\0"):
                if entry.startswith(b"PATH="):
                    path = entry[5:].decode(errors="replace")
        except OSError:
            path = _PATHS  # another user's process: where it usually is
    return any(os.access(f"{directory}/{HOOK}", os.X_OK) for directory in path.split(":") if directory)


def _started(pid: int) -> Instance | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return pid, int(stat.rpartition(b") ")[2].split()[19])
