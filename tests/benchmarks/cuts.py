"""Other traces made of one: windows of it, and rotations. What a policy makes of a single trace may be luck."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence

from benchmarks.trace import Figures, TraceJob

#: Windows, each of at least so large a part of the jobs.
WINDOWS, LEAST = 15, 7 / 15
#: Rotations begin with the first of these jobs, and then so many jobs later each.
FIRST, STEP = 1 / 15, 7 / 60
SEED = 5


def cuts(jobs: Sequence[TraceJob]) -> dict[str, list[TraceJob]]:
    """The whole trace, windows of it, and rotations of it, by name. The same trace has the same cuts."""
    count, chance = len(jobs), random.Random(SEED)
    least = int(count * LEAST)
    made = {"whole": list(jobs)}
    while len(made) < 1 + WINDOWS:
        first = chance.randrange(0, count - least - least // 7)
        last = chance.randrange(first + least, count + 1)
        made[f"jobs {first} to {last}"] = _numbered(jobs[first:last], lambda at, begin: at - begin)
    span = jobs[-1].submitted + jobs[-1].submitted / count
    for place in range(int(count * FIRST), count, int(count * STEP)):
        turned = [*jobs[place:], *jobs[:place]]
        made[f"from job {place} on"] = _numbered(turned, lambda at, begin: (at - begin) % span)
    return made


def beside(mine: Mapping[str, Figures], others: Mapping[str, Figures]) -> list[str]:
    """Lines that say which parts of the others' mean wait, and of their longest wait for several cards, ours are.

    What was told in a range that held is a third column; its last line is the mean.
    """
    parts = {
        name: (one.mean_wait / others[name].mean_wait, one.multi_gpu_max_wait / others[name].multi_gpu_max_wait)
        for name, one in mine.items()
    }
    told = {name: one.in_range for name, one in mine.items() if one.in_range is not None}
    lines = [
        f"{name:20s} {mean:.2f} {longest:.2f}" + (f" {told[name]:.2f}" if name in told else "")
        for name, (mean, longest) in parts.items()
    ]
    means, longests = zip(*parts.values(), strict=True)
    last = f"{'geometric mean':20s} {_middle(means):.2f} {_middle(longests):.2f}"
    return [*lines, last + (f" {sum(told.values()) / len(told):.2f}" if told else "")]


def _numbered(jobs: Sequence[TraceJob], when: Callable[[float, float], float]) -> list[TraceJob]:
    begin = jobs[0].submitted
    return [job._replace(id=number, submitted=when(job.submitted, begin)) for number, job in enumerate(jobs, 1)]


def _middle(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))
