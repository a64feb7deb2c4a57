"""Files as the programs see them, and as a power cut may leave them.

Only what was synced is sure: contents by an fsync of the file, names by an fsync of the folder that they are in. Of all
else each change may be there or not, whatever came before or after it; of a write also some of the sectors. File systems
keep more of the order than that, each of them another part of it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from powerloss.recording import Step

SECTOR = 512


@dataclass(slots=True, eq=False)
class Content:
    """Bytes, and how many there are: those behind the last one that was written are zeros, and not kept here."""

    data: bytearray = field(default_factory=bytearray)
    size: int = 0

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Content) and self.size == other.size
        return same and self.data.rstrip(b"\0") == other.data.rstrip(b"\0")

    def copy(self) -> Content:
        return Content(bytearray(self.data), self.size)

    def do(self, step: Step) -> None:
        if step.kind == "W":
            self.put(step.at, step.data)
        elif step.kind == "T":
            del self.data[step.size :]
            self.size = step.size
        else:
            self.size = max(self.size, step.at + step.size)

    def put(self, at: int, data: bytes) -> None:
        if len(self.data) < at:
            self.data.extend(bytes(at - len(self.data)))
        self.data[at : at + len(data)] = data
        self.size = max(self.size, at + len(data))


@dataclass(slots=True, eq=False)
class File:
    """What of it is on the disk for sure, and what was done since."""

    sure: Content = field(default_factory=Content)
    open_steps: list[Step] = field(default_factory=list)

    def sync(self) -> None:
        for step in self.open_steps:
            self.sure.do(step)
        self.open_steps.clear()

    def left(self, fate: Fate) -> Content:
        """Its content after the cut."""
        content = self.sure.copy()
        for step in self.open_steps:
            fate.change(content, step)
        return content


class Folder:
    """Stands for a folder among the names."""


Names = dict[str, File | Folder]


@dataclass(frozen=True, slots=True)
class Entry:
    """A change of names in one folder: ``path`` is given to ``target`` (None: to nothing), ``old`` is taken away."""

    path: str
    target: File | Folder | None
    old: str | None = None

    def do(self, names: Names) -> None:
        if self.old is not None:
            names.pop(self.old, None)
        if self.target is None:
            names.pop(self.path, None)
        else:
            names[self.path] = self.target


class Fate(Protocol):
    """What becomes of changes that were not synced."""

    def change(self, content: Content, step: Step) -> None:
        """Do to the file's content what is left of the step."""

    def name(self) -> bool:
        """Whether a change of names is there."""


class AllKept:
    """As a killed program leaves its files, with the power on."""

    def change(self, content: Content, step: Step) -> None:
        content.do(step)

    def name(self) -> bool:
        return True


class AllLost:
    """Nothing that was not synced is there."""

    def change(self, content: Content, step: Step) -> None:
        pass

    def name(self) -> bool:
        return False


class Chance:
    """Some of it is there: of a write all, nothing, or some sectors; where a file would have grown, maybe zeros."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._kept, self._torn = dice.choice([0.1, 0.5, 0.9]), dice.choice([0.0, 0.2, 0.8])

    def change(self, content: Content, step: Step) -> None:
        dice = self._dice
        if step.kind == "W" and dice.random() < self._torn:
            pieces = list(_sectors(step))
            cut = dice.randrange(len(pieces) + 1)
            some = dice.choice([pieces[:cut], pieces[cut:], [one for one in pieces if dice.random() < 0.5]])
            for at, data in some:
                content.put(at, data)
        elif dice.random() < self._kept:
            content.do(step)
        elif step.kind == "W" and dice.random() < 0.5:
            content.size = max(content.size, step.at + len(step.data))

    def name(self) -> bool:
        return self._dice.random() < self._kept


class Disk:
    """Everything below one folder."""

    def __init__(self, root: Path) -> None:
        """As the folder is now, all of it on the disk for sure."""
        self._sure: Names = {"": Folder()}
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            if path.is_dir():
                self._sure[name] = Folder()
            else:
                data = path.read_bytes()
                self._sure[name] = File(Content(bytearray(data.rstrip(b"\0")), len(data)))
        self._now: Names = dict(self._sure)
        self._entries: dict[str, list[Entry]] = {}  #: not synced, by folder
        self._descriptors: dict[int, tuple[str, File | Folder]] = {}

    def do(self, step: Step) -> None:
        """The next step of the recording."""
        if step.kind == "S":
            self._descriptors.clear()
        elif step.kind == "O":
            self._open(step)
        elif step.kind == "M":
            self._enter(Entry(step.path, Folder()))
        elif step.kind == "U":
            self._enter(Entry(step.path, None))
        elif step.kind == "R":
            to = step.data.decode().lstrip("/")
            assert os.path.dirname(to) == os.path.dirname(step.path), "renamed into another folder"
            self._enter(Entry(to, self._now[step.path], step.path))
        else:
            path, target = self._descriptors[step.file]
            if isinstance(target, File):
                if step.kind == "F":
                    target.sync()
                else:
                    target.open_steps.append(step)
            elif step.kind == "F":
                for entry in self._entries.pop(path, []):
                    entry.do(self._sure)

    def opened(self, step: Step) -> str:
        """Which file the step is about: its path when it was opened."""
        return self._descriptors[step.file][0] if step.file in self._descriptors else step.path

    def cut(self, fate: Fate) -> dict[str, Content | None]:
        """What the power leaves: contents by path, None for a folder."""
        names = dict(self._sure)
        for entries in self._entries.values():
            for entry in entries:
                if fate.name():
                    entry.do(names)
        left: dict[str, Content | None] = {}
        for path, target in sorted(names.items()):
            if path and os.path.dirname(path) not in left:
                continue  # the folder that it was in is not there
            left[path] = target.left(fate) if isinstance(target, File) else None
        return left

    def _open(self, step: Step) -> None:
        target = self._now.get(step.path)
        if target is None:
            target = File()
            self._enter(Entry(step.path, target))
        elif step.at & os.O_TRUNC and isinstance(target, File):
            target.open_steps.append(Step("T", step.file, 0, 0, step.path, b""))
        self._descriptors[step.file] = (step.path, target)

    def _enter(self, entry: Entry) -> None:
        entry.do(self._now)
        self._entries.setdefault(os.path.dirname(entry.path), []).append(entry)


def write(left: dict[str, Content | None], root: Path) -> None:
    """Make a folder of what a cut left."""
    for path, content in left.items():
        if content is None:
            (root / path).mkdir(mode=0o700, exist_ok=True)
        else:
            with (root / path).open("wb") as file:
                file.write(content.data)
                file.truncate(content.size)


def _sectors(step: Step) -> Iterator[tuple[int, bytes]]:
    """A write in pieces, each within one sector."""
    at, end = step.at, step.at + len(step.data)
    while at < end:
        until = min(end, at - at % SECTOR + SECTOR)
        yield at, step.data[at - step.at : until - step.at]
        at = until
