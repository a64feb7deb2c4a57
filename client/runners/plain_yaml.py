"""Plain YAML, read and written for :mod:`runners.utils`: values, lists, mappings, and tuples. Nothing is executed.

Pipeline files have a reader of their own, :mod:`runners.pipeline.reader`, which knows lines and refuses more.
"""

from __future__ import annotations

import enum
import os
import re
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from .errors import InvalidRequest

#: How deep it may be nested.
DEEPEST = 100

_KINDS = (dict, list, tuple, str, int, float)
_TUPLE = "tag:yaml.org,2002:python/tuple"
_LOADER: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


def parse(text: str) -> Any:
    """The value of the one document in a text; None for an empty one.

    Raises:
        InvalidRequest: it is not YAML, more than one document, or holds what is not plain. The message has the line.
    """
    try:
        return _Loader(text).get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        said = [str(part) for part in (getattr(error, "context", None), getattr(error, "problem", None)) if part]
        raise InvalidRequest(f"{where}not valid YAML: {', '.join(said) or error}") from None


def dump(data: Any) -> str:
    """YAML code that :func:`parse` makes the same data of, keys in their order.

    Raises:
        InvalidRequest: the data holds what has no plain form, or itself.
    """
    try:
        return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False)
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidRequest(f"it cannot be written as YAML: {error or 'it holds itself'}") from None


def comments(code: str) -> list[tuple[int, int]]:
    """Where comments are in YAML code, as slices: what its scanner passes over. Of code that it cannot read, those that
    are lines of their own."""
    found: list[tuple[int, int]] = []
    at = 0
    try:
        for token in yaml.scan(code, Loader=_LOADER):
            found += _between(code, at, token.start_mark.index)
            at = max(at, token.end_mark.index)
    except yaml.YAMLError:
        return [match.span() for match in re.finditer(r"^[ \t]*#.*$", code, re.MULTILINE)]
    return found + _between(code, at, len(code))


def _between(code: str, begin: int, end: int) -> list[tuple[int, int]]:
    """The comments between two tokens."""
    return [(begin + match.start(), begin + match.end()) for match in re.finditer("#.*", code[begin:end])]


class _Loader(Composer, SafeConstructor, Resolver):
    """PyYAML's safe loader over libyaml's events. Its composer in C can be crashed by what it reads, this one not."""

    def __init__(self, text: str) -> None:
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)
        self._events = yaml.parse(text, Loader=_LOADER)
        self._next: Any = None
        self._depth = 0

    def peek_event(self) -> Any:
        """Borrowed from yaml.parser."""
        if self._next is None:
            self._next = next(self._events, None)
        return self._next

    def get_event(self) -> Any:
        """Borrowed from yaml.parser."""
        event, self._next = self.peek_event(), None
        return event

    def check_event(self, *choices: Any) -> bool:
        """Borrowed from yaml.parser."""
        event = self.peek_event()
        return event is not None and (not choices or isinstance(event, choices))

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Borrowed from yaml.composer, with a bound on its recursion."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise InvalidRequest(f"line {self.peek_event().start_mark.line + 1}: nested over {DEEPEST} levels deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_tuple(self, node: Any) -> tuple[Any, ...]:
        """What `!!python/tuple` stands before."""
        return tuple(self.construct_sequence(node, deep=True))


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which writes tuples as lists and values that are there twice as references."""

    def ignore_aliases(self, data: Any) -> bool:
        """Borrowed from yaml.representer: what is there twice is written twice, for people to read."""
        return True

    def represent_tuple(self, data: tuple[Any, ...]) -> Any:
        """A list with the tag of a tuple."""
        return self.represent_sequence(_TUPLE, data)

    def represent_kind(self, data: Any) -> Any:
        """What is a kind of mapping, list, tuple, text or number (OrderedDict, numpy.float64): as the plain one."""
        if isinstance(data, enum.Enum):
            return self.represent_undefined(data)
        return self.represent_data(next(kind for kind in _KINDS if isinstance(data, kind))(data))

    def represent_other(self, data: Any) -> Any:
        """What stands for a plain value and is no kind of it: a path, numpy.int64, numpy.float32, numpy.bool_."""
        if isinstance(data, os.PathLike):
            return self.represent_data(os.fspath(data))
        if type(data).__module__ == "numpy" and getattr(data, "ndim", None) == 0:
            value = data.item()
            if type(value) in (bool, int, float, str):
                return self.represent_data(value)
        return self.represent_undefined(data)


_Loader.add_constructor(_TUPLE, _Loader.construct_tuple)  # type: ignore[type-var]  # it is one, in parts
_Dumper.add_representer(None, _Dumper.represent_other)  # type: ignore[arg-type]  # PyYAML's word for all others
_Dumper.add_representer(tuple, _Dumper.represent_tuple)
for _kind in _KINDS:
    _Dumper.add_multi_representer(_kind, _Dumper.represent_kind)
