"""The picture of one job or several: how long they waited, and what their cards and processes did from the start on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from runners.render import words

from . import canvas, marks
from .canvas import COLOURS, LIGHT, style
from .curves import Curves, Panel, Run, together

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: A wait is drawn as long as it was up to this part of the longest run; a longer one is cut.
_WAIT = 0.2
#: So many runs have a band around their mean; more would hide each other.
_BANDS = 4
#: Names that a legend can hold.
_LEGEND = 16
#: Characters of a line of words at the top.
_WRAP = 140


def draw(curves: Curves) -> Figure:
    """The picture of those jobs, each of which has run."""
    canvas.load()
    runs, panels = curves.runs, curves.panels
    strip = 0.34 + 0.2 * len(runs)
    heights = [strip, *(1.25 if panel.name.startswith("GPU") else 0.8 for panel in panels)]
    said = _words(curves)
    picture = canvas.figure(10.0, sum(heights) + 0.35 * len(panels) + 0.55 + 0.16 * len(said))
    picture.suptitle("\n".join(said), x=0.01, ha="left", fontsize=9, linespacing=1.4)
    rows = picture.subplots(len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})
    axes: list[Axes] = [row[0] for row in rows]
    longest = max(curves.lasted, 1e-3)
    shown = max((min(run.waited, _WAIT * longest) for run in runs), default=0.0)
    _waits(axes[0], runs, longest)
    for place, panel in zip(axes[1:], panels, strict=True):
        _panel(place, panel, runs)
    for place in axes[1:]:
        place.axvline(0.0, color="#888888", linewidth=0.8)
        if shown:
            place.axvspan(-shown, 0.0, color="#F4F4F4", zorder=0)
    last = axes[-1]
    last.set_xlim(-shown * 1.02, longest * 1.005)
    step = marks.time_step(longest, 10)
    ticks = [step * number for number in range(math.ceil(longest / step + 1e-9))]
    last.set_xticks(ticks, [marks.elapsed(tick) for tick in ticks])
    last.set_xlabel("time since the start" if len(runs) == 1 else "time since each one's start")
    return picture


def _words(curves: Curves) -> list[str]:
    """What is said at the top: of one job all that is known, of several only which they are."""
    from textwrap import wrap

    runs = curves.runs
    if len(runs) > 1:
        named = f"jobs {', '.join(run.title for run in runs)}"
        return [named if len(named) <= _WRAP else f"{len(runs)} jobs, {runs[0].job} to {runs[-1].job}"]
    [run] = runs
    said = [f"job {run.title}"[:_WRAP], f"{run.told}{' · ' + ', '.join(run.cards) if run.cards else ''}"]
    return said + wrap("; ".join(run.verdict), _WRAP)


def _waits(axes: Axes, runs: Sequence[Run], longest: float) -> None:
    """A bar a run: the wait before 0, hatched, and the run after it."""
    for row, run in enumerate(runs):
        wait = min(run.waited, _WAIT * longest)
        colour = _colour(row, len(runs))
        hatch = style(row)[1] or None
        if wait > 0:
            axes.barh(
                row, wait, left=-wait, height=0.6, color="white", edgecolor="#777777", hatch="////", linewidth=0.6
            )
        axes.barh(
            row, run.lasted, left=0.0, height=0.6, color=colour, alpha=0.85, hatch=hatch, edgecolor="white", linewidth=0
        )
        cut = " (cut)" if run.waited > wait else ""
        told = f"ran {words.duration(run.lasted)}, waited {words.duration(run.waited)}{cut}"
        told = f"{run.title}: {told}" if len(runs) > 1 else told
        inside = run.lasted > 0.5 * longest
        dark = not inside or colour in LIGHT
        axes.text(
            longest * 0.005 if inside else run.lasted + longest * 0.005, row, told[:90], va="center",
            fontsize=7.5, color="#222222" if dark else "white",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.5} if hatch and inside else None,
        )  # fmt: skip
    axes.set_ylim(len(runs) - 0.4, -0.6)
    axes.set_yticks([])
    axes.set_title("In the queue, then running", pad=3)
    canvas.bare(axes)


def _panel(axes: Axes, panel: Panel, runs: Sequence[Run]) -> None:
    """The lines of every run; of several runs with several cards the mean, with a band from the least to the most."""
    axes.set_title(f"{panel.name} ({panel.unit})", pad=3)
    alone = len(runs) == 1
    for row, (run, lines) in enumerate(zip(runs, panel.lines, strict=True)):
        known = [line for line in lines if line.peak is not None]
        if not known:
            continue
        if alone:
            for number, line in enumerate(known):
                colour = COLOURS[number % len(COLOURS)]
                dashes = "-" if number < len(COLOURS) else "--"
                axes.plot(run.times, _numbers(line.values), dashes, color=colour, linewidth=0.9, label=line.label)
            continue
        means, low, high = together(known)
        colour = _colour(row, len(runs))
        dashes = "-" if row < len(COLOURS) else "--"
        axes.plot(run.times, _numbers(means), dashes, color=colour, linewidth=1.0)
        if len(known) > 1 and len(runs) <= _BANDS:
            axes.fill_between(run.times, _numbers(low), _numbers(high), color=colour, alpha=0.18, linewidth=0)
    _scale(axes, panel)
    if panel.ceiling is not None and not alone and any(len(lines) > 1 for lines in panel.lines):
        band = ", and from the least to the most of them" if len(runs) <= _BANDS else ""
        _note(axes, f"the mean of a job's cards{band}")
    if alone and 1 < len(panel.lines[0]) <= _LEGEND and panel.name == "GPU utilisation":
        axes.legend(
            loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=8, fontsize=7.5, borderpad=0, borderaxespad=0.2,
            handlelength=1.4, columnspacing=1.0,
        )  # fmt: skip


def _scale(axes: Axes, panel: Panel) -> None:
    most, peak = panel.most, panel.peak
    if panel.ceiling is not None:
        axes.set_ylim(0.0, panel.ceiling * 1.03)
        axes.set_yticks([0, 25, 50, 75, 100])
        return
    if most is not None and peak > most / 4:
        axes.set_ylim(0.0, most * 1.06)
        axes.axhline(most, color="#777777", linewidth=0.8, linestyle=":")
        axes.text(1.0, most, f"{marks.figure(most)} GiB", transform=axes.get_yaxis_transform(), ha="right", va="bottom",
                  fontsize=7, color="#555555")  # fmt: skip
    else:
        axes.set_ylim(0.0, marks.top(peak * 1.02))
        if most is not None:
            _note(axes, f"of {marks.figure(most)} GiB on a card")
    axes.locator_params(axis="y", nbins=4)
    axes.yaxis.set_major_formatter(lambda value, _: marks.figure(value))


def _note(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="right", fontsize=7, color="#555555", pad=3)


def _colour(row: int, count: int) -> str:
    return COLOURS[0] if count == 1 else style(row)[0]


def _numbers(values: Sequence[float | None]) -> list[float]:
    """What matplotlib leaves a gap for is not a number."""
    return [math.nan if value is None else value for value in values]
