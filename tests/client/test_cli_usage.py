"""`usage`: a table for a person, CSV for a spreadsheet; and what `--since` takes."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

import pytest

from runners.api import UsageView
from runners.cli.commands import find
from runners.cli.periods import since
from runners.errors import InvalidRequest
from runners.render import lines, usage

NOW = datetime(2026, 3, 8, 12, 0).timestamp()
SUMS: dict[str, Any] = {
    "jobs": 3, "attempts": 4, "card_seconds": 45_000.0, "wait_mean": 75.04, "wait_median": 60.0, "efficiency": 71.6,
    "idle_card_seconds": 900.0, "energy": 9.0e6, "failures": 1, "failure_share": 0.25, "contaminated": 1, "preempted": 2,
}  # fmt: skip
UNKNOWN: dict[str, Any] = {
    **SUMS, "card_seconds": 0.0, "wait_mean": None, "wait_median": None, "efficiency": None, "idle_card_seconds": None,
    "energy": None, "failures": 0, "failure_share": None, "contaminated": 0, "preempted": 0,
}  # fmt: skip


def view(*sums: dict[str, Any], by: str = "user", left_out: int = 0, **named: Any) -> UsageView:
    """An answer with a row for each of the sums."""
    who = {"user": "ann", "uid": 1001, "pipeline": None, "pipeline_name": None, "script": None, **named}
    rows = [{**who, **one} for one in sums]
    total = sums[0] if sums else SUMS
    return cast(UsageView, {"by": by, "since": None, "until": NOW, "rows": rows, "total": total, "left_out": left_out})


def test_a_table_says_it_in_hours_and_percent() -> None:
    head, known, unknown, total = usage.table(view(SUMS, UNKNOWN))
    assert head.split() == [
        "USER", "JOBS", "CARD-HOURS", "WAIT", "MEDIAN", "BUSY", "IDLE-HOURS", "KWH", "FAILED", "PREEMPTED",
        "CONTAMINATED",
    ]  # fmt: skip
    assert known.split() == [
        "ann",
        "3",
        "12.5",
        "1m",
        "15s",
        "1m",
        "00s",
        "72%",
        "0.25",
        "2.50",
        "1",
        "(25%)",
        "2",
        "1",
    ]
    assert unknown.split() == ["ann", "3", "0", "-", "-", "-", "-", "-", "0", "0", "0"]
    assert total.split()[:3] == ["total", "3", "12.5"]


@pytest.mark.parametrize(
    ("by", "named", "head", "first"),
    [
        (
            "pipeline",
            {"pipeline": "p3", "pipeline_name": "musdb"},
            ["PIPELINE", "NAME", "USER"],
            ["p3", "musdb", "ann"],
        ),
        ("script", {"script": "train.py", "user": None}, ["SCRIPT", "JOBS"], ["train.py", "3"]),
        ("script", {"script": "\x1b[2J", "user": None}, ["SCRIPT", "JOBS"], ["�[2J", "3"]),
        ("script", {"script": "", "user": None}, ["SCRIPT", "JOBS"], ["-", "3"]),
    ],
)
def test_rows_are_named_by_what_they_are_added_up_by(
    by: str, named: dict[str, Any], head: list[str], first: list[str]
) -> None:
    table = usage.table(view(SUMS, by=by, **named))
    assert table[0].split()[: len(head)] == head
    assert table[1].split()[: len(first)] == first


@pytest.mark.parametrize(
    ("most", "sums", "gone"),
    [
        (130, SUMS, set()),
        (100, SUMS, {"MEDIAN", "PREEMPTED"}),
        (80, SUMS, {"MEDIAN", "PREEMPTED", "CONTAMINATED"}),
        (100, {**UNKNOWN, "wait_median": 60.0}, {"PREEMPTED"}),
        (80, {**UNKNOWN, "wait_median": 60.0}, {"PREEMPTED", "CONTAMINATED", "IDLE-HOURS"}),
    ],
)
def test_on_a_terminal_columns_that_say_nothing_go_first_and_nothing_wraps(
    most: int, sums: dict[str, Any], gone: set[str]
) -> None:
    named = {"script": "a/very/long/path/to/" + "x" * 100 + "/train.py", "user": None}
    table = usage.table(view(sums, sums, by="script", **named), most)
    assert max(map(lines.width, table)) <= most
    everything = usage.table(view(sums, by="script", **named))[0].split()
    assert set(everything) - set(table[0].split()) == gone
    assert "train.py" in table[1] and "…" in table[1]


def test_rows_that_are_left_out_are_counted() -> None:
    assert usage.table(view(SUMS, left_out=7))[-2] == "and 7 more rows, which the total counts too"


def test_csv_has_the_numbers_as_they_are() -> None:
    head, known, unknown = usage.csv(view(SUMS, UNKNOWN))
    assert dict(zip(head, known, strict=True)) == {
        "user": "ann", "uid": "1001", "jobs": "3", "attempts": "4", "card_seconds": "45000", "wait_mean": "75.04",
        "wait_median": "60", "efficiency": "71.6", "idle_card_seconds": "900", "energy": "9000000", "failures": "1",
        "failure_share": "0.25", "contaminated": "1", "preempted": "2",
    }  # fmt: skip
    assert dict(zip(head, unknown, strict=True))["efficiency"] == ""


@pytest.mark.parametrize(
    ("text", "at"),
    [
        (None, None),
        ("12h", NOW - 43_200),
        ("7d", NOW - 7 * 86_400),
        ("90", NOW - 90),
        ("2026-03-01", datetime(2026, 3, 1).timestamp()),
        ("2026-03-08T11:30", NOW - 1800),
        ("99y", None),
        ("9000d", NOW - 9000 * 86_400),
    ],
)
def test_since_is_how_long_ago_or_a_date(text: str | None, at: float | None) -> None:
    command = find("usage")
    assert command is not None
    if at is None and text is not None:
        with pytest.raises(InvalidRequest):
            since(text, NOW, command)
    else:
        assert since(text, NOW, command) == at


@pytest.mark.parametrize("text", ["", "yesterday", "+2h", "now", "2026-03-09", "-3d"])
def test_since_refuses_what_is_neither_or_is_to_come(text: str) -> None:
    command = find("usage")
    assert command is not None
    with pytest.raises(InvalidRequest, match="--since"):
        since(text, NOW, command)
