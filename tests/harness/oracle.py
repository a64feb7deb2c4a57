"""Checks the evidence that payloads left against what the daemon says: the promises, from outside."""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

PAYLOAD = Path(__file__).parent / "payload.py"


class Line(NamedTuple):
    """One thing a payload wrote."""

    word: str
    job: int
    attempt: int
    pid: int
    at: int
    cards: tuple[str, ...]


def command(oracle: Path, seconds: float, code: int = 0) -> list[str]:
    """A job's command that leaves evidence in the file, after ``seconds``."""
    return [sys.executable, "-I", "-S", str(PAYLOAD), str(oracle), str(seconds), str(code)]


def read(oracle: Path) -> list[Line]:
    """Every line, in the order written."""
    lines = []
    for text in oracle.read_text().splitlines() if oracle.exists() else []:
        word, job, attempt, pid, at, cards = text.split()
        lines.append(
            Line(word, int(job), int(attempt), int(pid), int(at), () if cards == "-" else tuple(cards.split(",")))
        )
    return lines


def check(lines: Iterable[Line], jobs: Mapping[int, Any], codes: Mapping[int, int] | None = None) -> None:
    """Assert what must be true once everything is over. ``jobs`` are `show`'s objects by id, of every acknowledged job.

    No attempt starts twice; a job that succeeded did run to its end, once; a card is never held by two at a time; a
    job saw exactly its reservation; what the daemon says of an exit is what the job did (``codes``, 0 where not named).
    """
    starts: dict[tuple[int, int], list[Line]] = defaultdict(list)
    ends: dict[tuple[int, int], Line] = {}
    for line in lines:
        if line.word == "start":
            starts[line.job, line.attempt].append(line)
        else:
            ends[line.job, line.attempt] = line
    twice = {key: found for key, found in starts.items() if len(found) > 1}
    assert not twice, f"attempts that started twice: {twice}"
    assert not {job for job, _ in starts} - jobs.keys(), "jobs ran that the daemon does not know"
    for id, job in jobs.items():
        last = (id, job["attempt"])
        code = (codes or {}).get(id, 0)
        assert job["state"] == ("failed" if code else "succeeded"), f"job {id}: {job['state']} {job['reason']}"
        assert job["exit_code"] == code, f"job {id} exited {code}, the daemon says {job['exit_code']}"
        assert last in ends, f"job {id} is called {job['state']} but its attempt {job['attempt']} wrote no end"
        for attempt in job["attempts"]:
            key = (id, attempt["attempt"])
            if key in starts:
                assert list(starts[key][0].cards) == attempt["gpus"], f"job {id} saw other cards than it reserved"
                assert len(attempt["gpus"]) == job["num_gpus"]
    by_card: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for key, found in starts.items():
        for card in found[0].cards:
            by_card[card].append((found[0].at, ends[key].at if key in ends else found[0].at, key[0]))
    for card, intervals in by_card.items():
        intervals.sort()
        for (_, end, first), (start, _, second) in itertools.pairwise(intervals):
            assert end <= start, f"card {card} was held by jobs {first} and {second} at once"
