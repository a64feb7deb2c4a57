"""What every user's jobs did, kind by kind: the memory that estimates are made of.

A limit is believed as far as it has been right. Where jobs of a kind say how long they run, it is learned which part of
that they take, if that tells more than their durations do: so a limit that is always exact is taken at its word, and
one that is always twelve hours for jobs of ten minutes is not.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from runnersd.past.estimates import Estimate, Ground, quantile
from runnersd.past.kinds import Kind

#: Attempts remembered of a kind, and kinds of a user; the latest.
SAMPLES, KINDS = 40, 2_000
#: So many of a user's other jobs are needed before they say anything of a job whose kind is new.
ENOUGH = 5
#: How many samples there are whenever an estimate has moved far enough to tell others of it.
_TOLD = frozenset({1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 40})
_SAFE_MEMORY = 0.95
#: The name under which all of a user's jobs are remembered.
ALL: Kind = "*"


class Sample(NamedTuple):
    """One attempt: its duration (seconds), its limit then, its peak memory (bytes) where that is known.

    One that did not come to its own end (it failed, or somebody stopped it) tells only that it may take longer.
    """

    duration: float
    limit: float | None = None
    peak_memory: int | None = None
    whole: bool = True


class Samples:
    """The latest attempts of one kind. ``count`` counts on, whatever is forgotten."""

    def __init__(self, samples: Iterable[Sample] = (), count: int = 0) -> None:
        self.latest = deque(samples, maxlen=SAMPLES)
        self.count = max(count, len(self.latest))
        self._likely: dict[float | None, tuple[float, ...]] = {}  # by limit, until something is added

    def add(self, sample: Sample) -> bool:
        """Remember an attempt; whether it told anything."""
        if not sample.whole:
            known = sorted(one.duration for one in self.latest)
            if not known or sample.duration <= quantile(known, 0.5):
                return False
        self._likely.clear()
        self.latest.append(sample)
        self.count += 1
        return True

    def likely(self, limit: float | None) -> tuple[float, ...]:
        """Durations that a job with that limit may turn out to have, sorted."""
        found = self._likely.get(limit)
        if found is None:
            found = self._likely[limit] = self._work_out(limit)
        return found

    @property
    def peak_memory(self) -> int | None:
        """Bytes that few of the attempts passed."""
        known = sorted(sample.peak_memory for sample in self.latest if sample.peak_memory is not None)
        return int(quantile(known, _SAFE_MEMORY)) if known else None

    def _work_out(self, limit: float | None) -> tuple[float, ...]:
        if limit is None:
            return tuple(sorted(sample.duration for sample in self.latest))
        limited = [sample for sample in self.latest if sample.limit]
        ratios = [sample.duration / sample.limit for sample in limited if sample.limit]
        if ratios and (len(limited) == len(self.latest) or len(limited) > 2):
            durations = [sample.duration for sample in limited]
            if _spread(ratios) <= _spread(durations):
                return tuple(sorted(min(ratio, 1.0) * limit for ratio in ratios))
        return tuple(sorted(min(sample.duration, limit) for sample in self.latest))


class Experience:
    """Everybody's samples: of each kind, of all jobs for so many cards, and of all."""

    def __init__(self) -> None:
        self._users: dict[int, OrderedDict[Kind, Samples]] = {}

    def learn(self, uid: int, kind: Kind, num_gpus: int, sample: Sample) -> tuple[list[Kind], list[Kind]]:
        """An attempt of that user's is over. Returns under which names there is more now, and which are forgotten."""
        told = [name for name in (kind, *_wider(num_gpus)) if self._of(uid, name).add(sample)]
        user = self._users[uid]
        return told, [user.popitem(last=False)[0] for _ in range(len(user) - KINDS)]

    def estimate(self, uid: int, kind: Kind, num_gpus: int, limit: float | None) -> Estimate:
        """What is thought of a job of that kind and user with that time limit (seconds)."""
        user = self._users.get(uid) or OrderedDict[Kind, Samples]()
        grounds: Sequence[tuple[Ground, Kind, int]] = (
            ("kind", kind, 1), *(("user", name, ENOUGH) for name in _wider(num_gpus)),
        )  # fmt: skip
        for ground, name, least in grounds:
            samples = user.get(name)
            if samples is None or len(samples.latest) < least:
                continue
            if ground == "user" and limit is not None and not any(sample.limit for sample in samples.latest):
                continue  # durations of other jobs say less than its own limit
            wider, memory = user.get(ALL, samples), samples.peak_memory if ground == "kind" else None
            return Estimate(ground, samples.likely(limit), limit, wider.likely(limit), memory)
        return Estimate("nothing" if limit is None else "limit", (), limit)

    def samples(self, uid: int, name: Kind) -> Samples | None:
        """What is remembered under that name."""
        user = self._users.get(uid)
        return None if user is None else user.get(name)

    def telling(self, uid: int, kind: Kind) -> bool:
        """Whether what is thought of that kind may have moved much with its latest attempt."""
        samples = self.samples(uid, kind)
        return samples is not None and (samples.count in _TOLD or samples.count % SAMPLES == 0)

    def telling_of_user(self, uid: int) -> bool:
        """Whether what is thought of a user's jobs of new kinds may have moved much with the latest attempt."""
        samples = self.samples(uid, ALL)
        return samples is not None and samples.count in _TOLD

    def all(self) -> Iterator[tuple[int, Kind, Samples]]:
        """Everything remembered: of whom, under which name; what told nothing is left out."""
        for uid, user in self._users.items():
            yield from ((uid, name, samples) for name, samples in user.items() if samples.count)

    def restore(self, uid: int, name: Kind, samples: Samples) -> None:
        """Take in what was kept, the least lately changed first."""
        self._users.setdefault(uid, OrderedDict())[name] = samples

    def _of(self, uid: int, name: Kind) -> Samples:
        user = self._users.setdefault(uid, OrderedDict())
        samples = user.setdefault(name, Samples())
        user.move_to_end(name)
        return samples


def _wider(num_gpus: int) -> tuple[Kind, Kind]:
    """What stands in for a kind that is new: its user's jobs for so many cards, then all of them."""
    return f"* {num_gpus} cards", ALL


def _spread(values: Sequence[float]) -> float:
    """How far apart values are, by their ratios."""
    logs = [math.log(max(value, 1e-3)) for value in values]
    mean = sum(logs) / len(logs)
    return sum((one - mean) ** 2 for one in logs) / len(logs)
