"""What host jobs cost over their supervisor alone: the floor that the daemon's benchmarks are ratios to.

    python supervisor_floor.py noop N [AT_ONCE]     N jobs `true`, so many (8) at a time: seconds and CPU
    python supervisor_floor.py handoff N            one after another: from a job's instruction to the next one's

Both have the daemon's own supervisors run them by hand, from an interpreter as lean as the spawner's, with no daemon,
no queue and no store. As under the daemon, an idle supervisor takes the next job, and the record of one that is over is
removed. Prints one JSON document.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import socket
import subprocess
import sys
import time
from itertools import pairwise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from runnersd.machine.host import order as orders
    from runnersd.machine.host.order import Order

MACHINE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../scheduler/runnersd/machine")


def floor(directory: str, *words: object) -> dict[str, float]:
    """Measure in a lean interpreter, with records and logs in ``directory``; what this program prints."""
    command = [sys.executable, "-I", "-S", "-E", "-X", "utf8", os.path.abspath(__file__), *map(str, words)]
    found: dict[str, float] = json.loads(subprocess.check_output(command, cwd=directory))
    return found


def noop(count: int, at_once: int) -> dict[str, float]:
    """So many `true`, so many at a time."""
    began = time.perf_counter()
    run((["/bin/true"] for _ in range(count)), at_once)
    seconds = time.perf_counter() - began
    children, own = resource.getrusage(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF)
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in (children, own))
    return {"jobs": count, "seconds": seconds, "per_second": count / seconds, "cpu_ms_per_job": cpu / count * 1000}


def handoff(count: int) -> dict[str, float]:
    """One `date` after another. The median of what is between their times is the floor of a card's hand-off."""
    run((["date", "+%s%N"] for _ in range(count + 1)), 1)
    times = []
    for number in range(count + 1):
        with open(f"{number}.out", encoding="ascii") as file:
            times.append(int(file.read()))
    gaps = sorted(later - earlier for earlier, later in pairwise(times))
    return {"jobs": count, "median_ms": gaps[count // 2] / 1e6}


def run(commands: Iterator[Sequence[str]], at_once: int) -> None:
    """Run all of them under so many supervisors, as the daemon orders them."""
    lines: dict[int, socket.socket] = {}
    has: dict[socket.socket, Order] = {}
    poll = select.poll()

    def over() -> socket.socket:
        """The line of the next supervisor whose job is over."""
        while True:
            for fd, _ in poll.poll():
                received = orders.receive(lines[fd])
                assert received is not None
                if received[0][0] == "over":
                    os.unlink(has.pop(lines[fd]).record)
                    return lines[fd]
                assert received[0][0] == "started", received

    for number, argv in enumerate(commands):
        one = order(number, argv)
        if len(lines) < at_once:
            line = fork(one, lines)
            lines[line.fileno()] = line
            poll.register(line, select.POLLIN)
        else:
            line = over()
            orders.send(line, ("run", one.pack()), [FENCE])
        has[line] = one
    while lines:
        line = over()
        poll.unregister(line)
        del lines[line.fileno()]
        line.close()
        os.wait()


def fork(first: Order, lines: dict[int, socket.socket]) -> socket.socket:
    """A supervisor as the spawner makes it, with its first order; the line to it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        for line in (ours, *lines.values()):
            line.close()
        supervise(theirs.detach(), first, [], os.dup(FENCE))
    theirs.close()
    return ours


def order(number: int, argv: Sequence[str]) -> Order:
    """To run this, with its record and its logs in this directory."""
    record, out, err = (os.path.join(HERE, f"{number}.{ending}") for ending in ("run", "out", "err"))
    return orders.Order(
        run=f"floor-{number}", record=record, out=out, err=err, argv=tuple(argv),
        environment={"PATH": os.defpath}, cwd="/", umask=0o022, grace=10.0, log_max=1 << 30,
    )  # fmt: skip


if __name__ == "__main__" and sys.flags.no_site:
    sys.path.append(MACHINE)
    from host import order as orders  # type: ignore[import-not-found]
    from host.supervisor import prepare, supervise  # type: ignore[import-not-found]

    HERE = os.getcwd()
    FENCE = os.open("fence", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
