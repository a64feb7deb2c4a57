"""A made-up attempt whose numbers at every second are known, and those who write it: to be killed at any step."""

from __future__ import annotations

import math
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from runnersd.telemetry.compaction import compact
from runnersd.telemetry.layout import Attempt
from runnersd.telemetry.series import Card, Writer

ATTEMPT = Attempt(1012, 2)
CARDS = tuple(Card(f"GPU-{index}", index, "H100", 80 << 30) for index in range(2))
#: When it began, in the middle of a minute.
BEGIN = 1_800_000_010.0


def row(second: int) -> dict[str, Any]:
    """What was measured so many seconds after the begin. Each number tells which it is; card 1 has no power at times."""
    return {
        "at": BEGIN + second,
        "utilization": [second % 101, 50.0],
        "memory_used": [(second << 20) + 1, 40 << 30],
        "power": [300.125, math.nan if second % 7 == 0 else 200.5 + second % 3],
        "temperature": [60 + second % 5, 40],
        "process_memory": float(second * 4096),
        "process_cpu": math.nan if second == 0 else 1.5,
    }


def writer(root: Path) -> Writer:
    """Who writes it."""
    return Writer(root, ATTEMPT, 1.0, BEGIN, CARDS)


def write(root: Path, seconds: range, flush_every: int, *, ended: bool = False) -> None:
    """Write these seconds of it, and let go."""
    with_rows = writer(root)
    for second in seconds:
        with_rows.add(row(second))
        if (second + 1) % flush_every == 0:
            with_rows.flush()
    with_rows.close(ended=ended)


class Killer:
    """Kills this process at the n-th thing it is about to do to a file below ``root``."""

    def __init__(self, root: Path, step: int) -> None:
        self._root = os.fspath(root)
        self.left = step

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate") and self._is_below(
            arguments
        ):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def _is_below(self, arguments: tuple[Any, ...]) -> bool:
        # What is deleted by open folders has a name alone.
        path = arguments[0]
        return isinstance(path, str | bytes | Path) and (
            os.fsdecode(path).startswith(self._root) or "/" not in os.fsdecode(path)
        )


def act(what: str, root: Path) -> None:
    """What is killed."""
    if what == "write":
        write(root, range(880, 920), 10, ended=True)
    elif what == "make":
        write(root, range(15), 15)
    else:
        compact(root, ATTEMPT, math.inf)


def main(what: str, template: str, work: str, first: int, stride: int) -> None:
    """Do it once for every step, from the same beginning, and die at that step; the last one lives."""
    step = first
    while True:
        root = Path(work) / str(step)
        shutil.copytree(template, root)
        pid = os.fork()
        if pid == 0:
            sys.addaudithook(Killer(root, step))
            act(what, root)
            os._exit(0)
        if os.waitpid(pid, 0)[1] == 0:
            print(step)
            return
        step += stride


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
