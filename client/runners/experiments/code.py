"""Which code an experiment was made with: the git commit of a directory, and what was changed since."""

from __future__ import annotations

import os
import subprocess
from typing import Any, NamedTuple

#: Seconds that git has for each question, and the most that is kept of a difference, in bytes.
_WITHIN = 10.0
MAX_DIFF = 8 << 20


class Code(NamedTuple):
    """``facts`` for the record, and the difference to the commit; both empty where there is no repository."""

    facts: dict[str, Any]
    diff: bytes


def code_of(directory: str) -> Code:
    """What git says of a directory's code. Files that git does not know are named, not kept."""
    commit = _git(directory, "rev-parse", "HEAD").decode().strip()
    if not commit:
        return Code({}, b"")
    diff = _git(directory, "diff", "--binary", "HEAD")
    unknown = _git(directory, "ls-files", "--others", "--exclude-standard", "-z").decode(errors="replace")
    facts = {
        "directory": os.path.abspath(directory),
        "commit": commit,
        "branch": _git(directory, "rev-parse", "--abbrev-ref", "HEAD").decode(errors="replace").strip(),
        "dirty": bool(diff),
        "untracked": unknown.split("\0")[:100][:-1] or None,
        "diff_too_large": len(diff) if len(diff) > MAX_DIFF else None,
    }
    facts = {name: fact for name, fact in facts.items() if fact is not None}
    return Code(facts, b"" if len(diff) > MAX_DIFF else diff)


def _git(directory: str, *words: str) -> bytes:
    """What git answers; nothing where it cannot, or does not in time."""
    command = ["git", "-C", directory, "-c", "core.fsmonitor=false", *words]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_WITHIN, check=False, env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        )
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout if done.returncode == 0 else b""
