"""A `matrix`: the values that one entry of a file is multiplied by. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

from runners.pipeline.checking import Path, shown
from runners.pipeline.reader import Listing, Node, Scalar, Table
from runners.pipeline.substitution import replace_matrix, whole_placeholder

#: One combination: the value of each key.
Combination = Mapping[str, Scalar]
#: Told of a mistake: the message, the line, and the key path below the matrix.
Wrong = Callable[[str, int, Path], None]

#: With dots between its parts it may be a key of an experiment's configuration: `train_config.lr`.
_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", re.ASCII)
_BLANKS = re.compile(r"\s+")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def label(combination: Combination) -> str:
    """What a combination adds to a job's name: `[lr=0.001,fold=0]`, values as written, without line ends."""
    if not combination:
        return ""
    parts = (f"{key}={_BLANKS.sub(' ', scalar.text)}" for key, scalar in combination.items())
    return "[" + _UNPRINTABLE.sub("?", ",".join(parts)) + "]"


def combinations(node: Node, line: int, most: int, wrong: Wrong) -> list[Combination]:
    """Every combination of a mapping of lists (the first key changes slowest), or the ones a list names.

    None at all when something is wrong with it, which ``wrong`` then knows. ``line`` is that of the matrix.
    """
    if isinstance(node, Table):
        return _product(node, line, most, wrong)
    if isinstance(node, Listing):
        return _listed(node, line, most, wrong)
    wrong(f"expected a mapping of lists, or a list of mappings, found {shown(node.value)}", line, ())
    return []


def filled(plain: Any, combination: Combination, typed: bool, wrong: Callable[[str, Path], None], at: Path = ()) -> Any:
    """Plain data with its placeholders replaced. What cannot be is told to ``wrong``, with its key path, and left.

    ``typed``: a text that is one placeholder becomes the value itself. ``at`` is the key path of the data.
    """
    if isinstance(plain, str):
        name = whole_placeholder(plain) if typed else None
        if name is not None and name in combination:
            return combination[name].value
        texts = {key: scalar.text for key, scalar in combination.items()}
        return replace_matrix(plain, texts, lambda message: wrong(message, at))
    if isinstance(plain, list):
        return [filled(item, combination, typed, wrong, (*at, position)) for position, item in enumerate(plain)]
    if isinstance(plain, dict):
        return {name: filled(item, combination, typed, wrong, (*at, name)) for name, item in plain.items()}
    return plain


def _product(node: Table, line: int, most: int, wrong: Wrong) -> list[Combination]:
    good = True
    axes: dict[str, list[Scalar]] = {}
    for key, (key_line, values) in node.entries.items():
        good &= _key(key, key_line, (key,), wrong)
        if not isinstance(values, Listing) or not values.items:
            found = "an empty list" if isinstance(values, Listing) else _kind(values)
            wrong(f"expected a list of values, found {found}", key_line, (key,))
            good = False
            continue
        axes[key] = []
        seen: set[str] = set()
        for position, value in enumerate(values.items):
            scalar = _value(value, (key, position), wrong)
            if scalar is None:
                good = False
            elif scalar.text in seen:
                wrong(f"the value {shown(scalar.text)} is there twice", scalar.line, (key, position))
                good = False
            else:
                seen.add(scalar.text)
                axes[key].append(scalar)
    if not node.entries:
        wrong("expected at least one key, found an empty mapping", line, ())
        good = False
    count = math.prod(len(values) for values in axes.values())
    if good and count > most:
        wrong(
            f"makes {count if count < 10**12 else 'far too many'} jobs; at most {most} fit into one pipeline", line, ()
        )
        good = False
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())] if good else []


def _listed(node: Listing, line: int, most: int, wrong: Wrong) -> list[Combination]:
    found: dict[tuple[tuple[str, str], ...], Combination] = {}
    good = True
    for position, item in enumerate(node.items):
        if not isinstance(item, Table) or not item.entries:
            wrong(f"expected a mapping of values, found {_kind(item)}", item.line, (position,))
            good = False
            continue
        combination: dict[str, Scalar] = {}
        for key, (key_line, value) in item.entries.items():
            good &= _key(key, key_line, (position, key), wrong)
            scalar = _value(value, (position, key), wrong)
            if scalar is None:
                good = False
            else:
                combination[key] = scalar
        identity = tuple((key, scalar.text) for key, scalar in combination.items())
        if identity in found:
            wrong("this combination is there twice", item.line, (position,))
            good = False
        found[identity] = combination
    if not node.items:
        wrong("expected at least one combination, found an empty list", line, ())
        good = False
    if good and len(found) > most:
        wrong(f"makes {len(found)} jobs; at most {most} fit into one pipeline", line, ())
        good = False
    return list(found.values()) if good else []


def _key(key: str, line: int, path: Path, wrong: Wrong) -> bool:
    if _KEY.fullmatch(key):
        return True
    wrong(f"expected a key of letters, digits, `_` and `-`, found {shown(key)}", line, path)
    return False


def _value(node: Node, path: Path, wrong: Wrong) -> Scalar | None:
    if isinstance(node, Scalar) and (node.value is not None or node.text):
        return node
    wrong(f"expected a plain value, found {_kind(node)}", node.line, path)
    return None


def _kind(node: Node) -> str:
    if isinstance(node, Scalar):
        return shown(node.value)
    return "a list" if isinstance(node, Listing) else "an empty mapping" if not node.entries else "a mapping"
