"""Reads YAML from strangers: bounded in size, depth and nodes, with the line and the source text of everything.

libyaml scans (its event parser: 4 MiB of anything in 0.1 s, where PyYAML's own takes up to 10 s), and the nodes are put
together here. PyYAML's composers are not used: the one over libyaml recurses in C and crashes the process on 100 KB of
`[`. Values are those of PyYAML's SafeLoader (YAML 1.1: `yes` is true, `010` is eight); each keeps its text as written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import yaml
from yaml.constructor import SafeConstructor
from yaml.nodes import ScalarNode

from runners.errors import Problem
from runners.pipeline.checking import render, shown
from runners.pipeline.substitution import grown, masked, replace_directories, unmasked

MAX_BYTES: Final = 4 << 20
MAX_DEPTH: Final = 100
MAX_ALIASED: Final = 100_000  #: nodes that aliases and merge keys may add
MAX_NODES: Final = 250_000  #: nodes in all, so that no file takes longer than two seconds
_MAX_GROWN: Final = 16 << 20  #: characters of all texts with directories in them
_MAX_NUMBER: Final = 100  #: characters; longer digits only burn time
#: Without libyaml PyYAML's own scanner is used. It takes up to ten seconds a MB, so it gets no more than this.
_MAX_BYTES_SLOW: Final = 128 << 10

_TAG = "tag:yaml.org,2002:"
_TUPLE = _TAG + "python/tuple"
_PLAIN_TAGS = {_TAG + name for name in ("str", "int", "float", "bool", "null", "seq", "map", "timestamp")}
#: What YAML does not hold, and the three that it takes for line ends though no editor does.
_UNREADABLE = re.compile("[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAG_DIRECTIVE = re.compile(r"^%TAG\b", re.MULTILINE)


@dataclass(slots=True)
class Scalar:
    """A value, and its text as written in the file (`0.0001`, `1e-4`, `yes`, `010`), directories replaced."""

    text: str
    value: str | int | float | bool | None
    line: int


@dataclass(slots=True)
class Listing:
    """A sequence."""

    line: int
    items: list[Node] = field(default_factory=list)
    size: int = 1  #: nodes, with all that aliases stand for


class Entry(NamedTuple):
    """What a key of a mapping leads to, and the line of the key."""

    line: int
    node: Node


@dataclass(slots=True)
class Table:
    """A mapping, its keys as written."""

    line: int
    entries: dict[str, Entry] = field(default_factory=dict)
    size: int = 1


Node = Scalar | Listing | Table


class _Unreadable(Exception):
    """Nothing can be made of the file. Caught in :func:`read`."""

    def __init__(self, message: str, line: int) -> None:
        self.message, self.line = message, line
        super().__init__(message)


def read(data: bytes, file: str, directories: Mapping[str, str], add: Callable[[Problem], None]) -> Node | None:
    """The one document in a file, `${DATA_DIRECTORY}` and its sisters replaced. ``add`` is told what is wrong with it.

    A duplicate key, a refused tag or a directory without a value is told, and the reading goes on; None when the file
    cannot be read at all. ``file`` is its name in the problems.
    """
    try:
        return _Composer(_text(data), file, directories, add).document()
    except _Unreadable as error:
        add(Problem("", error.message, file, error.line))
    except yaml.YAMLError as error:
        add(_syntax_problem(error, data, file))
    return None


def _text(data: bytes) -> str:
    """The text, when it is one that YAML can hold."""
    if len(data) > MAX_BYTES:
        raise _Unreadable(f"the file is over {MAX_BYTES >> 20} MiB, which is more than a pipeline file may have", 1)
    if not yaml.__with_libyaml__ and len(data) > _MAX_BYTES_SLOW:
        raise _Unreadable(f"this PyYAML has no libyaml, without which {_MAX_BYTES_SLOW >> 10} KiB are the most", 1)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _Unreadable(f"not a text file: byte 0x{data[error.start]:02x} is not UTF-8", line) from None
    if found := _UNREADABLE.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise _Unreadable(f"not a text file: it holds the control character U+{ord(found[0]):04X}", line)
    if found := _TAG_DIRECTIVE.search(text):
        raise _Unreadable("%TAG directives are not taken", text.count("\n", 0, found.start()) + 1)
    return text


def _syntax_problem(error: yaml.YAMLError, data: bytes, file: str) -> Problem:
    """What the scanner said, in one line, with a hint for the slips that are made most."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line + 1 if mark else 1
    said = [str(part) for part in (getattr(error, "context", None), getattr(error, "problem", None)) if part]
    message = f"not valid YAML: {', '.join(said) or str(error).splitlines()[0]}"
    source = data.split(b"\n", line)[line - 1] if data.count(b"\n") >= line - 1 else b""
    if mark and source[mark.column : mark.column + 1] == b"\t":
        message += "; indent with spaces, not with tabs"
    elif b"${" in source and (b"{" in source.replace(b"${", b"") or b"[" in source):
        message += "; within `{ }` and `[ ]`, put quotes around text that holds `${...}`"
    elif "mapping values are not allowed" in message:
        message += "; put quotes around text that holds `: `"
    return Problem("", message, file, line)


class _Composer:
    """Puts nodes together from events, and counts them. Recurses at most `MAX_DEPTH` deep."""

    def __init__(self, text: str, file: str, directories: Mapping[str, str], add: Callable[[Problem], None]) -> None:
        self.source = text
        self.file = file
        self.directories = directories
        self.add = add
        loader: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
        self.events: Iterator[Any] = yaml.parse(masked(text), Loader=loader)
        self.path: list[str | int | None] = []  #: keys and positions on the way to the node being read; None is a key
        self.anchors: dict[str, Node | None] = {}
        self.nodes = 0
        self.aliased = 0
        self.grown = 0
        self.lines: list[str] | None = None

    def document(self) -> Node:
        """The only document there is."""
        next(self.events)  # the stream's start
        if isinstance(next(self.events), yaml.StreamEndEvent):
            raise _Unreadable("the file is empty", 1)
        root = self.node(next(self.events), 1)
        next(self.events)  # the document's end
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise _Unreadable("a second document begins here; a pipeline file holds one", event.start_mark.line + 1)
        if isinstance(root, Scalar) and root.value is None:
            raise _Unreadable("the file is empty", 1)
        return root

    def problem(self, message: str, line: int) -> None:
        path = tuple(step for step in self.path if step is not None)
        self.add(Problem(render(path), message, self.file, line))

    def node(self, event: Any, depth: int) -> Node:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event.anchor, line)
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise _Unreadable(f"more than {MAX_NODES} values in one file", line)
        if depth > MAX_DEPTH:
            raise _Unreadable(f"nested more than {MAX_DEPTH} levels deep", line)
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        node: Node
        if isinstance(event, yaml.ScalarEvent):
            node = self.scalar(event, line)
        elif isinstance(event, yaml.SequenceStartEvent):
            self.check_tag(event.tag, "seq", line)
            node = self.listing(line, depth)
        else:
            self.check_tag(event.tag, "map", line)
            node = self.table(line, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def alias(self, anchor: Any, line: int) -> Node:
        if anchor not in self.anchors:
            raise _Unreadable(f"the alias *{anchor[:60]} has no anchor above it", line)
        node = self.anchors[anchor]
        if node is None:
            raise _Unreadable(f"&{anchor[:60]} contains itself", line)
        self.grow(_size(node), line)
        return node

    def grow(self, count: int, line: int) -> None:
        self.aliased += count
        if self.aliased > MAX_ALIASED:
            raise _Unreadable(f"aliases expand past {MAX_ALIASED} values", line)

    def check_tag(self, tag: str | None, kind: str, line: int) -> None:
        """Only the tags that change nothing are taken."""
        if tag in (None, "!", _TAG + kind) or (tag == _TUPLE and kind == "seq"):
            return
        shown = str(tag).replace(_TAG, "!!")[:60]
        if tag in _PLAIN_TAGS:
            self.problem(f"the tag {shown} does not fit what follows it", line)
        else:
            self.problem(f"the tag {shown} is refused: a pipeline file holds plain values (and !!python/tuple)", line)

    # -- scalars ------------------------------------------------------------------------------------------------------

    def scalar(self, event: Any, line: int) -> Scalar:
        text = unmasked(event.value)
        tag = event.tag
        if tag is None or tag == "!":
            tag = _resolve(text) if event.implicit[0] and tag is None else _TAG + "str"
        elif tag not in _PLAIN_TAGS or tag in (_TAG + "seq", _TAG + "map"):
            self.check_tag(tag, "str", line)
            tag = _TAG + "str"
        if tag == _TAG + "str":
            if "${" in text:
                text = self.replaced(text, event)
            return Scalar(text, text, line)
        return Scalar(text, self.value(tag, text, line), line)

    def value(self, tag: str, text: str, line: int) -> str | int | float | bool | None:
        """What PyYAML's SafeLoader makes of it; a time stays the text it is."""
        kind = tag.removeprefix(_TAG)
        if kind == "null":
            return None
        if kind == "int" and text.isdecimal() and text[0] in "123456789" and len(text) <= _MAX_NUMBER:
            return int(text)  # what nearly all numbers are, at a tenth of the constructor's price
        try:
            if kind == "bool":
                return SafeConstructor.bool_values[text.lower()]
            if kind in ("int", "float") and len(text) <= _MAX_NUMBER:
                read = _CONSTRUCTOR.construct_yaml_int if kind == "int" else _CONSTRUCTOR.construct_yaml_float
                return read(ScalarNode(tag, text))
        except (KeyError, ValueError, OverflowError, IndexError):
            self.problem(f"{shown(text)} is not of the type {kind}", line)
            return text
        if kind in ("int", "float"):
            self.problem(f"a number of {len(text)} digits", line)
        return text

    def replaced(self, text: str, event: Any) -> str:
        """The text with the directories in it; one without a value is a problem at the line that names it."""
        first, last = event.start_mark.line, event.end_mark.line
        self.grown += grown(text, self.directories)
        if self.grown > _MAX_GROWN:
            raise _Unreadable(f"over {_MAX_GROWN >> 20} MiB with the directories' names in it", first + 1)

        def missing(name: str) -> None:
            if self.lines is None:
                self.lines = self.source.splitlines()
            named = (at for at in range(first, min(last + 1, len(self.lines))) if f"${{{name}}}" in self.lines[at])
            line = next(named, first) + 1
            self.problem(f"${{{name}}} has no value: set {name} in your environment, or in the daemon's config", line)

        return replace_directories(text, self.directories, missing)

    # -- collections --------------------------------------------------------------------------------------------------

    def listing(self, line: int, depth: int) -> Listing:
        out = Listing(line)
        self.path.append(0)
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            self.path[-1] = len(out.items)
            node = self.node(event, depth + 1)
            out.items.append(node)
            out.size += _size(node)
        self.path.pop()
        return out

    def table(self, line: int, depth: int) -> Table:
        out = Table(line)
        merged: list[Table] = []
        self.path.append(None)
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key_line = event.start_mark.line + 1
            merge = isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]
            self.path[-1] = None
            key = self.node(event, depth + 1)
            self.path[-1] = key.text if isinstance(key, Scalar) else None
            node = self.node(next(self.events), depth + 1)
            if merge:
                merged += self.merged(node, key_line)
            elif not isinstance(key, Scalar):
                self.problem("a key must be plain text, not a list or a mapping", key_line)
            elif key.text in out.entries:
                first = out.entries[key.text].line
                self.problem(f"the key {shown(key.text)} is there twice, first in line {first}", key_line)
            else:
                out.entries[key.text] = Entry(key_line, node)
                out.size += 1 + _size(node)
        self.path.pop()
        return self.with_merged(out, merged) if merged else out

    def merged(self, node: Node, line: int) -> list[Table]:
        """The mappings that a `<<` names."""
        found = node.items if isinstance(node, Listing) else [node]
        tables = [table for table in found if isinstance(table, Table)]
        if len(tables) < len(found):
            self.problem("`<<` takes a mapping, or a list of mappings", line)
        for table in tables:
            self.grow(table.size, line)
        return tables

    def with_merged(self, out: Table, merged: list[Table]) -> Table:
        """The keys merged in, under the mapping's own: the first mapping named wins, as YAML has it."""
        entries: dict[str, Entry] = {}
        for table in merged:
            for key, entry in table.entries.items():
                entries.setdefault(key, entry)
        entries.update(out.entries)
        size = 1 + sum(1 + _size(entry.node) for entry in entries.values())
        return Table(out.line, entries, size)


_CONSTRUCTOR = SafeConstructor()


def _size(node: Node) -> int:
    return 1 if isinstance(node, Scalar) else node.size


def _resolve(text: str) -> str:
    """The tag that YAML 1.1 gives a plain scalar."""
    resolvers = yaml.SafeLoader.yaml_implicit_resolvers
    for tag, pattern in resolvers.get(text[:1], ()):
        if pattern.match(text):
            return str(tag)
    return _TAG + "str"
