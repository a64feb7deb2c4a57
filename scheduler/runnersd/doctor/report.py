"""Findings as people and programs read them. Pure."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runnersd.doctor.finding import Finding, Level

#: What a group is called, and what was found.
Group = tuple[str, Sequence[Finding]]

_SIGNS = {Level.OK: ("✓", "32"), Level.WARNING: ("!", "33"), Level.FAILURE: ("✗", "1;31")}
_PLAIN = {Level.OK: "ok", Level.WARNING: "warning", Level.FAILURE: "failure"}


def document(groups: Sequence[Group], head: Mapping[str, Any]) -> dict[str, Any]:
    """What `--json` prints."""
    checks = [
        {"check": one.check, "group": name, "level": one.level.value, "text": one.text, "fix": list(one.fix)}
        for name, findings in groups
        for one in findings
    ]
    counts = _counts(groups)
    return {
        **head,
        "ok": not counts[Level.FAILURE],
        "counts": {level.value: counts[level] for level in Level},
        "checks": checks,
    }


def plain(groups: Sequence[Group]) -> Iterator[str]:
    """Lines for a pipe: the level's word first, so that `grep ^failure` finds what it should."""
    for _name, findings in groups:
        for one in findings:
            first, *rest = one.text.splitlines() or [""]
            yield f"{_PLAIN[one.level]:<8} {one.check}: {first}"
            yield from (f"{'':<8} {line}" for line in rest)
            yield from (f"{'':<8} {_command(command)}" for command in one.fix)
    yield summary(groups)


def drawn(groups: Sequence[Group], title: str, width: int, *, colour: bool, unicode: bool, root: bool) -> Iterator[str]:
    """Lines for a terminal of this width."""

    def paint(text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colour else text

    name_width = max(len(one.check) for _name, findings in groups for one in findings)
    indent = name_width + 5
    yield paint(f" {title}", "2")
    for name, findings in groups:
        if not findings:
            continue
        yield ""
        yield paint(f" {name}", "1")
        for one in findings:
            sign, code = _SIGNS[one.level]
            if not unicode:
                sign = {"✓": "+", "✗": "x"}.get(sign, sign)
            first, *rest = _wrapped(one.text, max(30, width - indent - 1))
            yield f" {paint(sign, code)} {one.check:<{name_width}}  {first}"
            yield from (f"{'':<{indent}}{line}" for line in rest)
            yield from (f"{'':<{indent}}{paint(_command(command), '36')}" for command in one.fix)
    yield ""
    counts = _counts(groups)
    worst = next((level for level in (Level.FAILURE, Level.WARNING) if counts[level]), Level.OK)
    yield " " + paint(summary(groups), _SIGNS[worst][1])
    if not root and any(one.fix for _name, findings in groups for one in findings):
        yield paint(" the commands are for root", "2")


def summary(groups: Sequence[Group]) -> str:
    """How many of each level, in one line."""
    counts = _counts(groups)
    said = [
        _many(counts[Level.FAILURE], "failure"),
        _many(counts[Level.WARNING], "warning"),
        f"{counts[Level.OK]} ok",
    ]
    return ", ".join(said)


def _command(text: str) -> str:
    return text if text.startswith("#") else f"$ {text}"


def _wrapped(text: str, width: int) -> list[str]:
    lines = [
        part
        for line in text.splitlines()
        for part in textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False)
    ]
    return lines or [""]


def _counts(groups: Sequence[Group]) -> Counter[Level]:
    return Counter(one.level for _name, findings in groups for one in findings)


def _many(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
