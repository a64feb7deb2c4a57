"""Who has had the cards and what came of it: attempts added up, by whatever they are grouped by. Pure."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

#: Programs that run another: what they run is named by a word that follows.
_RUNNERS = re.compile(
    r"(?:python[\d.]*|pypy[\d.]*|ipython|bash|sh|zsh|dash|ksh|fish|perl|ruby|julia|node|Rscript|torchrun|deepspeed|accelerate"
    r"|mpirun|mpiexec|horovodrun|env|nice|nohup|time|exec|stdbuf|numactl|taskset|uv|poetry|conda|srun)$"
)
_SCRIPT = re.compile(r".\.(?:py|sh|bash|zsh|fish|pl|rb|jl|js|R|r|ipynb)$")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
#: Words of a command that are looked at.
_LOOKED_AT = 40


@dataclass(slots=True)
class Account:
    """Attempts added up. Seconds, joules, utilisation 0 to 100.

    Card time is what was held, a shared card counting as the share of its memory that was asked for. ``measured`` is
    the part of it whose utilisation is known, ``busy`` that part times its utilisation. None where nothing is known.
    """

    jobs: int = 0
    attempts: int = 0
    ended: int = 0  #: attempts that are over
    failed: int = 0  #: of these, by their own fault or the machine's, or over their time limit
    preempted: int = 0  #: of these, because others needed the cards
    contaminated: int = 0  #: jobs on whose cards others were
    card_seconds: float = 0.0
    busy: float = 0.0
    measured: float = 0.0
    idle: float | None = None  #: card-seconds
    energy: float | None = None
    waits: array[float] = field(default_factory=lambda: array("d"))

    def add(self, other: Account) -> None:
        """Take in another account, of other jobs."""
        self.jobs += other.jobs
        self.attempts += other.attempts
        self.ended += other.ended
        self.failed += other.failed
        self.preempted += other.preempted
        self.contaminated += other.contaminated
        self.card_seconds += other.card_seconds
        self.busy += other.busy
        self.measured += other.measured
        self.idle = _sum(self.idle, other.idle)
        self.energy = _sum(self.energy, other.energy)
        self.waits.extend(other.waits)

    @property
    def mean_wait(self) -> float | None:
        """Seconds that its jobs waited for their first start, the mean."""
        return sum(self.waits) / len(self.waits) if self.waits else None

    @property
    def median_wait(self) -> float | None:
        """The same, the median."""
        return median(self.waits) if self.waits else None

    @property
    def efficiency(self) -> float | None:
        """The mean utilisation of the cards while they were held, as far as that was measured."""
        return self.busy / self.measured if self.measured else None

    @property
    def failure_share(self) -> float | None:
        """Which part of the attempts that are over has failed, 0 to 1."""
        return self.failed / self.ended if self.ended else None


def script_of(command: str | Sequence[str]) -> str:
    """What a command runs, as people call it: its script or module, else its first word.

    >>> script_of("CUDA_LAUNCH_BLOCKING=1 python -u train.py --lr 0.1")
    'train.py'
    >>> script_of(["python", "-m", "scripts.prepare", "config.yml"])
    'scripts.prepare'
    >>> script_of("./sweep 3")
    './sweep'
    """
    words = command.split(None, _LOOKED_AT)[:_LOOKED_AT] if isinstance(command, str) else list(command[:_LOOKED_AT])
    while len(words) > 1 and _ASSIGNMENT.match(words[0]):
        del words[0]
    if not words:
        return ""
    first, *rest = words
    if not _RUNNERS.match(first.rpartition("/")[2]):
        return first
    for before, word in zip(words, rest, strict=False):
        if before == "-c":
            break
        if before == "-m" or _SCRIPT.search(word):
            return word
    return first


def _sum(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return one if other is None else other
    return one + other
