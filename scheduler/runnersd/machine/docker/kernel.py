"""Which processes are a container's, asked of the kernel: the engine may say that a container never ran while it does.

A container's processes are those in the cgroup that is named after its id. That needs the host's /proc: a daemon that
runs in a container itself must share the host's pid namespace. Users may make cgroups of their own, under any name, and
so a cgroup that belongs to somebody else is not believed: its processes could hold another's cards for ever.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from runnersd.in_thread import in_thread
from runnersd.machine.host.processes import Process, look, send

_CGROUPS = Path("/sys/fs/cgroup")
_ID = re.compile(r"[0-9a-f]{64}")


def pids_of(containers: Collection[str]) -> dict[str, list[Process]]:
    """The living processes of each of these containers (full ids)."""
    found: dict[str, list[Process]] = {container: [] for container in containers}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/cgroup", "rb", buffering=0) as file:
                text = file.read(8192).decode(errors="replace")
        except OSError:
            continue  # it has just ended
        for container in containers:
            if container in text and _is_in(text, container):
                process = look(name)
                if process is not None and not process.dead:
                    found[container].append(process)
    return found


def _is_in(cgroups: str, container: str) -> bool:
    """Whether these lines of /proc/PID/cgroup name the container's own cgroup, which an engine has made."""
    if not _ID.fullmatch(container):
        return False
    for line in cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        parts = path.split("/")
        for depth, part in enumerate(parts):
            # As the engines name them: ID, docker-ID.scope, libpod-ID.scope.
            if part.removesuffix(".scope").rpartition("-")[2] == container:
                return _owner(controllers, "/".join(parts[: depth + 1])) in (None, 0, os.geteuid())
    return False


def _owner(controllers: str, path: str) -> int | None:
    """Whose the cgroup at ``path`` is; None where it is not seen, as when it has just been removed."""
    named = controllers.removeprefix("name=")
    for base in (_CGROUPS / named,) if named else (_CGROUPS, _CGROUPS / "unified"):
        try:
            return (base / path.lstrip("/")).stat().st_uid
        except OSError:
            continue
    return None


def alive(container: str) -> list[Process]:
    """The living processes of one container."""
    return pids_of((container,))[container]


def kill(container: str) -> list[Process]:
    """SIGKILL every process of the container, past the engine. Returns those that it had; all may take a moment."""
    processes = alive(container)
    for process in processes:
        send(process, signal.SIGKILL)
    return processes


async def end(container: str) -> None:
    """Kill every process of the container; comes back when the kernel has none of them any more."""
    pause = 0.005
    while await in_thread(kill, container):
        await asyncio.sleep(pause)
        pause = min(pause * 2, 1.0)


def process_started(pid: int) -> int | None:
    """The start time (clock ticks after boot) of a process; None when there is none."""
    process = look(pid)
    return None if process is None or process.dead else process.start


def is_leaving(pid: int) -> bool:
    """Whether a process is gone, or so far on its way out that it has let go of its files."""
    try:
        with suppress(PermissionError):  # another user's
            os.readlink(f"/proc/{pid}/root")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return process_started(pid) is None


def name(pid: int) -> str:
    """What the kernel calls a process, in at most 15 characters; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return ""


def allowed_devices(pid: int) -> str | None:
    """The device rules of the process's cgroup, one a line, where the kernel shows them (cgroup v1); else None."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "devices" in controllers.split(","):
            rules = _CGROUPS / "devices" / path.lstrip("/") / "devices.list"
            try:
                return rules.read_text()
            except OSError:
                return None
    return None


def memory_meter(pid: int, container: str) -> int | None:
    """A descriptor of the file that says how much memory the container of that process has had at most.

    None where the kernel does not say it, or only of more than the container. Bytes, the files that it keeps in memory
    included; `read_meter` reads it until the cgroup is removed, soon after the container's end.
    """
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if container not in path:
            continue
        if "memory" in controllers.split(","):
            file = _CGROUPS / "memory" / path.lstrip("/") / "memory.max_usage_in_bytes"
        elif not controllers:
            file = _CGROUPS / path.lstrip("/") / "memory.peak"
        else:
            continue
        with suppress(OSError):
            return os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    return None


def read_meter(meter: int) -> int | None:
    """What a `memory_meter` says; None once its cgroup is gone."""
    try:
        return int(os.pread(meter, 32, 0))
    except (OSError, ValueError):
        return None
