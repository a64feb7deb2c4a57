# ruff: noqa: PTH108 - pathlib would weigh on every fork
"""An attempt's record: the file that makes it run once, and says later how it ended.

A file of JSON lines beside the attempt's logs, written by its supervisor alone:

    {"run", "boot", "pid", "start", "grace"}      made with O_EXCL: who has this name, before anything runs
    {"started", "main", "main_start"}             its first process runs
    {"code", "finished", "peak", "truncated", "told"}     every process is gone; `code` is -n for signal n

or, in place of the last two, ``{"failed": why}``: nothing ran and nothing will. ``{"stopped": why}`` alone is a
record made only so that nothing can run under its name. ``{"broken": why}`` is a supervisor's last word about a
fault of its own. Pids come with their start times (clock ticks after boot), so that a pid used again is recognised.
"""

from __future__ import annotations

import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: How much of a record is read: it is a few hundred bytes.
LIMIT = 1 << 16
#: Reasons are cut, so that a record stays inside one block of the disk.
REASON_LIMIT = 2000
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


class Record:
    """What a record says. Fields of lines that are not there are None."""

    __slots__ = ("boot", "broken", "end", "failed", "grace", "main", "main_start", "pid", "start", "started", "stopped")

    def __init__(self) -> None:
        self.boot: str | None = None
        self.pid: int | None = None
        self.start: int | None = None
        self.grace = 0.0
        self.started: float | None = None
        self.main: int | None = None
        self.main_start: int | None = None
        self.failed: str | None = None
        self.stopped: str | None = None
        self.broken: str | None = None
        self.end: dict[str, Any] | None = None

    @property
    def empty(self) -> bool:
        """Whether its maker died (or is) between making the file and writing its first line."""
        return self.pid is None and self.failed is None and self.stopped is None

    @property
    def over(self) -> bool:
        """Whether it says how the attempt ended, or that there never was one."""
        return self.end is not None or self.failed is not None or self.stopped is not None


def names(directory: str, job: int, attempt: int) -> tuple[str, str, str]:
    """The paths of an attempt's record, its stdout and its stderr, below the directory of all runs."""
    base = f"{directory}/{job // 1000}/{job}.{attempt}"
    return base + ".run", base + ".out", base + ".err"


def line(**fields: object) -> bytes:
    """One line of a record. Texts that need no care are written without loading json: it would weigh on every fork."""
    return ("{" + ",".join(f'"{name}":{_value(value)}' for name, value in fields.items()) + "}\n").encode()


def taken(run: str, boot: str, pid: int, start: int, grace: float) -> bytes:
    """The first line. Without the care that :func:`line` takes: what Python touches after a fork is copied."""
    return f'{{"run":"{run}","boot":"{boot}","pid":{pid},"start":{start},"grace":{grace!r}}}\n'.encode()


def begun(started: float, main: int, main_start: int) -> bytes:
    """The second line."""
    return f'{{"started":{started!r},"main":{main},"main_start":{main_start}}}\n'.encode()


def ended(code: int, finished: float, peak: int, truncated: bool, told: bool) -> bytes:
    """The last line. ``told``: it was told to stop while its first process ran."""
    cut, stop = "true" if truncated else "false", "true" if told else "false"
    return f'{{"code":{code},"finished":{finished!r},"peak":{peak},"truncated":{cut},"told":{stop}}}\n'.encode()


def parse(data: bytes) -> Record:
    """What the lines say. A torn or foreign line is as if it were not there."""
    record = Record()
    for found in _objects([text for text in data.split(b"\n")[:-1] if text]):
        if not isinstance(found, dict):
            continue
        if "pid" in found and "boot" in found:
            record.boot, record.pid, record.start = found["boot"], found["pid"], found.get("start")
            record.grace = found.get("grace", 0.0)
        elif "main" in found:
            record.started, record.main = found.get("started"), found["main"]
            record.main_start = found.get("main_start")
        elif "code" in found:
            record.end = found
        for name in ("failed", "stopped", "broken"):
            if name in found:
                setattr(record, name, str(found[name]))
    return record


def read(path: str) -> Record | None:
    """The record at ``path``; None when there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        return parse(os.read(fd, LIMIT))
    finally:
        os.close(fd)


def create(path: str) -> int | None:
    """Take the name: an open, locked, empty record. None when somebody has it already.

    The lock tells a reader of an empty record whether its maker still lives (:func:`take_over`).
    """
    try:
        fd = os.open(path, _NEW, 0o600)
    except FileExistsError:
        return None
    if _lock(fd) and os.lseek(fd, 0, os.SEEK_END) == 0:
        return fd
    os.close(fd)
    return None


def take_over(path: str, why: str) -> bool:
    """Say in an empty record whose maker died that nothing ran. False when its maker lives, or has written since."""
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not _lock(fd) or not parse(os.read(fd, LIMIT)).empty:
            return False
        write(fd, b"\n" + line(failed=why[:REASON_LIMIT]))  # the newline ends what may be torn
        return True
    finally:
        os.close(fd)


def bar(path: str, **fields: str) -> bool:
    """Make a record of one line, so that nothing can ever run under its name. False when somebody has the name."""
    fd = create(path)
    if fd is None:
        return False
    try:
        write(fd, line(**{name: text[:REASON_LIMIT] for name, text in fields.items()}))
    finally:
        os.close(fd)
    return True


def remove(paths: list[str]) -> None:
    """Give names free; nothing happens to those that are."""
    for path in paths:
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue


def write(fd: int, data: bytes) -> None:
    """Append to a record, on the disk when this returns.

    Raises:
        OSError: the disk did not take it.
    """
    append(fd, data)
    os.fsync(fd)


def append(fd: int, data: bytes) -> None:
    """Append to a record; it outlives its writer, though not yet the machine's power."""
    while data:
        data = data[os.write(fd, data) :]


def _objects(lines: list[bytes]) -> list[Any]:
    import json

    try:
        whole: list[Any] = json.loads(b"[" + b",".join(lines) + b"]")
        return whole
    except ValueError:
        if len(lines) == 1:
            return []
        return [found for line in lines for found in _objects([line])]


def _value(value: object) -> str:
    if isinstance(value, str) and value.isascii() and value.isprintable() and '"' not in value and "\\" not in value:
        return f'"{value}"'
    if value is None or value is True or value is False:
        return "null" if value is None else "true" if value else "false"
    if type(value) in (int, float):
        return repr(value)
    import json

    return json.dumps(value)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
