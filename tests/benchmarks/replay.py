"""How a trace of jobs fares under the real planner, on a virtual clock, and beside it under textbook policies.

    python tests/benchmarks/replay.py TRACE.csv [--limits exact|none] [--json] [--beside easy,fifo,greedy,sjf] [--cuts]

``--limits exact`` gives each job a time limit of exactly its duration; with ``none`` nobody says how long jobs run,
and only predictions are left. The textbook policies always know. Times are in seconds.

``in_range`` says which part of the jobs that had to wait started within the range of times that the daemon would have
told their users when they came (it means to be right in 0.8 of the cases), and ``foretold`` how many were asked about.

``--cuts`` does the same with windows and rotations of the trace, and prints which parts of EASY's waits ours are: the
mean, and the longest of a job for several cards; and after them ``in_range``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.cuts import beside as parts_of
from benchmarks.cuts import cuts
from benchmarks.textbook import POLICIES
from benchmarks.trace import Figures, TraceJob, figures, read
from benchmarks.virtual import Replay

#: The machine that traces are replayed on.
CARDS = 8
#: Of the jobs that have to wait, it is looked at when every so many'th will start.
FORETELL = 3


def ours(jobs: list[TraceJob], limits: str, cards: int = CARDS) -> Figures:
    """The figures of our own planner."""
    began = time.perf_counter()
    done = Replay(jobs, cards, limits=limits == "exact", foretell=FORETELL).run()
    made = figures(jobs, done.runs, cards, time.perf_counter() - began)
    in_range, foretold = done.in_range
    return replace(made, in_range=in_range, foretold=foretold)


def textbook(jobs: list[TraceJob], name: str, cards: int = CARDS) -> Figures:
    """The figures of a textbook policy."""
    began = time.perf_counter()
    runs = POLICIES[name](jobs, cards)
    return figures(jobs, runs, cards, time.perf_counter() - began)


def rounded(made: Figures) -> dict[str, float]:
    """The figures that there are as plain numbers, in their order."""
    fine = ("utilization", "runtime_s", "in_range")
    given = {key: value for key, value in asdict(made).items() if value is not None}
    return {key: round(value, 4 if key in fine else 1) for key, value in given.items()}


def main() -> None:
    """Replay a trace and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path, metavar="TRACE.csv")
    parser.add_argument("--limits", choices=("exact", "none"), default="exact")
    parser.add_argument("--json", action="store_true", help="one JSON document and nothing else")
    parser.add_argument("--cuts", action="store_true", help="windows and rotations of the trace too, beside EASY")
    parser.add_argument("--beside", default="", help=f"textbook policies to print too: {','.join(POLICIES)}")
    flags = parser.parse_args()
    beside = [name for name in flags.beside.split(",") if name]
    unknown = [name for name in beside if name not in POLICIES]
    if unknown:
        parser.error(f"cannot compare with {unknown[0]}: there are {', '.join(POLICIES)}")
    try:
        jobs = read(flags.trace)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if flags.cuts:
        made = cuts(jobs)
        mine_of = {name: ours(one, flags.limits) for name, one in made.items()}
        print("\n".join(parts_of(mine_of, {name: textbook(one, "easy") for name, one in made.items()})))
        return
    mine = rounded(ours(jobs, flags.limits))
    others = {name: rounded(textbook(jobs, name)) for name in beside}
    if flags.json:
        print(json.dumps({**mine, "limits": flags.limits, "jobs": len(jobs), **({"beside": others} if others else {})}))
        return
    print(" ".join(["policy", *mine]))
    for name, made in {"ours": mine, **others}.items():
        print(" ".join([name, *(f"{value:g}" if isinstance(value, int) else f"{value}" for value in made.values())]))


if __name__ == "__main__":
    main()
