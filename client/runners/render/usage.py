"""Who has had the cards, in a table or as CSV. Pure: values in, lines out."""

from __future__ import annotations

from . import words
from .lines import columns, middle, width

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from runners.api import UsageRow, UsageSums, UsageView

#: Of a row, what CSV has, after the columns that name it.
SUMS = (
    "jobs", "attempts", "card_seconds", "wait_mean", "wait_median", "efficiency", "idle_card_seconds", "energy",
    "failures", "failure_share", "contaminated", "preempted",
)  # fmt: skip
#: The columns that name a row.
NAMES = {"user": ("user", "uid"), "pipeline": ("pipeline", "pipeline_name", "user", "uid"), "script": ("script",)}
_HEADS = (
    "JOBS", "CARD-HOURS", "WAIT", "MEDIAN", "BUSY", "IDLE-HOURS", "KWH", "FAILED", "PREEMPTED", "CONTAMINATED",
)  # fmt: skip
#: Columns that a narrow terminal does without, those first that are missed least.
_SPARED = ("MEDIAN", "PREEMPTED", "CONTAMINATED", "IDLE-HOURS", "KWH", "WAIT")
#: A name that is longer loses its middle before a column that says something is left out.
_NAME = 20


def table(view: UsageView, most: int | None = None) -> list[str]:
    """Rows under headings, and a total. ``most``: a terminal's columns; on one that is narrow some are left out."""
    names = {"user": ("USER",), "pipeline": ("PIPELINE", "NAME", "USER"), "script": ("SCRIPT",)}[view["by"]]
    rows = [[*names, *_HEADS]]
    rows += [[*_named(row, view["by"]), *_cells(row)] for row in view["rows"]]
    rows.append(["total", *[""] * (len(names) - 1), *_cells(view["total"])])
    if most is not None:
        rows = _narrowed(rows, len(names), most)
    lines = columns(rows, rightmost=range(len(names), len(rows[0])))
    if view["left_out"]:
        lines.insert(-1, f"and {words.count(view['left_out'], 'more row')}, which the total counts too")
    return lines


def csv(view: UsageView) -> list[list[str]]:
    """The rows as CSV has them, under the names that JSON has: seconds, joules, percent; empty where not known."""
    named = NAMES[view["by"]]
    return [[*named, *SUMS], *[[_plain(dict(row)[name]) for name in (*named, *SUMS)] for row in view["rows"]]]


def hours(seconds: float) -> str:
    """``0.25``, ``12.5``, ``1204``: card-hours in three figures."""
    return _figures(seconds / 3600)


def _named(row: UsageRow, by: str) -> list[str]:
    user = words.clean(row["user"] or "-")
    if by == "pipeline":
        return [row["pipeline"] or "-", words.clean(row["pipeline_name"] or "-"), user]
    return [user if by == "user" else words.clean(row["script"] or "-")]


def _cells(sums: UsageSums) -> list[str]:
    idle, energy, share = sums["idle_card_seconds"], sums["energy"], sums["failure_share"]
    return [
        str(sums["jobs"]),
        hours(sums["card_seconds"]),
        words.duration(sums["wait_mean"]),
        words.duration(sums["wait_median"]),
        "-" if sums["efficiency"] is None else f"{sums['efficiency']:.0f}%",
        "-" if idle is None else hours(idle),
        "-" if energy is None else _figures(energy / 3.6e6),
        str(sums["failures"]) + (f" ({share:.0%})" if share else ""),
        str(sums["preempted"]),
        str(sums["contaminated"]),
    ]


def _figures(number: float) -> str:
    if number == 0:
        return "0"
    return f"{number:.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def _plain(value: object) -> str:
    if value is None:
        return ""
    return f"{round(value, 3):.15g}" if isinstance(value, float) else str(value)


def _narrowed(rows: Sequence[Sequence[str]], names: int, most: int) -> list[list[str]]:
    """The rows in so many columns: first those go that say nothing, then others; then names lose their middles."""
    table = [list(row) for row in rows]

    def widths(longest_name: int) -> list[int]:
        found = [max(map(width, column)) for column in zip(*table, strict=True)]
        return [min(one, longest_name) if at < names else one for at, one in enumerate(found)]

    def over(longest_name: int) -> int:
        found = widths(longest_name)
        return sum(found) + 2 * (len(found) - 1) - most

    silent = [head for head in _SPARED if all(row[rows[0].index(head)] in ("0", "-") for row in rows[1:])]
    for head in (*silent, *(head for head in _SPARED if head not in silent)):
        if over(_NAME) > 0:
            at = table[0].index(head)
            for row in table:
                del row[at]
    room = max((room for room in range(_NAME, most) if over(room) <= 0), default=_NAME)
    for row in table:
        row[:names] = [middle(name, room) for name in row[:names]]
    return table
