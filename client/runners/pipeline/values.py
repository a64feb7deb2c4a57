"""What the keys of a file hold, each with the place it stands at; and from where the jobs made of them come. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from runners.errors import Problem
from runners.pipeline import schema
from runners.pipeline.checking import Path, render
from runners.pipeline.reader import Listing, Node, Scalar, Table
from runners.pipeline.substitution import has_placeholder
from runners.spec import Need


class Place(NamedTuple):
    """Where something stands: its file, 1-based line and key path."""

    file: str
    line: int
    path: Path = ()

    def problem(self, message: str, *rest: str | int) -> Problem:
        """Something wrong here, or further along the path."""
        return Problem(render((*self.path, *rest)), message, self.file, self.line)


class Value(NamedTuple):
    """What a key of a job holds: as plain data, where it stands, the node it was, and the default merged under it."""

    plain: Any
    place: Place
    node: Node
    dynamic: bool  #: holds a `${{ matrix.k }}`
    under: Value | None = None

    def member(self, step: str | int) -> Place:
        """Where one of its items or keys stands; where it stands itself when it has no such member."""
        node, place = self.node, self.place
        if isinstance(node, Listing) and isinstance(step, int) and step < len(node.items):
            return Place(place.file, node.items[step].line, (*place.path, step))
        if isinstance(node, Table) and step in node.entries:
            return Place(place.file, node.entries[str(step)].line, (*place.path, step))
        return self.under.member(step) if self.under else Place(place.file, place.line, (*place.path, step))


@dataclass(slots=True)
class Origin:
    """What one entry of a file says, and what it needs; the jobs of its matrix share it."""

    place: Place
    values: dict[str, Value]
    needs: list[tuple[Need, Place]] = field(default_factory=list)


class SourceMap:
    """Where the values of the document stand in the files it is made of, so that a complaint names a line.

    Its jobs were multiplied, and merged with defaults of other places. The walk notes from where, as a compiler does
    for the code that it generates.
    """

    def __init__(self) -> None:
        self.origins: list[Origin] = []  #: one a job of the document
        self.entry = Origin(Place("", 1), {})  #: the one being read; in the end, the outermost file

    def locate(self, path: Path, message: str) -> Problem:
        """The place in a file of a key path in the document; `entry` stands for the one being read."""
        origin, rest = self.entry, path
        if len(path) > 1 and path[0] == "jobs" and isinstance(path[1], int):
            origin, rest = self.origins[path[1]], path[2:]
            if rest[:1] == ("needs",) and origin.needs:
                return origin.needs[rest[1] if len(rest) > 1 and isinstance(rest[1], int) else 0][1].problem(message)
        elif path[:1] == ("entry",):
            rest = path[1:]
        if rest and isinstance(rest[0], str) and rest[0] in origin.values:
            value = origin.values[rest[0]]
            place = value.member(rest[1]) if len(rest) > 1 else value.place
            return place.problem(message, *rest[2:])
        return origin.place.problem(message, *rest)


def read_values(file: str, table: Table, path: Path, only: Sequence[str] | None = None) -> dict[str, Value]:
    """The keys of a mapping (or the ``only`` ones wanted) as values. Of a key that no job has nothing is read."""
    out: dict[str, Value] = {}
    for name, (line, node) in table.entries.items():
        if only is not None and name not in only:
            continue
        place = Place(file, line, (*path, name))
        known = schema.JOB_KEYS.get(name)
        if known is None and name not in ("pipeline", "num_jobs"):
            out[name] = Value(None, place, node, False)
            continue
        value = plain(node, name == "pipeline" or (known is not None and known.as_written))
        out[name] = Value(value, place, node, _dynamic(value))
    return out


def merged(under: Mapping[str, Value], own: Mapping[str, Value]) -> dict[str, Value]:
    """An entry's values over its defaults, as `schema.with_defaults` merges plain ones; matrices axis by axis."""
    dropped = schema.overridden(own)
    out = {name: value for name, value in under.items() if name not in dropped}
    for name, value in own.items():
        below = out.get(name)
        if name in schema.MERGED_KEYS and below and isinstance(below.plain, dict) and isinstance(value.plain, dict):
            dynamic = value.dynamic or below.dynamic
            value = Value({**below.plain, **value.plain}, value.place, value.node, dynamic, below)
        elif name == "matrix" and below and isinstance(below.node, Table) and isinstance(value.node, Table):
            value = value._replace(node=Table(value.node.line, {**below.node.entries, **value.node.entries}))
        out[name] = value
    return out


def plain(node: Node, written: bool = False) -> Any:
    """A node as JSON has it; with ``written``, numbers and words as their text in the file."""
    if isinstance(node, Scalar):
        return node.text if written and node.value is not None else node.value
    if isinstance(node, Listing):
        return [plain(item, written) for item in node.items]
    return {name: plain(entry.node, written) for name, entry in node.entries.items()}


def _dynamic(value: Any) -> bool:
    if isinstance(value, str):
        return has_placeholder(value)
    if isinstance(value, list):
        return any(_dynamic(item) for item in value)
    return isinstance(value, dict) and any(_dynamic(item) for item in value.values())


def weight(value: Any) -> int:
    """About how many characters it takes as JSON; never more than it does."""
    if isinstance(value, str):
        return len(value) + 2
    if isinstance(value, dict):
        return sum(len(name) + 3 + weight(item) for name, item in value.items())
    if isinstance(value, list):
        return sum(1 + weight(item) for item in value)
    return 1
