"""What host jobs cost over their supervisor alone: the floor that the daemon's benchmarks are ratios to.

    python supervisor_floor.py noop N [AT_ONCE]     N jobs `true`, so many (8) at a time: seconds and CPU
    python supervisor_floor.py handoff N            one after another: from a job's instruction to the next one's

Both fork the daemon's own supervisor by hand, in an interpreter as lean as the spawner's, with no daemon, no queue and
no store. Prints one JSON document.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
import time
from itertools import pairwise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MACHINE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../scheduler/runnersd/machine")


def floor(directory: str, *words: object) -> dict[str, float]:
    """Measure in a lean interpreter, with records and logs in ``directory``; what this program prints."""
    command = [sys.executable, "-I", "-S", "-E", "-X", "utf8", os.path.abspath(__file__), *map(str, words)]
    found: dict[str, float] = json.loads(subprocess.check_output(command, cwd=directory))
    return found


def noop(count: int, at_once: int) -> dict[str, float]:
    """So many `true`, so many at a time."""
    began, live = time.perf_counter(), 0
    for number in range(count):
        if live == at_once:
            os.wait()
            live -= 1
        fork(number, ["/bin/true"])
        live += 1
    while live:
        os.wait()
        live -= 1
    seconds = time.perf_counter() - began
    children, own = resource.getrusage(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF)
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in (children, own))
    return {"jobs": count, "seconds": seconds, "per_second": count / seconds, "cpu_ms_per_job": cpu / count * 1000}


def handoff(count: int) -> dict[str, float]:
    """One `date` after another. The median of what is between their times is the floor of a card's hand-off."""
    for number in range(count + 1):
        fork(number, ["date", "+%s%N"])
        os.wait()
    times = []
    for number in range(count + 1):
        with open(f"{number}.out", encoding="ascii") as file:
            times.append(int(file.read()))
    gaps = sorted(later - earlier for earlier, later in pairwise(times))
    return {"jobs": count, "median_ms": gaps[count // 2] / 1e6}


def fork(number: int, argv: Sequence[str]) -> None:
    """One supervisor, as the spawner makes it."""
    if os.fork() == 0:
        order = Order(
            run=f"floor-{number}", record=f"{number}.run", out=f"{number}.out", err=f"{number}.err", argv=tuple(argv),
            environment={"PATH": os.defpath}, cwd="/", umask=0o022, grace=10.0, log_max=1 << 30,
        )  # fmt: skip
        for name in ("record", "out", "err"):
            setattr(order, name, os.path.join(HERE, getattr(order, name)))
        supervise(order, None, None)


if __name__ == "__main__" and sys.flags.no_site:
    sys.path.append(MACHINE)
    from host.order import Order  # type: ignore[import-not-found]
    from host.supervisor import prepare, supervise  # type: ignore[import-not-found]

    HERE = os.getcwd()
    prepare()
    gc.collect()
    gc.disable()
    gc.freeze()
    numbers = [int(word) for word in sys.argv[2:]]
    print(json.dumps(noop(numbers[0], [*numbers, 8][1]) if sys.argv[1] == "noop" else handoff(numbers[0])))
elif __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        print(json.dumps(floor(directory, *sys.argv[1:]), indent=1))
