"""What a cache is called: a name, and a hash of everything that it was made of. Pure."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from runners.errors import InvalidRequest

#: Part of every hash: a new one makes every cache anew.
FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
#: A cache's folder: its name, and the first 64 bits of its hash.
ID = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,99})-([0-9a-f]{16})", re.ASCII)
_DEEPEST = 32


def digest_of(name: str, params: Mapping[str, Any], source: str | None) -> str:
    """The whole hash, in hexadecimal, of a cache's name, its canonical parameters and its source's digest."""
    made_of = {"format": FORMAT, "name": name, "params": params, "source": source}
    text = json.dumps(made_of, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def id_of(name: str, digest: str) -> str:
    """The name of its folder.

    >>> id_of("musdb", "3f2a91c07d5566aa" + 48 * "0")
    'musdb-3f2a91c07d5566aa'
    """
    return f"{name}-{digest[:16]}"


def check_name(name: str) -> None:
    """Raise :class:`InvalidRequest` unless it can begin a folder's name."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"cannot name a cache {name!r}: a name is up to 100 letters, digits, dots, dashes and underscores, "
            "and begins with a letter or a digit"
        )


def canonical(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as plain JSON, so that the same ones give the same name in every process.

    Mappings are sorted by key, tuples are lists, sets are sorted, paths are text, NumPy's numbers are Python's.
    ``1``, ``1.0`` and ``True`` are different parameters.

    >>> canonical({"window": 512, "hops": (128, 256), "kind": {"b", "a"}})
    {'hops': [128, 256], 'kind': ['a', 'b'], 'window': 512}

    Raises:
        InvalidRequest: something in it has no such form, for example an array or a function; says which.
    """
    if not isinstance(params, Mapping):
        raise InvalidRequest(f"cannot name a cache: its parameters are a mapping of names, not {_kind(params)}")
    made: dict[str, Any] = _plain(params, "params", 0)
    return made


def _plain(value: Any, path: str, depth: int) -> Any:
    if depth > _DEEPEST:
        raise InvalidRequest(f"cannot name a cache: {path[:80]} lies more than {_DEEPEST} deep")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidRequest(f"cannot name a cache: {path} is {value}, which no parameter can be")
        return float(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InvalidRequest(f"cannot name a cache: {path} has the key {key!r}, which is not text")
        return {str(key): _plain(value[key], f"{path}.{key}", depth + 1) for key in sorted(value)}
    if isinstance(value, (set, frozenset)):
        members = [_plain(member, f"{path}{{}}", depth + 1) for member in value]
        return sorted(members, key=lambda member: json.dumps(member, sort_keys=True))
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
        return [_plain(member, f"{path}[{number}]", depth + 1) for number, member in enumerate(value)]
    if hasattr(value, "__fspath__"):
        return _plain(value.__fspath__(), path, depth + 1)
    if hasattr(value, "dtype") and getattr(value, "shape", None) == () and hasattr(value, "item"):
        return _plain(value.item(), path, depth + 1)
    raise InvalidRequest(
        f"cannot name a cache: {path} is {_kind(value)}; parameters are text, numbers, true, false, none, and lists "
        "and mappings of these"
    )


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"an {name}" if name[:1].lower() in "aeiou" else f"a {name}"
