"""What the recorder wrote down."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HEAD = struct.Struct("<ciqqII")


@dataclass(frozen=True, slots=True)
class Step:
    """One call that changed something, or made sure of it. Paths are below the recorded folder, "" for itself.

    ``kind``: S a program started, O opened (``at``: flags), W wrote, T truncated, A allocated, F fsync, U unlinked,
    M made a folder, R renamed (``data``: to).
    """

    kind: str
    file: int  #: the descriptor
    at: int
    size: int
    path: str
    data: bytes


def read(log: Path) -> Iterator[Step]:
    """Every step in the order in which they were done."""
    with log.open("rb") as file:
        while head := file.read(_HEAD.size):
            kind, number, at, size, name, data = _HEAD.unpack(head)
            yield Step(kind.decode(), number, at, size, file.read(name).decode().lstrip("/"), file.read(data))
