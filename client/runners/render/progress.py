"""`submit --follow` on a terminal: a bar a pipeline, its running jobs, what is next; finished jobs scroll by above.

Pure: values in, lines out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runners.api import JobView

from . import words
from .lines import Line, left, middle, right, width
from .status import STATES

_BAR = 32
#: The parts of a bar, from its left: how much is done, and how; then what runs.
_PARTS = (
    ("green", ("succeeded",)),
    ("red", ("failed", "timed_out")),
    ("yellow", ("cancelled", "skipped", "stopping")),
    ("cyan", ("starting", "running")),
)
_NAMED = ("running", "queued", "held", "failed", "timed_out", "cancelled", "skipped")


class Pipeline:
    """One pipeline as it is followed: its jobs' states, counted, and its live jobs."""

    def __init__(self, id: str, name: str, jobs: Mapping[int, str], began: float) -> None:
        self.id, self.name, self.began = id, name, began
        self.names = dict(jobs)
        self.states = dict.fromkeys(jobs, "queued")
        self.counts = {"queued": len(self.states)}
        self.live: dict[int, JobView] = {}
        self.said: dict[int, str] = {}  #: the last line of each live job's output
        self.next = ""  #: what the first queued job waits for

    def take(self, job: JobView) -> None:
        """Note a job's new state."""
        state, id = job["state"], job["id"]
        self.counts[self.states[id]] -= 1
        self.states[id] = state
        self.counts[state] = self.counts.get(state, 0) + 1
        if state in words.LIVE:
            self.live[id] = job
        else:
            self.live.pop(id, None)
            self.said.pop(id, None)


def finished(job: JobView, now: float, name_width: int) -> Line:
    """The line that a job leaves when it ends."""
    sign, style = STATES[job["state"]]
    why = "" if job["state"] == "succeeded" else words.clean(job["reason"]["text"])
    return [
        (f" {sign} ", style),
        (f"{job['id']:>4}  ", "dim"),
        (left(middle(words.clean(job["name"]), name_width), name_width), ""),
        (f"  {right(words.duration(words.took(job, now)), 7)}", "dim"),
        (f"  {job['state'].replace('_', ' ')}: {why}" if why else "", style),
    ]


def block(pipelines: Sequence[Pipeline], now: float, most: int, rows: int, name_width: int) -> list[Line]:
    """The part that is drawn again and again, at most ``rows`` lines of it."""
    lines: list[Line] = []
    share = max(1, (rows - 2 * len(pipelines)) // max(1, len(pipelines)))
    for pipeline in pipelines:
        lines.append(_bar(pipeline, now))
        live = sorted(pipeline.live.values(), key=lambda job: job["id"])
        shown = live if len(live) <= share else live[: share - 1]
        lines += [_running(job, pipeline, now, most, name_width) for job in shown]
        if len(live) > len(shown):
            lines.append([(f"   … and {len(live) - len(shown)} more", "dim")])
        if pipeline.next and pipeline.counts.get("queued"):
            lines.append([(f"   next: {words.clean(pipeline.next)}", "dim")])
    return lines[:rows]


def _bar(pipeline: Pipeline, now: float) -> Line:
    total, counts = len(pipeline.states), pipeline.counts
    line: Line = [(f" {pipeline.id}", "bold"), (f" {words.clean(pipeline.name)}  ", "")]
    drawn = reached = 0
    for style, states in _PARTS:
        reached += sum(counts.get(state, 0) for state in states)
        upto = _BAR * reached // total
        line.append(("━" * (upto - drawn), style))
        drawn = upto
    over = sum(counts.get(state, 0) for state in words.SETTLED)
    line += [("─" * (_BAR - drawn), "dim"), (f"  {over}/{total}", "bold")]
    for state in _NAMED:
        if counts.get(state):
            line += [(" · ", "dim"), (f"{counts[state]} {state.replace('_', ' ')}", STATES[state][1])]
    line.append((f" · {words.duration(now - pipeline.began)}", "dim"))
    return line


def _running(job: JobView, pipeline: Pipeline, now: float, most: int, name_width: int) -> Line:
    sign, style = STATES[job["state"]]
    line: Line = [
        (f" {sign} ", style),
        (f"{job['id']:>4}  ", "dim"),
        (left(middle(words.clean(job["name"]), name_width), name_width), ""),
        (f"  {right(words.duration(words.took(job, now)), 7)}", ""),
    ]
    room = most - sum(width(text) for text, _style in line) - 2
    heard = words.clean(pipeline.said.get(job["id"], "").expandtabs(2))
    if heard and room > 8:
        line.append((f"  {heard}", "dim"))
    return line
