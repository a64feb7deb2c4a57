"""`plot`: what jobs did, or what the machine did, as a picture in a file or in the characters of a terminal."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from runners.client import Client
from runners.render.lines import paint
from runners.render.terminal import Terminal

from .commands import find
from .options import wrong
from .periods import since

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from runners.api import JobDetailView, TelemetryView
    from runners.render.lines import Line

    from .options import Words

#: Jobs in one picture: more cannot be told apart.
MOST = 16
#: Numbers asked for of a series: about as many as a picture has dots.
_POINTS = 900


def plot(words: Words) -> int:
    """Draw it, into a file or on standard output."""
    ids, machine = words.all("ID"), words.has("machine")
    if machine == bool(ids):
        _refuse("say which jobs, or --machine" if not ids else "--machine stands for all jobs: name none")
    for option, one in (("since", "--machine"), ("attempt", "one job")):
        if words.has(option) and machine != (option == "since"):
            _refuse(f"--{option} goes with {one}")
    output = words.text("output")
    if output is not None and words.has("terminal"):
        _refuse("--terminal draws no file: leave out -o")
    path = None if output is None else Path(output)
    if path is not None:
        from runners.plotting.canvas import kind_of, load

        kind_of(path)
        load()  # whoever lacks it is told before anything is fetched
    client = Client(words.text("socket"))
    return _machine(client, words, path) if machine else _jobs(client, ids, words, path)


def _jobs(client: Client, ids: list[str], words: Words, path: Path | None) -> int:
    from runners.plotting.curves import curves

    found = _fetched(client, ids, words.number("attempt"))
    drawn = curves(found, time.time())
    if path is not None:
        if not drawn.panels:
            from runners.errors import Unavailable

            raise Unavailable(f"cannot draw {_named(found)}: no measurements are kept")
        from runners.plotting import job_picture
        from runners.plotting.canvas import save

        save(job_picture.draw(drawn), path)
        return 0
    from runners.plotting import textual

    terminal = Terminal(sys.stdout)
    return _write(textual.drawn(drawn, terminal.width, unicode=terminal.unicode), terminal)


def _machine(client: Client, words: Words, path: Path | None) -> int:
    from runners.plotting.timeline import timeline

    command = find("plot")
    assert command is not None, "it is being done"
    now = time.time()
    start = since(words.text("since"), now, command)
    gpus = client.gpus()
    history = client.history(start)
    if not gpus and not history["jobs"]:
        sys.stderr.write("runners-client: there are no cards, and none were used\n")
        return 1
    drawn = timeline(history, gpus, start, now)
    if path is not None:
        from runners.plotting import machine_picture
        from runners.plotting.canvas import save

        save(machine_picture.draw(drawn), path)
        return 0
    from runners.plotting import gantt

    terminal = Terminal(sys.stdout)
    return _write(gantt.drawn(drawn, terminal.width, unicode=terminal.unicode), terminal)


def _fetched(client: Client, ids: list[str], attempt: int | None) -> list[tuple[JobDetailView, TelemetryView]]:
    """Every job that has started, once, with what was measured of it."""
    numbers: dict[int, None] = {}
    for id in ids:
        numbers.update((job["id"], None) for job in (client.jobs_of(id) if id.startswith("p") else [client.job(id)]))
    if attempt is not None and len(numbers) > 1:
        _refuse(f"--attempt goes with one job, and there are {len(numbers)}")
    found: list[tuple[JobDetailView, TelemetryView]] = []
    waiting = []
    for number in numbers:
        job = client.job(number)
        if all(one["started_at"] is None for one in job["attempts"]):
            waiting.append(str(number))
            continue
        if len(found) == MOST:
            _refuse(f"{len(numbers)} jobs are too many: at most {MOST} can be told apart; name some of them")
        series = client.telemetry(number, attempt=attempt, points=_POINTS)
        if series["started_at"] is None:
            waiting.append(str(number))
            continue
        found.append((job, series))
    if not found:
        _refuse(f"job {', '.join(waiting)} has not started: nothing was measured yet")
    if waiting:
        sys.stderr.write(f"runners-client: left out, for they have not started: {', '.join(waiting)}\n")
    return found


def _named(found: list[tuple[JobDetailView, TelemetryView]]) -> str:
    numbers = ", ".join(str(job["id"]) for job, _ in found)
    return f"job{'s' if len(found) > 1 else ''} {numbers}"


def _write(lines: list[Line], terminal: Terminal) -> int:
    # A chart that wraps is none: in a pipe too it is as wide as it was drawn.
    sys.stdout.write("".join(f"{paint(line, terminal.width, terminal.colour).rstrip()}\n" for line in lines))
    return 0


def _refuse(message: str) -> NoReturn:
    command = find("plot")
    assert command is not None, "it is being done"
    wrong(command, message)
