"""What is found wrong while a pipeline is read, and how it is said. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches
from typing import Any, Final

from runners.errors import Problem

#: A key path: mapping keys and list positions.
Path = tuple[str | int, ...]
#: What a reader gives for a value that will not do.
WRONG: Final = object()
MAX_PROBLEMS = 200  #: named at once

#: What other schedulers, and people, call our keys: what is spelt most alike is often something else.
MEANT: Final = {
    theirs: ours
    for ours, words in {
        "command": "cmd run exec",
        "cpus": "cpu cores num_cpus cpus_per_task",
        "env": "environment variables vars",
        "gpu_memory": "gpu_mem vram",
        "gpu_shared": "shared share",
        "matrix": "array params parameters strategy sweep",
        "memory": "mem ram",
        "mounts": "volume volumes binds",
        "needs": "after depends depends_on dependencies dependency deps requires",
        "num_gpus": "gpu gpu_count gpus_per_task n_gpus ngpus",
        "num_jobs": "concurrency max_parallel max_workers parallel",
        "retries": "max_retries retry",
        "run_in": "container docker",
        "time_limit": "max_time time timeout walltime",
        "workdir": "chdir cwd dir directory working_dir working_directory",
    }.items()
    for theirs in words.split()
}

#: What needs no quotes in a key path; a job's name is made of it too.
NAME = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
#: Must not be shown as it is.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Enough(Exception):
    """Ends a reading that has found more than anyone will read. Caught by whoever made the check; goes no further."""


class Check:
    """One reading of a pipeline: the clock it is read by (Unix seconds) and everything found wrong so far.

    ``locate`` turns a key path and a message into the problem to show: the client knows the line, the daemon does not.
    """

    def __init__(self, now: float, locate: Callable[[Path, str], Problem] | None = None) -> None:
        self.now = now
        self.count = 0  #: mistakes so far; one in `defaults` counts for each job, but is one problem
        self._locate = locate or (lambda path, message: Problem(render(path), message))
        self._problems: dict[Problem, None] = {}
        self._guesses = 20_000  #: comparisons left; finding the nearest word is slow

    @property
    def problems(self) -> list[Problem]:
        """What is wrong, in the order it was found."""
        return list(self._problems)

    def add(self, problem: Problem) -> None:
        """Note a problem whose place is known."""
        self.count += 1
        self._problems[problem] = None
        if len(self._problems) >= MAX_PROBLEMS or self.count >= 100 * MAX_PROBLEMS:
            self._problems[problem._replace(path="", message="stopped reading here: too many mistakes")] = None
            raise Enough

    def wrong(self, path: Path, message: str) -> Any:
        """Note a mistake. Gives :data:`WRONG`, so that a reader can return it."""
        self.add(self._locate(path, message))
        return WRONG

    def expected(self, path: Path, what: str, found: object) -> Any:
        """Note a value that is not what it should be."""
        return self.wrong(path, f"expected {what}, found {shown(found)}")

    def nearest(self, word: object, known: Collection[str]) -> str | None:
        """The known word that this one is most likely another word, or a slip, for."""
        if not isinstance(word, str) or len(word) > 64 or len(known) > self._guesses:
            return None
        self._guesses -= len(known)
        word = word.lower().replace("-", "_")
        meant = MEANT.get(word)
        if meant in known:
            return meant
        found = get_close_matches(word, known, n=1, cutoff=0.6)
        return found[0] if found else None

    def unknown_keys(self, keys: Iterable[object], allowed: Collection[str], path: Path) -> None:
        """Note every key that is not among the allowed ones, with the nearest of them, or all where none is near."""
        for key in keys:
            if key not in allowed:
                near = self.nearest(key, allowed)
                hint = f"; did you mean `{near}`?" if near else ""
                if not near or len(allowed) <= 10:
                    hint += f"; allowed: {', '.join(allowed)}"
                self.wrong((*path, key if isinstance(key, str) else repr(key)[:40]), f"unknown key {shown(key)}{hint}")


def render(path: Path) -> str:
    """A key path as people write it: `jobs[2].env.LR`."""
    out = ""
    for step in path:
        if isinstance(step, int):
            out += f"[{step}]"
        elif NAME.fullmatch(step) and len(step) <= 64:
            out += f".{step}" if out else step
        else:
            out += f"[{shown(step)}]"
    return out


def shown(value: object) -> str:
    """A value from outside, short and printable, for a message."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = value if len(value) <= 60 else value[:57] + "..."
        return "'" + UNPRINTABLE.sub(lambda match: f"\\x{ord(match[0]):02x}", text) + "'"
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 128 else "a huge number"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "an empty list" if not value else "a list"
    if isinstance(value, dict):
        return "an empty mapping" if not value else "a mapping"
    return f"a {type(value).__name__}"
