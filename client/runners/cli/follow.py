"""`submit --follow` on a terminal: the block of :mod:`runners.render.progress`, drawn again as things happen."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from runners.api import SETTLED, JobView
from runners.client import Client
from runners.errors import RunnersError
from runners.events import EventStream
from runners.following import follow
from runners.render.lines import Line, paint
from runners.render.progress import Pipeline, block, finished
from runners.render.status import PLAIN_SIGNS
from runners.render.terminal import Terminal

_TICK = 0.5  # seconds between drawings when nothing happens
_LOOK = 1.0  # seconds between looks at what the jobs say
_FASTEST = 0.05  # seconds between drawings when much happens
_HEARD = 8  # live jobs whose last line is asked for


def follow_live(
    client: Client, stream: EventStream, made: Sequence[dict[str, Any]], names: Sequence[str]
) -> list[JobView]:
    """Draw until all jobs are over, and return them as they ended."""
    now = time.time()
    pipelines = [
        Pipeline(one["pipeline"], name, {job["id"]: job["name"] for job in one["jobs"]}, now)
        for one, name in zip(made, names, strict=True)
    ]
    of_job = {id: pipeline for pipeline in pipelines for id in pipeline.names}
    ended: dict[int, JobView] = {}
    board = _Board(pipelines)
    looked = drawn = 0.0
    news: list[JobView] = []
    try:
        ids = [pipeline.id for pipeline in pipelines]
        for job in follow(client, ids, stream=stream, queued=list(of_job), tick=_TICK):
            if job is not None:
                of_job[job["id"]].take(job)
                if job["state"] in SETTLED:
                    ended[job["id"]] = job
                    news.append(job)
            moment = time.monotonic()
            if moment - drawn < _FASTEST:
                continue  # the next event, or the next tick, draws this one too
            if moment - looked >= _LOOK:
                _listen(client, pipelines)
                looked = time.monotonic()
            board.draw(news)
            news, drawn = [], moment
        board.draw(news)
    finally:
        board.leave()
    return [ended[id] for id in sorted(ended)]


def _listen(client: Client, pipelines: Sequence[Pipeline]) -> None:
    """Ask what the live jobs wrote last, and what the first queued one waits for."""
    try:
        for pipeline in pipelines:
            for id in sorted(pipeline.live)[:_HEARD]:
                if pipeline.live[id]["started_at"] is not None:
                    pipeline.said[id] = _last_line(client, id) or pipeline.said.get(id, "")
            pipeline.next = ""
            if pipeline.counts.get("queued"):
                for job in client.jobs(states=["queued"], pipeline=pipeline.id, limit=1, newest=False):
                    pipeline.next = f"{job['name']} {job['reason']['text']}"
    except (RunnersError, OSError):
        return  # a daemon that restarts: what was heard before stays


def _last_line(client: Client, id: int) -> str:
    with client.logs(id, tail=1) as answer:
        # A progress bar draws over itself with carriage returns: what a person would see is behind the last one.
        text = answer.read()[-4096:].decode(errors="replace").rstrip("\r\n")
    return text.rpartition("\n")[2].rpartition("\r")[2].strip()


class _Board:
    """The lines at the bottom of the terminal that are ours to draw again."""

    def __init__(self, pipelines: Sequence[Pipeline]) -> None:
        self._pipelines = pipelines
        self._terminal = Terminal(sys.stdout)
        longest = max(len(name) for pipeline in pipelines for name in pipeline.names.values())
        self._name = max(8, min(longest, 36, self._terminal.width - 44))
        self._lines = 0
        sys.stdout.write("\x1b[?25l\x1b[?7l")

    def draw(self, news: Sequence[JobView]) -> None:
        """Leave the lines of jobs that ended above, and draw the block anew below them."""
        terminal, now = self._terminal, time.time()
        terminal.measure(sys.stdout)
        above = [self._paint(finished(job, now, self._name)) for job in news]
        lines = block(self._pipelines, now, terminal.width, min(16, terminal.height - 2), self._name)
        below = [self._paint(line) for line in lines]
        up = f"\x1b[{self._lines}F" if self._lines else ""
        text = "".join(f"{line}\x1b[K\n" for line in above + below)
        sys.stdout.write(f"\x1b[?2026h{up}{text}\x1b[J\x1b[?2026l")
        sys.stdout.flush()
        self._lines = len(below)

    def leave(self) -> None:
        """The cursor and the wrapping of lines as they were."""
        sys.stdout.write("\x1b[?7h\x1b[?25h")
        sys.stdout.flush()

    def _paint(self, line: Line) -> str:
        # The last column stays free: what clears the rest of a line would clear the character in it.
        painted = paint(line, self._terminal.width - 1, self._terminal.colour)
        return painted if self._terminal.unicode else painted.translate(PLAIN_SIGNS)
