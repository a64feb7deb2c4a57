"""An attempt's record: the file that makes its payload start once, and tells the next daemon which container it is.

A file of JSON lines beside the attempt's logs, as host jobs have one:

    {"run", "boot", "spec", "gpus", "grace", ...}         made with O_EXCL: the name is taken, before anything is asked
    {"container": id, "gated": bool, "gate"}     the engine has made it
    {"starting": [pid, start] | null, "asked"}   its start is about to be asked for, of this engine process
    {"unasked": true}                            the engine could not be reached: it was not asked
    {"engine": [pid, start], "live_restore"}     another engine process has it since, and let it live on
    {"began", "at", "pid", "start", ...}         its first process runs; it may still wait at its gate
    {"opened": time}                             the gate is about to be opened: from here on the payload may run
    {"unread": true}                             it had ended before it passed the gate: the payload has not run
    {"told": true}                               it is about to be told to stop, while its payload runs
    {"failed": why} / {"stopped": why}           nothing ran, and nothing will
    {"lost": why}                                how it ended will never be known

Every line outlives the daemon. The one that comes before the payload may run is on disk before it does.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from runnersd.machine.host import record as files


@dataclass(slots=True)
class Record:
    """What a record says."""

    boot: str | None = None
    spec: str | None = None
    gpus: tuple[str, ...] = ()
    grace: float = 10.0
    log_max: int = 1 << 30
    container: str | None = None
    gated: bool = False
    gate: str | None = None  #: its folder, where that is not the attempt's own
    starting: bool = False
    instance: tuple[int, int] | None = None  #: the engine process that was asked to start it, or has it since
    asked: float | None = None  #: when (Unix seconds)
    live_restore: bool = False
    began: str | None = None  #: the engine's own word for when
    at: float | None = None
    pid: int | None = None
    start: int | None = None
    opened: bool = False
    unread: bool = False
    told: bool = False
    failed: str | None = None
    stopped: str | None = None
    lost: str | None = None

    @property
    def over(self) -> bool:
        """Whether there is nothing left to find out."""
        return self.failed is not None or self.stopped is not None or self.lost is not None

    @property
    def may_have_run(self) -> bool:
        """Whether the payload may have been started."""
        return (self.opened and not self.unread) if self.gated else self.starting

    def take(self, line: dict[str, Any]) -> None:
        """Add what a line says."""
        for name, value in line.items():
            if name == "starting":
                self.starting = True
                self.instance = tuple(value) if value else None
            elif name == "engine":
                self.instance = tuple(value)
            elif name == "unasked":
                self.starting, self.instance = False, None
            elif name == "opened":
                self.opened = True
            elif name in Record.__slots__:
                setattr(self, name, value)


class RecordFile:
    """One attempt's record on disk, and what it says so far."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.said = Record()

    @classmethod
    def find(cls, path: str) -> RecordFile | None:
        """The record at ``path``; None when there is none."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            data = os.read(fd, files.LIMIT)
        finally:
            os.close(fd)
        found = cls(path)
        for text in data.split(b"\n")[:-1]:
            try:
                line = json.loads(text) if text else {}
            except ValueError:
                continue  # torn by a full disk or a kill
            if isinstance(line, dict):
                found.said.take(line)
        return found

    @classmethod
    def make(cls, path: str, **first: Any) -> RecordFile | None:
        """Take the name; None when it is taken."""
        fd = files.create(path)
        if fd is None:
            return None
        made = cls(path)
        try:
            files.append(fd, json.dumps(first).encode() + b"\n")
        finally:
            os.close(fd)
        made.said.take(first)
        return made

    def add(self, *, durable: bool = False, **line: Any) -> None:
        """Append a line; with ``durable``, on the disk when this returns.

        Raises:
            OSError: the disk did not take it.
        """
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            data = b"\n" + json.dumps(line).encode() + b"\n"  # the newline ends what an earlier try may have torn
            (files.write if durable else files.append)(fd, data)
        finally:
            os.close(fd)
        self.said.take(line)
