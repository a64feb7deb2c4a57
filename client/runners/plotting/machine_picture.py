"""The picture of the machine: a row a card, a bar an attempt in its user's colour, and how many jobs waited below."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING

from . import canvas
from .canvas import LIGHT, OTHERS, style
from .timeline import INTRUDER, Bar, Timeline, thinned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Inches of the picture's width, of a card's row, and of the queue below.
_WIDTH, _ROW, _QUEUE = 12.0, 0.42, 0.9
#: Which part of its row a bar fills.
_FILLED = 0.82
#: What keeps a card from jobs: its colour, its pattern, and what the legend calls it.
_SPANS = {
    "drained": ("#E8E8E8", "....", "drained"),
    "foreign": ("#D9D9D9", "xxxx", "used by others"),
    "lost": ("#FFFFFF", "----", "lost"),
    INTRUDER: ("#FF0000", "", "intruder"),
}
#: Users that the legend names.
_NAMED = 28
#: A character of a bar's label, in inches.
_CHARACTER = 0.062


def draw(timeline: Timeline) -> Figure:
    """The picture of that time."""
    canvas.load()
    rows = max(len(timeline.rows), 1)
    named = min(len(timeline.users), _NAMED)
    legend = 0.25 * -(-(named + 5) // 7)
    picture = canvas.figure(_WIDTH, rows * _ROW + _QUEUE + 1.15 + legend)
    hours = sum(seconds for _, seconds in timeline.users) / 3600
    picture.suptitle(
        f"{_when(timeline.since)} to {_when(timeline.until)}: {hours:.0f} card-hours, "
        f"cards held {timeline.held:.0%} of the time",
        x=0.01, ha="left", fontsize=10,
    )  # fmt: skip
    parts = picture.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [rows * _ROW, _QUEUE]})
    cards, queue = parts[0], parts[1]
    _cards(cards, timeline)
    _waiting(queue, timeline)
    _legend(picture, timeline)
    return picture


def _look(place: int) -> tuple[str, str]:
    """The colour and the pattern of the user at that place; those that the legend does not name are one grey."""
    return style(place) if place < _NAMED else (OTHERS, "")


def _when(at: float) -> str:
    return time.strftime("%a %d %b %Y %H:%M", time.localtime(at))


def _cards(axes: Axes, timeline: Timeline) -> None:
    looks = {user: _look(place) for place, (user, _) in enumerate(timeline.users)}
    dates = _Dates(timeline)
    for place, row in enumerate(timeline.rows):
        for kind, (face, hatch, _) in _SPANS.items():
            spans = [(dates.of(one.start), dates.width(one.end - one.start)) for one in row.spans if one.kind == kind]
            if not spans:
                continue
            low, high = (place + 0.36, 0.14) if kind == INTRUDER else (place - 0.5, 1.0)
            axes.broken_barh(spans, (low, high), facecolor=face, hatch=hatch, edgecolor="#9A9A9A", linewidth=0,
                             zorder=4 if kind == INTRUDER else 1)  # fmt: skip
        shapes: dict[tuple[str, int, int, bool], list[Bar]] = {}
        for bar in thinned(row.bars, dates.dot):
            # A pattern takes long to draw, and is not seen on a bar of a few dots.
            wide = bar.end - bar.start > 4 * dates.dot
            shapes.setdefault((bar.user, bar.lane, bar.lanes, wide), []).append(bar)
        for (user, lane, lanes, wide), bars in shapes.items():
            colour, hatch = looks[user][0], looks[user][1] if wide else ""
            height = _FILLED / lanes
            low = place - _FILLED / 2 + lane * height
            axes.broken_barh(
                [(dates.of(bar.start), dates.width(bar.end - bar.start)) for bar in bars], (low, height * 0.96),
                facecolor=colour, hatch=hatch, edgecolor="white", linewidth=0.4, zorder=2,
            ).set_in_layout(False)  # fmt: skip
            for bar in bars:
                _label(axes, bar, low + height * 0.48, lanes, colour, hatch, dates)
    axes.set_xlim(dates.of(timeline.since), dates.of(timeline.until))
    axes.set_ylim(max(len(timeline.rows), 1) - 0.5, -0.5)
    axes.set_yticks(range(len(timeline.rows)), [row.label for row in timeline.rows])
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    for between in range(1, len(timeline.rows)):
        axes.axhline(between - 0.5, color="#E3E3E3", linewidth=0.6, zorder=0)


def _label(axes: Axes, bar: Bar, middle: float, lanes: int, colour: str, hatch: str, dates: _Dates) -> None:
    """The job's number and name, or the number, where there is room."""
    room = int(dates.inches(bar.end - bar.start) / _CHARACTER) - 1
    text = bar.label if len(bar.label) <= room else str(bar.job)
    if lanes > 2 or len(text) > room:
        return
    dark = colour in (*LIGHT, OTHERS)
    axes.text(
        dates.of((bar.start + bar.end) / 2), middle, text, ha="center", va="center", zorder=5, clip_on=True,
        fontsize=6.5 if lanes == 1 else 5.5, color="#111111" if dark else "white",
        bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.8} if hatch else None,
    ).set_in_layout(False)  # fmt: skip


def _waiting(axes: Axes, timeline: Timeline) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.ticker import MaxNLocator

    dates = _Dates(timeline)
    steps = [*timeline.queue, (timeline.until, timeline.queue[-1][1])]
    axes.fill_between([dates.of(at) for at, _ in steps], [count for _, count in steps], step="post", color="#8A8A8A",
                      linewidth=0)  # fmt: skip
    axes.set_ylim(0, max(timeline.longest_queue * 1.1, 1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    axes.set_title("Jobs that waited for cards", pad=3)
    here = datetime.now().astimezone().tzinfo
    locator = AutoDateLocator(tz=here)  # type: ignore[no-untyped-call]  # as matplotlib has it
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=here))  # type: ignore[no-untyped-call]


def _legend(picture: Figure, timeline: Timeline) -> None:
    """Who is which colour, with their card-hours; and what the other marks are."""
    from matplotlib.patches import Patch

    shown: Sequence[tuple[str, float]] = timeline.users[:_NAMED]
    marks = []
    for place, (user, seconds) in enumerate(shown):
        face, hatch = _look(place)
        marks.append(Patch(facecolor=face, hatch=hatch, edgecolor="white", linewidth=0, label=_owner(user, seconds)))
    left = timeline.users[_NAMED:]
    if left:
        marks.append(Patch(facecolor=OTHERS, label=_owner(f"{len(left)} others", sum(seconds for _, seconds in left))))
    kinds = {one.kind for row in timeline.rows for one in row.spans}
    for kind, (face, hatch, name) in _SPANS.items():
        if kind in kinds:
            marks.append(Patch(facecolor=face, hatch=hatch, edgecolor="#9A9A9A", linewidth=0, label=name))
    if marks:
        picture.legend(handles=marks, loc="outside lower left", ncols=7, fontsize=7.5, handlelength=1.6)


def _owner(user: str, seconds: float) -> str:
    hours = seconds / 3600
    return f"{user[:16]} {hours:.0f} h" if hours >= 10 else f"{user[:16]} {hours:.1f} h"


class _Dates:
    """Times as matplotlib counts them, in days, and how long they are in the picture."""

    def __init__(self, timeline: Timeline) -> None:
        self._inches = (_WIDTH - 1.0) / (timeline.until - timeline.since)
        self.dot = 1.0 / self._inches / canvas.DOTS  #: seconds that a dot of the picture is wide

    def of(self, at: float) -> float:
        return at / 86_400.0

    def width(self, seconds: float) -> float:
        return seconds / 86_400.0

    def inches(self, seconds: float) -> float:
        return seconds * self._inches
