"""Curves in the characters of a terminal: blocks of eight heights, or signs of growing darkness. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from runners.render import lines as text
from runners.render.lines import Line as Row

from . import marks
from .curves import Curves, Line, Panel, Run, Values, resampled, together

#: Heights of a character, the empty one first: of blocks, and where there are none of them.
BLOCKS, PLAIN = " ▁▂▃▄▅▆▇█", " .:-=+*#@"
#: The styles of the panels' charts.
_STYLES = {"GPU utilisation": "green", "GPU memory": "cyan", "GPU power": "yellow"}
_OTHER = "magenta"
#: Cards of one job that have a chart each; more are drawn as their mean.
MOST_CARDS = 8
#: Columns before a chart, with its scale.
_SCALE = 8
#: Columns after a chart that is one row high, with its mean and its peak.
_TOLD = 12
#: Rows of all charts together that are aimed at.
_ROWS = 20
#: The narrowest chart.
_NARROWEST = 20


@dataclass(frozen=True, slots=True)
class _Chart:
    """A line to draw, and what is said of it."""

    panel: Panel
    label: str
    values: Values
    ceiling: float
    mean: float | None
    peak: float | None
    most: float | None


def drawn(curves: Curves, width: int, *, unicode: bool = True) -> list[Row]:
    """The charts of every run below each other, on one time axis, in so many columns."""
    glyphs = BLOCKS if unicode else PLAIN
    columns = max(width - _SCALE - 1, _NARROWEST)
    charts = [list(_charts(curves, position)) for position in range(len(curves.runs))]
    total = sum(map(len, charts))
    height = max(1, min(5, _ROWS // max(total, 1)))
    if height == 1:  # then labels and numbers stand beside the charts
        labels = max(text.width(chart.label) for its in charts for chart in its)
        columns = max(width - max(labels, _SCALE - 1) - 1 - _TOLD, _NARROWEST)
    rows: list[Row] = []
    for run, its in zip(curves.runs, charts, strict=True):
        rows += [*_head(run, width), []]
        if height == 1:
            if its:
                rows.append([(text.right("mean  peak", width), "dim")])
            rows += _side_by_side(its, run, curves.lasted, columns, max(labels, _SCALE - 1), glyphs)
        else:
            for chart in its:
                rows += _chart(chart, run, curves.lasted, columns, height, glyphs)
        if its:
            rows += [*_axis(curves.lasted, columns, max(labels, _SCALE - 1) + 1 if height == 1 else _SCALE), []]
        else:
            rows += [[("no measurements are kept of it", "dim")], []]
    return rows[:-1]


def sparkline(values: Sequence[float | None], ceiling: float, glyphs: str = BLOCKS) -> str:
    """One character a value; what is not known is a blank, and what is more than nothing is seen."""
    return _bars(values, ceiling, 1, glyphs)[0]


def _bars(values: Sequence[float | None], ceiling: float, height: int, glyphs: str) -> list[str]:
    """The values as bars so many characters high, the top row first."""
    steps = len(glyphs) - 1
    levels = [
        0 if value is None or value <= 0 else max(1, round(min(value / ceiling, 1.0) * height * steps))
        for value in values
    ]
    return [
        "".join(glyphs[min(max(level - row * steps, 0), steps)] for level in levels) for row in reversed(range(height))
    ]


def _head(run: Run, width: int) -> Iterator[Row]:
    yield [(text.end(run.title, width), "bold")]
    for line in text.wrap(run.told, width):
        yield [(line, "")]
    for sentence in run.verdict:
        for line in text.wrap(sentence, width):
            yield [(line, "yellow")]


def _charts(curves: Curves, position: int) -> Iterator[_Chart]:
    for panel in curves.panels:
        lines = panel.lines[position]
        if len(lines) > MOST_CARDS:
            means, _, high = together(lines)
            whole = Line(f"{len(lines)} cards", means, lines[0].most)
            peak = Line("", high).peak
            yield _Chart(panel, whole.label, means, _ceiling(panel), whole.mean, peak, whole.most)
            continue
        for line in lines:
            if line.peak is not None:
                yield _Chart(panel, line.label, line.values, _ceiling(panel), line.mean, line.peak, line.most)


def _ceiling(panel: Panel) -> float:
    return panel.ceiling or marks.top(panel.peak)


def _style(panel: Panel) -> str:
    return _STYLES.get(panel.name, _OTHER)


def _chart(chart: _Chart, run: Run, until: float, columns: int, height: int, glyphs: str) -> Iterator[Row]:
    panel = chart.panel
    said = [("mean", chart.mean), ("peak", chart.peak)]
    told = ", ".join(f"{name} {marks.figure(value)}" for name, value in said if value is not None)
    if chart.most is not None:
        told += f" of {marks.figure(chart.most)}"
    label = f"{panel.name}, {chart.label}" if chart.label else panel.name
    yield [(f"{label}: ", ""), (f"{told} {panel.unit}", "dim")]
    bars = _bars(resampled(run.times, chart.values, until, columns), chart.ceiling, height, glyphs)
    edge = "┤" if glyphs is BLOCKS else "|"
    for number, bar in enumerate(bars):
        scale = marks.figure(chart.ceiling) if number == 0 else "0" if number == height - 1 else ""
        yield [(f"{text.right(scale, _SCALE - 1)}{edge}", "dim"), (bar.rstrip(), _style(panel))]


def _side_by_side(
    charts: Sequence[_Chart], run: Run, until: float, columns: int, labels: int, glyphs: str
) -> Iterator[Row]:
    """A row a chart, below a heading for each thing that was measured."""
    last: Panel | None = None
    for chart in charts:
        panel = chart.panel
        if panel is not last:
            most = f" of {marks.figure(chart.most)}" if chart.most is not None else ""
            yield [(panel.name, ""), (f", 0 to {marks.figure(chart.ceiling)}{most} {panel.unit}", "dim")]
            last = panel
        bar = sparkline(resampled(run.times, chart.values, until, columns), chart.ceiling, glyphs)
        told = f" {text.right(_figure(chart.mean), 5)} {text.right(_figure(chart.peak), 5)}"
        edge = "┤" if glyphs is BLOCKS else "|"
        yield [(f"{text.left(chart.label, labels)}{edge}", "dim"), (bar, _style(panel)), (told, "dim")]


def _figure(value: float | None) -> str:
    return "-" if value is None else marks.figure(value)


def _axis(until: float, columns: int, before: int) -> Iterator[Row]:
    """The time axis: marks at round times since the start."""
    yield [(" " * before + ticks(0.0, until, columns, marks.elapsed), "dim")]


def ticks(start: float, until: float, columns: int, written: Callable[[float], str]) -> str:
    """Labels under a chart of so many columns that shows the time from ``start`` to ``until``."""
    span = until - start
    if span <= 0:
        return written(start)
    step = marks.time_step(span, max(columns // 10, 1))
    line = ""
    at = start
    while at <= until:
        place = int((at - start) * columns / span)
        label = written(at)
        if place >= len(line) + (1 if line else 0) and place + len(label) <= columns:
            line = line.ljust(place) + label
        at += step
    return line
