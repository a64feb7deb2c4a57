"""The files of one pipeline, each read once however many items name it."""

from __future__ import annotations

import os.path
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from runners.errors import Problem
from runners.pipeline.reader import Node, read

#: Gives a file's identity, whatever path led to it, and its content; whether it must be a regular file is the other
#: argument. Raises OSError when it cannot.
ReadFile = Callable[[str, bool], tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Document:
    """A file as read: who it is, what to call it, and its content (None when that could not be made out)."""

    identity: str
    file: str
    root: Node | None


class Library:
    """Reads files, `${DATA_DIRECTORY}` and its sisters replaced, and remembers them."""

    def __init__(self, read_file: ReadFile, directories: Mapping[str, str], add: Callable[[Problem], None]) -> None:
        """``directories`` are the variables' values; ``add`` is told what is wrong with a file."""
        self.files: list[str] = []  #: in the order they were first read
        self._read_file = read_file
        self._directories = directories
        self._add = add
        self._known: dict[str, Document] = {}
        self._by_path: dict[str, Document] = {}

    def open(self, path: str, beside: Document | None = None) -> Document:
        """The document at a path, which is relative to the file ``beside`` it.

        Raises:
            OSError: it cannot be read.
        """
        if beside is not None:
            path = os.path.normpath(os.path.join(os.path.dirname(beside.file), path))
        if path not in self._by_path:
            identity, data = self._read_file(path, beside is not None)
            if identity not in self._known:
                self.files.append(path)
                self._known[identity] = Document(identity, path, read(data, path, self._directories, self._add))
            self._by_path[path] = self._known[identity]
        return self._by_path[path]
