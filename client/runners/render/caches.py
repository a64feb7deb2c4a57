"""Caches in columns, and one of them in full. Pure."""

from __future__ import annotations

import json

from . import words
from .lines import columns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from runners.cache.upkeep import Building, Entry


def table(rows: Sequence[tuple[Entry, list[str]]], building: Sequence[Building], now: float) -> list[str]:
    """A line a cache; then those that are being built."""
    lines = []
    if rows:
        cells: list[tuple[str, ...]] = [("CACHE", "SIZE", "ITEMS", "MADE BY", "MADE", "LAST USED", "USED BY")]
        cells += [
            (
                one.id,
                words.size(one.bytes) if one.meta else "damaged",
                _known(one.meta.get("items")),
                _maker(one),
                _ago(one.meta.get("built_at"), now),
                _ago(one.last_used, now),
                ", ".join(users) or "-",
            )
            for one, users in rows
        ]
        lines += columns(cells, rightmost=(1, 2))
    for one in building:
        job, user = one.builder.get("job"), one.builder.get("user")
        who = f"job {_known(job.get('id'))}" if isinstance(job, dict) else f"process {one.builder.get('pid', '?')}"
        since = one.builder.get("since")
        took = f" for {words.duration(now - since)}" if isinstance(since, float) else ""
        lines.append(f"{one.id}  is being built by {who}{f' of {words.clean(str(user))}' if user else ''}{took}")
    return lines


def detail(one: Entry, users: list[str], path: str, now: float) -> list[str]:
    """Everything that is known of a cache."""
    meta = one.meta
    source = meta.get("source")
    rows = [
        ("path", path),
        ("size", f"{words.size(one.bytes)} in {_known(meta.get('files'))} files"),
        ("items", _known(meta.get("items"))),
        ("made by", f"{_maker(one)} on {words.clean(str(meta.get('host', '-')))}"),
        ("made", f"{_ago(meta.get('built_at'), now)}, in {words.duration(_number(meta.get('seconds')))}"),
        ("parameters", json.dumps(meta.get("params"))),
        ("source", _source(source) if isinstance(source, dict) else "none"),
        ("last used", _ago(one.last_used, now)),
        ("used by", ", ".join(users) or "nobody"),
        ("format", _known(meta.get("format"))),
    ]
    if one.problem:
        rows = [("path", path), ("problem", words.clean(one.problem)), *rows[-3:-1]]
    return [one.id, *(f"  {left:<11} {right}" for left, right in rows)]


def _maker(one: Entry) -> str:
    user = words.clean(str(one.meta.get("user") or f"uid {one.uid}"))
    job = one.meta.get("job")
    return f"{user}, job {_known(job.get('id'))}" if isinstance(job, dict) else user


def _source(source: dict[str, object]) -> str:
    files, size = source.get("files"), source.get("bytes")
    about = f"{files} files, {words.size(_number(size))}, by {source.get('by')}"
    return f"{words.clean(str(source.get('path')))} ({about})"


def _ago(at: object, now: float) -> str:
    number = _number(at)
    return "-" if number is None else f"{words.rough(now - number)} ago"


def _number(value: object) -> float | None:
    return value if isinstance(value, (int, float)) else None


def _known(value: object) -> str:
    return "-" if value is None else words.clean(str(value))
