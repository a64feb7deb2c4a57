# ruff: noqa: PTH110, PTH208 - pathlib would weigh on every fork
"""What /proc tells of processes, and signals that reach only the process that was meant.

A pid alone is a number that the kernel gives to somebody else later. So a process is a pid with its start time; a
signal goes through a pidfd that was checked after it was opened.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Process:
    """One process as /proc/PID/stat showed it. ``start`` is in clock ticks after boot."""

    __slots__ = ("group", "parent", "pid", "session", "start", "state")

    def __init__(self, pid: int, state: str, parent: int, group: int, session: int, start: int) -> None:
        self.pid = pid
        self.state = state
        self.parent = parent
        self.group = group
        self.session = session
        self.start = start

    @property
    def dead(self) -> bool:
        """Over, and only not yet collected by its parent."""
        return self.state in "ZX"


def look(pid: int | str) -> Process | None:
    """The process with this pid (or ``"self"``); None when there is none."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        text = os.read(fd, 4096)
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)
    number, _, rest = text.partition(b" ")
    fields = rest.rpartition(b") ")[2].split()  # the name between the parentheses may hold anything
    return Process(int(number), fields[0].decode(), int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def boot_id() -> str:
    """Which boot of this machine this is."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def descendants(root: int) -> list[Process]:
    """Every process below ``root``, parents first, the dead ones too. One that moves meanwhile may be missed."""
    found: list[Process] = []
    known = {root}
    above = [root]
    for pid in above:
        for child in _children(pid):
            if child not in known:
                known.add(child)
                process = look(child)
                if process is not None:
                    found.append(process)
                    above.append(child)
    return found


def send(process: Process, number: int) -> bool:
    """Signal exactly this process. False when it is gone, or is not ours to signal."""
    try:
        fd = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        now = look(process.pid)
        if now is None or now.start != process.start:
            return False
        signal.pidfd_send_signal(fd, number)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        os.close(fd)
    return True


def strays(run: str, main: int | None, main_start: int | None) -> list[Process]:
    """The living processes proven to be of this attempt, when its supervisor is gone.

    Proof is ``RUNNERS_RUN`` in the environment a process was started with, or membership of the session whose leader
    still is the attempt's first process, or an ancestor with one of these.
    """
    wanted = b"RUNNERS_RUN=" + run.encode()
    leader = look(main) if main else None
    session = main if leader is not None and leader.start == main_start else None
    everyone = {process.pid: process for process in _everyone() if not process.dead}
    ours = {
        pid
        for pid, process in everyone.items()
        if (session is not None and process.session == session) or wanted in _environment(pid)
    }
    grown = bool(ours)
    while grown:
        more = {pid for pid, process in everyone.items() if process.parent in ours} - ours
        ours |= more
        grown = bool(more)
    ours.discard(os.getpid())
    return [everyone[pid] for pid in sorted(ours)]


def _children(pid: int) -> list[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return []
    found: list[int] = []
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb", buffering=0) as file:
                found += map(int, file.readall().split())
        except FileNotFoundError:
            if os.path.exists(f"/proc/{pid}/task/{thread}"):  # a kernel without CONFIG_PROC_CHILDREN
                return [process.pid for process in _everyone() if process.parent == pid]
        except ProcessLookupError:
            continue
    return found


def _everyone() -> Iterator[Process]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            process = look(name)
            if process is not None:
                yield process


def _environment(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            return file.readall().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # gone, or somebody else's
        return []
