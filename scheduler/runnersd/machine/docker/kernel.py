"""Which processes are a container's, asked of the kernel: the engine may say that a container never ran while it does.

A container's processes are those whose cgroup's path has its id. That needs the host's /proc: a daemon that runs in a
container itself must share the host's pid namespace.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Collection
from pathlib import Path

from runnersd.machine.host.processes import Process, look, send

_CGROUPS = Path("/sys/fs/cgroup")


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
            if container in text:
                process = look(name)
                if process is not None and not process.dead:
                    found[container].append(process)
    return found


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
    while await asyncio.to_thread(kill, container):
        await asyncio.sleep(pause)
        pause = min(pause * 2, 1.0)


def process_started(pid: int) -> int | None:
    """The start time (clock ticks after boot) of a process; None when there is none."""
    process = look(pid)
    return None if process is None or process.dead else process.start


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
