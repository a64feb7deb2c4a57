"""How much memory and CPU the processes of running attempts have, asked of the kernel.

A container's are in a cgroup of their own, which the kernel keeps the books of. A host job's are those below its
supervisor. Which these are is kept from one look to the next: a look lists /proc, once for all attempts, and reads
nothing but the attempts' own processes and those that it has not seen before. To read each thread's list of children
would cost more than the whole: a training process has a hundred threads.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from runnersd.in_thread import in_thread
from runnersd.machine import AttemptKey, Metered
from runnersd.telemetry.sample import ProcessSample

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_CGROUPS = Path("/sys/fs/cgroup")
#: As the engines name a container's cgroup: ID, docker-ID.scope, libpod-ID.scope.
_CONTAINER = re.compile(r"(?:.*-)?[0-9a-f]{64}(?:\.scope)?")
#: Seconds after which all of /proc is read again: a pid may have come again between two looks.
_ALL_AGAIN = 60.0


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes of memory held now, and seconds of CPU used ever; None is "not known"."""

    memory: int | None
    cpu: float | None


class KernelMeter:
    """See :class:`runnersd.machine.Meter`. The kernel is asked beside the loop, in one thread."""

    def __init__(self) -> None:
        self._tree = ProcessTree()
        self._groups: dict[AttemptKey, Cgroup | None] = {}
        self._before: dict[AttemptKey, tuple[float, float]] = {}  # monotonic time, seconds of CPU

    async def measure(self, attempts: Mapping[AttemptKey, Metered]) -> dict[AttemptKey, ProcessSample]:
        """See :class:`runnersd.machine.Meter`."""
        if not attempts:
            self._groups.clear()
            self._before.clear()
            return {}
        return await in_thread(self.look, attempts, time.monotonic())

    def look(self, attempts: Mapping[AttemptKey, Metered], now: float) -> dict[AttemptKey, ProcessSample]:
        """`measure`, in this thread; ``now`` is on the monotonic clock."""
        self._groups = {
            key: self._groups[key] if key in self._groups else cgroup_of(one.pid)
            for key, one in attempts.items()
            if one.contained
        }
        usage = {key: group.read() for key, group in self._groups.items() if group is not None}
        roots = {one.pid: key for key, one in attempts.items() if key not in usage}
        own = frozenset(one.pid for key, one in attempts.items() if key not in usage and one.contained)
        if roots:
            usage |= self._tree.look(roots, own, now)
        before, self._before = self._before, {}
        return {key: self._sample(key, one, before.get(key), now) for key, one in usage.items()}

    def _sample(self, key: AttemptKey, usage: Usage, before: tuple[float, float] | None, now: float) -> ProcessSample:
        if usage.cpu is None:
            return ProcessSample(usage.memory)
        self._before[key] = (now, usage.cpu)
        if before is None or now <= before[0]:
            return ProcessSample(usage.memory)
        # Less than before: a process has gone whose parent did not ask for its end.
        return ProcessSample(usage.memory, max(usage.cpu - before[1], 0.0) / (now - before[0]))


class Cgroup:
    """A container's own cgroup. ``memory`` and ``cpu`` are its folders in the trees that keep these books."""

    def __init__(self, memory: Path | None, cpu: Path | None) -> None:
        self._v2 = memory is not None and (memory / "memory.current").exists()
        self._memory, self._cpu = memory, cpu

    def read(self) -> Usage:
        """What it holds and has used. Files that it only keeps at hand in memory do not count, as in `docker stats`."""
        memory = cpu = None
        with suppress(OSError, ValueError):
            memory = self._read_memory()
        with suppress(OSError, ValueError):
            cpu = self._read_cpu()
        return Usage(memory, cpu)

    def _read_memory(self) -> int | None:
        if self._memory is None:
            return None
        held = int(_read(self._memory / ("memory.current" if self._v2 else "memory.usage_in_bytes")))
        name = b"inactive_file" if self._v2 else b"total_inactive_file"
        return max(held - (_field(_read(self._memory / "memory.stat"), name) or 0), 0)

    def _read_cpu(self) -> float | None:
        if self._cpu is None:
            return None
        if not self._v2:
            return int(_read(self._cpu / "cpuacct.usage")) / 1e9
        used = _field(_read(self._cpu / "cpu.stat"), b"usage_usec")
        return None if used is None else used / 1e6


def cgroup_of(pid: int) -> Cgroup | None:
    """The cgroup of the container that the process is of; None when it is in none, or that cannot be seen."""
    try:
        return container_cgroup(_read(f"/proc/{pid}/cgroup").decode(errors="replace"))
    except OSError:
        return None


def container_cgroup(text: str, cgroups: Path = _CGROUPS) -> Cgroup | None:
    """The container's cgroup that these lines of /proc/PID/cgroup name, in the trees of either version."""
    memory = cpu = None
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        folder = _own(cgroups / controllers, path)
        if folder is None:
            continue
        kinds = controllers.split(",")
        if "memory" in kinds or not (controllers or memory):
            memory = folder
        if "cpuacct" in kinds or not (controllers or cpu):
            cpu = folder
    return Cgroup(memory, cpu) if memory or cpu else None


def _own(base: Path, path: str) -> Path | None:
    """The container's part of a path in the cgroup tree at ``base``, whatever cgroups it has made below."""
    parts = path.strip("/").split("/")
    for depth, part in enumerate(parts):
        if _CONTAINER.fullmatch(part):
            folder = base.joinpath(*parts[: depth + 1])
            return folder if folder.is_dir() else None
    return None


@dataclass(frozen=True, slots=True)
class _Seen:
    """One process: its parent, when it started (ticks), bytes it holds, seconds of CPU that it and its dead had."""

    parent: int
    start: int
    memory: int
    own: float
    dead: float


class ProcessTree:
    """Who is below which root, kept from look to look."""

    def __init__(self) -> None:
        self._known: frozenset[int] = frozenset()  # every pid at the last look, whosesoever
        self._members: dict[int, tuple[AttemptKey, int]] = {}  # whose a process is, and when it started
        self._roots: dict[int, AttemptKey] = {}
        self._all_at = float("-inf")

    def look(self, roots: Mapping[int, AttemptKey], own: frozenset[int], now: float) -> dict[AttemptKey, Usage]:
        """What is below each root. A root itself counts only if it is in ``own``, but for its dead children."""
        names = os.listdir("/proc")  # noqa: PTH208 - a path for each would cost more than all the rest
        pids = frozenset(int(name) for name in names if name.isdigit())
        if any(self._roots.get(pid) != key for pid, key in roots.items()) or now - self._all_at >= _ALL_AGAIN:
            self._known, self._members, self._all_at = frozenset(), {}, now
        self._roots, wanted = dict(roots), frozenset(roots.values())
        kept = {pid: whose for pid, whose in self._members.items() if pid in pids and whose[0] in wanted}
        seen = {
            pid: one for pid in (pids - self._known) | kept.keys() | roots.keys() if (one := _look(pid)) is not None
        }
        kept = {pid: whose for pid, whose in kept.items() if pid in seen and seen[pid].start == whose[1]}
        self._known = pids
        self._members = kept
        for pid in seen:
            self._place(pid, seen)
        memory: dict[AttemptKey, int] = dict.fromkeys(roots.values(), 0)
        cpu: dict[AttemptKey, float] = dict.fromkeys(roots.values(), 0.0)
        for pid, (key, _) in self._members.items():
            one = seen[pid]
            root = pid in roots and pid not in own
            memory[key] += 0 if root else one.memory
            cpu[key] += one.dead if root else one.own + one.dead
        return {key: Usage(memory[key], cpu[key]) for pid, key in roots.items() if pid in seen}

    def _place(self, pid: int, seen: Mapping[int, _Seen]) -> None:
        """Find out whose a process is, and so whose those are between it and its root."""
        way: list[int] = []
        key: AttemptKey | None = None
        while pid in seen and pid not in way:
            if pid in self._members:
                key = self._members[pid][0]
                break
            way.append(pid)
            if pid in self._roots:
                key = self._roots[pid]
                break
            pid = seen[pid].parent
        if key is not None:
            self._members |= {one: (key, seen[one].start) for one in way}


def _look(pid: int) -> _Seen | None:
    try:
        text = _read(f"/proc/{pid}/stat")
    except OSError:
        return None  # it has just ended, or is hidden from us
    fields = text.rpartition(b") ")[2].split()  # the name between the parentheses may hold anything
    own, dead = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    return _Seen(int(fields[1]), int(fields[19]), int(fields[21]) * _PAGE, own / _TICKS, dead / _TICKS)


def _read(path: str | Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 1 << 14)
    finally:
        os.close(descriptor)


def _field(text: bytes, name: bytes) -> int | None:
    """The number beside a name, in lines of `NAME NUMBER`."""
    for line in text.splitlines():
        key, _, value = line.partition(b" ")
        if key == name:
            return int(value)
    return None
