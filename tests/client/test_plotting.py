"""What is drawn: the right numbers at the right times, in characters that fit, and in files that can be opened."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from runners.errors import InvalidRequest, RunnersError
from runners.plotting import canvas, gantt, marks, textual
from runners.plotting.canvas import COLOURS, DISTINCT, style
from runners.plotting.curves import GIB, Curves, curves, resampled, together
from runners.plotting.timeline import Bar, Timeline, thinned, timeline
from runners.render import lines

from .conftest import gpu_view
from .plotted import SUBMITTED, history, job, telemetry

NOW = SUBMITTED + 100_000.0


def painted(rows: Any, width: int = 80) -> list[str]:
    return [lines.paint(row, width, False) for row in rows]


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0"), (45, "45s"), (-90, "-1m30s"), (600, "10m"), (5400, "1h30m"), (7200, "2h"), (90_000, "1d01h")],
)
def test_times_since_the_start_are_short(seconds: float, said: str) -> None:
    assert marks.elapsed(seconds) == said


def test_axes_end_at_round_numbers() -> None:
    assert [marks.top(value) for value in (0.0, 0.03, 1.0, 7.9, 63.0, 412.0, 801.0)] == [
        1.0, 0.03, 1.0, 8.0, 80.0, 500.0, 1000.0,
    ]  # fmt: skip
    assert marks.time_step(2460.0, 10) == 300.0
    assert [marks.figure(value) for value in (0.0, 0.03, 0.5, 7.94, 80.0, 1204.4)] == [
        "0",
        "0.03",
        "0.5",
        "7.9",
        "80",
        "1204",
    ]


def test_colours_are_told_apart() -> None:
    assert len({style(place) for place in range(DISTINCT)}) == DISTINCT
    assert style(DISTINCT) == style(DISTINCT + 1) != style(0)
    assert len(set(COLOURS)) == len(COLOURS)


# -- jobs --------------------------------------------------------------------------------------------------------------


def test_curves_are_over_the_time_since_each_start() -> None:
    one = telemetry(12, 2, waited=90.0, lasted=600.0, samples=4, verdict=["card 1 idle 64 % of the time"])
    one["gpus"].reverse()
    found = curves([(job(12, "train", waited=90.0, lasted=600.0), one)], NOW)
    [run] = found.runs
    assert (run.waited, run.lasted, run.times, run.indices) == (90.0, 600.0, [75.0, 225.0, 375.0, 525.0], [0, 1])
    assert run.told == "ann, succeeded, waited 1m 30s, ran 10m 00s, cards 0,1"
    assert run.verdict == ["card 1 idle 64 % of the time"]
    names = [(panel.name, panel.unit, [line.label for line in panel.lines[0]]) for panel in found.panels]
    assert names == [
        ("GPU utilisation", "%", ["card 0", "card 1"]),
        ("GPU memory", "GiB", ["card 0", "card 1"]),
        ("GPU power", "W", ["card 0", "card 1"]),
        ("Process CPU", "cores", [""]),
        ("Process memory", "GiB", [""]),
    ]
    memory = found.panels[1]
    assert memory.most == 80.0
    assert memory.lines[0][0].values == [used / GIB for used in one["gpus"][1]["memory_used"]]


def test_a_job_that_runs_has_lasted_until_now_and_waits_from_its_begin() -> None:
    running = job(12, "train", waited=90.0, lasted=None, spec={"begin": SUBMITTED + 60.0})
    [run] = curves([(running, telemetry(12, 1, waited=90.0, lasted=600.0, over=False))], SUBMITTED + 1000.0).runs
    assert (run.waited, run.lasted, run.over) == (30.0, 910.0, False)
    assert "running" in run.told and "has run 15m 10s" in run.told


def test_a_later_attempt_is_drawn_from_its_own_start_with_the_jobs_first_wait() -> None:
    again = job(12, "train", waited=500.0, lasted=100.0, attempt=2)
    first = {**again["attempts"][0], "attempt": 1, "state": "failed", "started_at": SUBMITTED + 30.0}
    again["attempts"] = [first, {**again["attempts"][0], "attempt": 2}]
    [run] = curves([(again, telemetry(12, 1, waited=500.0, lasted=100.0, samples=2, attempt=2))], NOW).runs
    assert (run.waited, run.lasted, run.times) == (30.0, 100.0, [25.0, 75.0])
    assert run.told.startswith("ann, succeeded, attempt 2, waited 30s, ran 1m 40s")


def test_what_nobody_measured_has_no_panel() -> None:
    series = telemetry(12, 0, samples=5)
    series["process"]["memory"] = [None] * 5
    assert [panel.name for panel in curves([(job(12, "prepare"), series)], NOW).panels] == ["Process CPU"]
    series["at"], series["process"] = [], {"memory": [], "cpu": []}
    assert curves([(job(12, "prepare"), series)], NOW).panels == []


def test_little_memory_is_told_in_mebibytes() -> None:
    series = telemetry(12, 0, samples=3)
    series["process"]["memory"] = [None, 3 << 20, 5 << 19]
    [_, panel] = curves([(job(12, "sleep"), series)], NOW).panels
    assert (panel.unit, panel.lines[0][0].values) == ("MiB", [None, 3.0, 2.5])


def test_series_are_drawn_at_the_width_there_is() -> None:
    times = [0.5, 1.5, 2.5, 3.5]
    assert resampled(times, [1.0, 3.0, None, 5.0], 4.0, 2) == [2.0, 5.0]
    assert resampled(times, [1.0, 3.0, 4.0, 5.0], 4.0, 8) == [None, 1.0, 1.0, 3.0, 3.0, 4.0, 4.0, 5.0]
    assert resampled(times, [1.0, None, None, None], 40.0, 40)[:4] == [1.0, 1.0, 1.0, None]
    assert resampled([], [], 4.0, 3) == [None, None, None]
    assert resampled(times, [1.0] * 4, 0.0, 3) == []


def test_cards_together_are_a_mean_and_a_band() -> None:
    one, other = curves([(job(1, "a"), telemetry(1, 2, samples=3))], NOW).panels[0].lines[0]
    means, low, high = together([one, other])
    for at in range(3):
        pair = [one.values[at] or 0.0, other.values[at] or 0.0]
        assert (means[at], low[at], high[at]) == (sum(pair) / 2, min(pair), max(pair))


# -- in a terminal -----------------------------------------------------------------------------------------------------


def several(cards: int, jobs: int = 1) -> Curves:
    pairs = [
        (job(n + 1, f"train[lr=0.{n}]" + "x" * 90, waited=60.0 * n, lasted=600.0 + 300 * n),
         telemetry(n + 1, cards, waited=60.0 * n, lasted=600.0 + 300 * n, seed=n))
        for n in range(jobs)
    ]  # fmt: skip
    return curves(pairs, NOW)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(("cards", "jobs"), [(0, 1), (1, 1), (2, 1), (8, 1), (16, 1), (2, 4)])
@pytest.mark.parametrize("unicode", [True, False])
def test_charts_fit_the_terminal(width: int, cards: int, jobs: int, unicode: bool) -> None:
    rows = textual.drawn(several(cards, jobs), width, unicode=unicode)
    assert max(sum(lines.width(text) for text, _ in row) for row in rows) <= width
    shown = "\n".join(painted(rows, width))
    assert ("GPU utilisation" in shown) == bool(cards) and "Process memory" in shown
    assert unicode or shown.isascii() or "…" in shown
    assert shown.count("Process CPU") == jobs
    assert ("16 cards" in shown) == (cards == 16)


def test_a_chart_is_as_high_as_its_numbers() -> None:
    series = telemetry(1, 1, samples=72, lasted=720.0)
    series["gpus"][0]["utilization"] = [100.0] * 36 + [0.0] * 18 + [50.0] * 18
    shown = painted(textual.drawn(curves([(job(1, "a", lasted=720.0), series)], NOW), 81))
    at = next(number for number, line in enumerate(shown) if line.startswith("GPU utilisation, card 0"))
    assert shown[at] == "GPU utilisation, card 0: mean 62.5, peak 100 %"
    chart = shown[at + 1 : at + 5]
    assert chart[0] == "    100┤" + "█" * 36
    assert chart[-1] == "      0┤" + "█" * 36 + " " * 18 + "█" * 18
    assert [line[8:].count("█") for line in chart] == [36, 36, 54, 54]
    assert shown[-1].split() == ["0", "2m", "4m", "6m", "8m", "10m"]


def test_sparklines_show_that_there_is_something() -> None:
    assert textual.sparkline([None, 0.0, 0.1, 50.0, 100.0, 200.0], 100.0) == "  ▁▄██"
    assert textual.sparkline([None, 0.0, 0.1, 100.0], 100.0, textual.PLAIN) == "  .@"


# -- the machine -------------------------------------------------------------------------------------------------------


def past(
    id: int, start: float, end: float | None, *gpus: str, user: str = "ann", submitted: float | None = None
) -> Any:
    """A job with one attempt, times in seconds after 0."""
    attempt = {"attempt": 1, "state": "succeeded", "gpus": list(gpus), "reserved_at": start, "finished_at": end,
               "intruders": []}  # fmt: skip
    return {"id": id, "name": f"job{id}", "pipeline": "p1", "user": user, "uid": 1, "state": "succeeded",
            "num_gpus": len(gpus), "submitted_at": start if submitted is None else submitted, "finished_at": end,
            "attempts": [attempt]}  # fmt: skip


def cards(count: int, **first: Any) -> list[Any]:
    return [gpu_view(index, uuid=f"GPU-{index}", **(first if index == 0 else {})) for index in range(count)]


def drawn(
    *jobs: Any, count: int = 2, changes: list[Any] | None = None, since: float | None = 0.0, **first: Any
) -> Timeline:
    return timeline({"jobs": list(jobs), "changes": changes or [], "next": None}, cards(count, **first), since, 100.0)


def test_attempts_are_bars_on_their_cards_within_the_time() -> None:
    one = drawn(
        past(1, -50.0, 20.0, "GPU-0", "GPU-1"), past(2, 50.0, None, "GPU-1", user="bob"), past(3, 1, 2, "GPU-9")
    )
    assert [(row.index, [(bar.start, bar.end, bar.job) for bar in row.bars]) for row in one.rows] == [
        (0, [(0.0, 20.0, 1)]),
        (1, [(0.0, 20.0, 1), (50.0, 100.0, 2)]),
        (None, [(1.0, 2.0, 3)]),
    ]
    assert one.rows[2].label == "GPU-9", "a card that is gone is still shown"
    assert one.users == [("bob", 50.0), ("ann", 41.0)]
    assert one.held == pytest.approx((20 + 20 + 50 + 1) / 300)
    assert drawn(past(1, 40.0, 60.0, "GPU-0"), since=None).since == 40.0


def test_jobs_that_share_a_card_lie_below_each_other() -> None:
    row = drawn(past(1, 0.0, 50.0, "GPU-0"), past(2, 10.0, 20.0, "GPU-0"), past(3, 20.0, 30.0, "GPU-0"),
                past(4, 60.0, 90.0, "GPU-0")).rows[0]  # fmt: skip
    assert [(bar.job, bar.lane, bar.lanes) for bar in row.bars] == [(1, 0, 2), (2, 1, 2), (3, 1, 2), (4, 0, 1)]


def test_of_bars_too_short_to_be_seen_one_a_dot_is_drawn() -> None:
    short = [
        Bar(at, at + length, int(at), "x", "ann", "succeeded") for at, length in ((10.5, 1.0), (12.0, 3.0), (31.0, 2.0))
    ]
    long = Bar(40.0, 55.0, 4, "x", "ann", "succeeded")
    found = thinned([*short, long], 10.0)
    assert found[0] == long
    assert [(one.job, one.start, one.end) for one in found[1:]] == [(12, 12.0, 22.0), (31, 31.0, 41.0)]


def test_the_queue_counts_who_waited() -> None:
    twice = past(3, 30.0, 60.0, "GPU-0", submitted=10.0)
    twice["attempts"][0]["finished_at"] = 40.0
    one = drawn(past(1, 20.0, 30.0, "GPU-0", submitted=-5.0), past(2, 25.0, None, "GPU-1", submitted=5.0), twice)
    assert one.queue == [(0.0, 1), (5.0, 2), (10.0, 3), (20.0, 2), (25.0, 1), (30.0, 0), (40.0, 1), (60.0, 0)]
    assert one.longest_queue == 3
    never = {**past(4, 0.0, 70.0), "attempts": [], "submitted_at": 65.0}
    assert drawn(never).queue == [(0.0, 0), (65.0, 1), (70.0, 0)]


def test_what_kept_a_card_from_jobs_is_known_from_its_changes_or_from_what_it_is() -> None:
    changes = [{"at": at, "uuid": "GPU-0", "state": state, "reason": None} for at, state in
               ((10.0, "foreign"), (20.0, "free"), (70.0, "drained"))]  # fmt: skip
    spans = [(one.start, one.end, one.kind) for one in drawn(changes=changes).rows[0].spans]
    assert spans == [(10.0, 20.0, "foreign"), (70.0, 100.0, "drained")]
    before = drawn(state="drained", drained={"reason": "", "by": "root", "at": -500.0})
    assert [(one.start, one.end) for one in before.rows[0].spans] == [(0.0, 100.0)]
    changes.insert(0, {"at": 5.0, "uuid": "GPU-0", "state": "drained", "reason": None})
    now = drawn(changes=changes, state="drained", drained={"reason": "", "by": "root", "at": -500.0})
    assert [(one.start, one.end, one.kind) for one in now.rows[0].spans] == [(0.0, 100.0, "drained")], "as it is kept"
    intruded = past(1, 0.0, 50.0, "GPU-1")
    intruded["attempts"][0]["intruders"] = [{"gpu": "GPU-1", "since": 5.0, "until": 9.0, "user": "eve"}]
    assert [(one.start, one.end, one.kind) for one in drawn(intruded).rows[1].spans] == [(5.0, 9.0, "intruder")]


def test_a_machine_in_characters_says_who_had_which_card() -> None:
    changes = [{"at": 60.0, "uuid": "GPU-1", "state": "drained", "reason": None}]
    one = drawn(past(123, 0.0, 50.0, "GPU-0", user="bob", submitted=-9.0), past(2, 0.0, 20.0, "GPU-1"),
                past(3, 10.0, 20.0, "GPU-0", user="ann", submitted=0.0), changes=changes)  # fmt: skip
    shown = painted(gantt.drawn(one, 58))
    assert shown[2] == "card 0  " + "a" * 25 + "·" * 25
    assert shown[3] == "card 1  bbbb2bbbbb" + "·" * 20 + "~" * 20
    assert shown[4] == "queue   █████"
    assert shown[-2].startswith("a bob ") and "~ drained" in shown[-2] and shown[-1] == "queue: at most 1"


@pytest.mark.parametrize("width", [80, 120])
def test_a_crowded_machine_fits_the_terminal(width: int) -> None:
    view = history(8, 80, 7.0, NOW)
    one = timeline(view, cards(8), NOW - 7 * 86_400, NOW)
    rows = gantt.drawn(one, width)
    assert max(sum(lines.width(text) for text, _ in row) for row in rows) <= width + 40, "digits carry a sign for style"
    shown = painted(rows, width)
    assert all(len(line) <= width for line in shown)
    assert [line[:7] for line in shown if line.startswith("card")] == [f"card {index} " for index in range(8)]
    plain = "\n".join(painted(gantt.drawn(one, width, unicode=False), width))
    assert plain.isascii()


def test_an_empty_machine_is_drawn_too() -> None:
    assert painted(gantt.drawn(drawn(since=None), 80))[2].endswith("·")


# -- in a file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_pictures_of_jobs_are_files_of_their_kind(tmp_path: Path, kind: str, begins: bytes) -> None:
    from runners.plotting import job_picture

    path = tmp_path / f"a.{kind}"
    canvas.save(job_picture.draw(several(2, 1)), path)
    first = path.read_bytes()
    assert first.startswith(begins)
    canvas.save(job_picture.draw(several(2, 1)), path)
    assert path.read_bytes() == first, "the same picture is the same file"
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_jobs_picture_shows_its_numbers_and_its_wait() -> None:
    from runners.plotting import job_picture

    shown = several(2, 1)
    picture = job_picture.draw(shown)
    titles = [axes.get_title(loc="left") for axes in picture.axes]
    assert titles == [
        "In the queue, then running", "GPU utilisation (%)", "GPU memory (GiB)", "GPU power (W)", "Process CPU (cores)",
        "Process memory (GiB)",
    ]  # fmt: skip
    line = picture.axes[1].get_lines()[0]
    assert list(line.get_ydata()) == pytest.approx(shown.panels[0].lines[0][0].values)
    assert list(line.get_xdata()) == shown.runs[0].times
    assert picture.axes[1].get_ylim()[1] >= 100
    assert picture.axes[2].get_ylim()[1] > 80, "what the card has is in the picture"


def test_gaps_are_gaps_and_dollars_are_dollars() -> None:
    from runners.plotting import job_picture

    series = telemetry(1, 1, samples=4)
    series["gpus"][0]["utilization"] = [1.0, None, 3.0, 4.0]
    picture = job_picture.draw(curves([(job(1, "cost$a$b"), series)], NOW))
    assert math.isnan(picture.axes[1].get_lines()[0].get_ydata()[1])
    assert "cost$a$b" in picture.get_suptitle()
    picture.canvas.draw()


def test_a_letter_that_no_font_has_is_no_warning(tmp_path: Path) -> None:
    from runners.plotting import job_picture

    canvas.save(job_picture.draw(curves([(job(1, "训练"), telemetry(1, 0, samples=4))], NOW)), tmp_path / "a.png")


def test_the_machines_picture_has_a_row_for_each_card_and_names_the_users(tmp_path: Path) -> None:
    from runners.plotting import machine_picture

    one = timeline(history(8, 40, 7.0, NOW), cards(8), NOW - 7 * 86_400, NOW)
    began = time.monotonic()
    picture = machine_picture.draw(one)
    canvas.save(picture, tmp_path / "machine.png")
    assert time.monotonic() - began < 30
    assert [label.get_text() for label in picture.axes[0].get_yticklabels()] == [f"card {n}" for n in range(8)]
    [legend] = picture.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names[0].startswith(one.users[0][0]) and len(names) <= 33
    assert len(one.users) <= 28 or any("others" in name for name in names)


def test_a_picture_that_cannot_be_written_is_called_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(RunnersError, match=f"cannot write {tmp_path}/no/a.png: No such file or directory"):
        canvas.save(canvas.figure(1, 1), tmp_path / "no" / "a.png")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"must end in one of \.png, \.svg, \.pdf"):
        canvas.kind_of(tmp_path / "a.jpg")


def test_without_matplotlib_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RunnersError, match=r"pip install runnersd\[plot\]"):
        canvas.load()


def test_bars_say_their_job() -> None:
    assert Bar(0.0, 1.0, 12, "train", "ann", "running").label == "12 train"
