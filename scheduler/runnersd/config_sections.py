"""How a setting is declared, and how a mapping becomes settings. Pure; the settings are in `runnersd.config`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import field, fields
from typing import Any

from runners.errors import Problem
from runnersd.config_values import Kind

#: A place in the file: mapping keys and list positions.
KeyPath = tuple[str | int, ...]
#: The 1-based line of a place; 0 where that is not known.
Where = Callable[[KeyPath], int]


def key(default: Any, kind: Kind, *, called: str = "", secret: bool = False) -> Any:
    """A setting: what it is when the file does not say, and the kind of value it takes.

    ``called`` is its name in the file where Python has another use for that; what a ``secret`` one was is never shown.
    """
    return field(default=default, metadata={"kind": kind, "called": called, "secret": secret})


def section(of: type[Any]) -> Any:
    """A mapping of settings."""
    return field(default_factory=of, metadata={"section": of})


def short(of: type[Any], name: str) -> Any:
    """A mapping of settings, or only the one ``name`` of them, which it must have; none at all by default."""
    return field(default=None, metadata={"short": of, "name": name})


def read_section(of: type[Any], data: Any, path: KeyPath, problems: list[Problem], where: Where, file: str) -> Any:
    """An instance of the dataclass ``of``, from a mapping."""
    if data is None:
        return of()
    if not isinstance(data, dict):
        problems.append(Problem(_dotted(path), f"found {_shown(data)}: must be a mapping", file, where(path)))
        return of()
    known = {f.metadata.get("called") or f.name: f for f in fields(of) if f.metadata}
    values: dict[str, Any] = {}
    for name, value in data.items():
        here = (*path, name)
        if name not in known:
            problems.append(Problem(_dotted(here), _unknown(name, tuple(known)), file, where(here)))
            continue
        metadata, field_name = known[name].metadata, known[name].name
        if "section" in metadata:
            values[field_name] = read_section(metadata["section"], value, here, problems, where, file)
        elif "short" in metadata:
            values[field_name] = _short(metadata["short"], metadata["name"], value, here, problems, where, file)
        elif "table" in metadata:
            values[field_name] = _table(metadata["table"], value, here, problems, where, file)
        else:
            try:
                values[field_name] = metadata["kind"](value)
            except ValueError as error:
                message = str(error) if metadata["secret"] else f"found {_shown(value)}: {error}"
                problems.append(Problem(_dotted(here), message, file, where(here)))
    return of(**values)


def _short(of: type[Any], name: str, data: Any, path: KeyPath, problems: list[Problem], where: Where, file: str) -> Any:
    """An instance of the dataclass ``of``, from a mapping that has ``name``, or from that value alone; or None."""
    if data is None:
        return None
    if not isinstance(data, dict):
        return read_section(of, {name: data}, path, problems, lambda _: where(path), file)
    if data.get(name) is None:
        problems.append(Problem(_dotted(path), f"must say its {name}", file, where(path)))
        data = {key: value for key, value in data.items() if key != name}
    return read_section(of, data, path, problems, where, file)


def _table(of: type[Any], data: Any, path: KeyPath, problems: list[Problem], where: Where, file: str) -> dict[str, Any]:
    """A mapping from names of the file's choosing to sections."""
    if data is None:
        return {}
    if not isinstance(data, dict):
        problems.append(Problem(_dotted(path), f"found {_shown(data)}: must be a mapping", file, where(path)))
        return {}
    return {str(name): read_section(of, value, (*path, name), problems, where, file) for name, value in data.items()}


def _unknown(name: object, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    if near:
        return f"unknown key; did you mean {near[0]!r}?"
    return f"unknown key; allowed are {', '.join(known)}"


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _dotted(path: Sequence[str | int]) -> str:
    return ".".join(map(str, path))
