"""Where the series of attempts lie, and what is in one. Pure, and free of zarr: the daemon reads it too.

<state directory>/telemetry/
    0/                              jobs 0 to 999
        12.1.zarr/                  job 12, attempt 1: a zarr v3 group, locked (flock) by who writes it
            zarr.json               what it is of; which group holds the rows, and how many there are
            samples/                the rows as they were measured, or
            minutes/                means of minutes, and peaks, once they are old
                at/ utilization/ memory_used/ power/ temperature/ process_memory/ process_cpu/
        .trash-12.1.zarr/           on its way out

Every array has time as its first axis; those of cards have the card as their second. A number that was not known is
NaN. The arrays may be longer than `rows`, and what lies beyond it is nothing: `zarr.json` of the whole is replaced
last, in one step, and is what makes rows count.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from runnersd.model import JobId

#: In the state directory.
FOLDER = "telemetry"
#: Of the layout. A later one is left alone.
VERSION = 1
TRASH = ".trash-"
SAMPLES, MINUTES = "samples", "minutes"

_NAME = re.compile(r"(\d{1,18})\.(\d{1,10})\.zarr")


@dataclass(frozen=True, slots=True)
class Quantity:
    """One of the numbers that are measured: its array's name, its kind in NumPy's words, and its unit."""

    name: str
    kind: str
    unit: str


AT = Quantity("at", "f8", "s since 1970-01-01 UTC")
#: Of each card.
OF_CARDS = (
    Quantity("utilization", "f4", "%"),
    Quantity("memory_used", "f8", "B"),
    Quantity("power", "f4", "W"),
    Quantity("temperature", "f4", "degC"),
)
#: Of all processes of the attempt together.
OF_PROCESS = (Quantity("process_memory", "f8", "B"), Quantity("process_cpu", "f4", "cores"))


@dataclass(frozen=True, slots=True, order=True)
class Attempt:
    """One try at a job."""

    job: JobId
    number: int

    @property
    def folder(self) -> str:
        """That of its thousand."""
        return str(self.job // 1000)

    @property
    def name(self) -> str:
        """Its group's."""
        return f"{self.job}.{self.number}.zarr"

    def path(self, root: Path) -> Path:
        """Where its group is; ``root`` holds all series."""
        return root / self.folder / self.name

    def __str__(self) -> str:
        return f"job {self.job}, attempt {self.number}"


def attempt_of(name: str) -> Attempt | None:
    """Whose group is so named; None for another name."""
    match = _NAME.fullmatch(name)
    return None if match is None else Attempt(int(match[1]), int(match[2]))
