"""The machine's timeline in the characters of a terminal: a letter for each user, in rows of cards. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from math import ceil

from runners.render import lines as text
from runners.render.lines import Line as Painted

from . import marks
from .textual import BLOCKS, PLAIN, sparkline, ticks
from .timeline import INTRUDER, Bar, Row, Timeline

#: Signs of the users, those with the most card time first; everybody beyond them shares one.
SIGNS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
OTHERS = "*"
#: What a cell shows where no job of ours had the card.
CLOSED = {"drained": "~", "foreign": "#", "lost": "?"}
FREE, PLAIN_FREE = "·", "."
#: On a cell of a job that had an intruder most of the time.
INTRUDED = "!"
_STYLES = ("blue", "yellow", "green", "magenta", "cyan", "red")
_NARROWEST = 20
#: A job's number stands in its bar where that is so many columns longer.
_ROOM = 3


def drawn(timeline: Timeline, width: int, *, unicode: bool = True) -> list[Painted]:
    """A row a card, the queue, the time, and who is which letter, in so many columns."""
    labels = max((text.width(row.label) for row in timeline.rows), default=5)
    columns = max(width - labels - 2, _NARROWEST)
    signs = {user: SIGNS[at] if at < len(SIGNS) else OTHERS for at, (user, _) in enumerate(timeline.users)}
    free = FREE if unicode else PLAIN_FREE
    hours = sum(seconds for _, seconds in timeline.users) / 3600
    rows: list[Painted] = [
        [
            (f"{_when(timeline.since)} to {_when(timeline.until)}: ", "bold"),
            (f"{marks.figure(hours)} card-hours, held {timeline.held:.0%} of the time", ""),
        ],
        [],
    ]
    seen: set[str] = set()
    for row in timeline.rows:
        cells = _cells(row, timeline, columns, signs, free)
        seen |= set(cells)
        rows.append([(f"{text.left(row.label, labels)}  ", "dim"), *_painted(cells, signs)])
    glyphs = BLOCKS if unicode else PLAIN
    if timeline.longest_queue:
        waiting = _waiting(timeline, columns)
        head = text.left("queue"[:labels], labels)
        rows.append([(f"{head}  ", "dim"), (sparkline(waiting, timeline.longest_queue, glyphs).rstrip(), "")])
    rows.append([(" " * (labels + 2) + _times(timeline, columns), "dim")])
    rows.append([])
    rows += _legend(timeline, signs, seen, width, free)
    return rows


def _when(at: float) -> str:
    return time.strftime("%a %d %b %H:%M", time.localtime(at))


def _times(timeline: Timeline, columns: int) -> str:
    """Round local times below the rows: hours of the day, or days."""
    span = timeline.until - timeline.since
    step = marks.time_step(span, max(columns // 10, 1))
    local = time.localtime(timeline.since)
    midnight = time.mktime((local.tm_year, local.tm_mon, local.tm_mday, 0, 0, 0, 0, 0, -1))
    first = midnight + -(-(timeline.since - midnight) // step) * step
    pattern = "%a %d" if step >= 86_400 else "%a %H:%M" if span > 86_400 else "%H:%M"
    before = int((first - timeline.since) * columns / span)

    def written(at: float) -> str:
        return time.strftime(pattern, time.localtime(at))

    return " " * before + ticks(first, timeline.until, columns - before, written)


def _cells(row: Row, timeline: Timeline, columns: int, signs: dict[str, str], free: str) -> list[str]:
    """Who had the card, column by column: whoever had it longest in that time."""
    size = (timeline.until - timeline.since) / columns
    shares: list[dict[str, float]] = [{} for _ in range(columns)]

    def add(start: float, end: float, sign: str) -> None:
        first, last = (start - timeline.since) / size, (end - timeline.since) / size
        for at in range(max(int(first), 0), min(int(last), columns - 1) + 1):
            part = min(last, at + 1) - max(first, at)
            if part > 0:
                shares[at][sign] = shares[at].get(sign, 0.0) + part

    for span in row.spans:
        if span.kind != INTRUDER:
            add(span.start, span.end, CLOSED[span.kind])
    closed = [dict(one) for one in shares]
    for bar in row.bars:
        add(bar.start, bar.end, signs[bar.user])
    cells = []
    for share, shut in zip(shares, closed, strict=True):
        users = {sign: part for sign, part in share.items() if sign not in shut}
        idle = 1.0 - sum(users.values())
        best = max(users, key=lambda sign: users[sign], default=None)
        if best is not None and (users[best] >= idle or users[best] >= 0.5):
            cells.append(best)
        else:
            cells.append(max(shut, key=lambda sign: shut[sign]) if shut and max(shut.values()) >= 0.5 else free)
    for bar in row.bars:
        _number(cells, bar, timeline, columns, signs)
    for span in row.spans:
        if span.kind == INTRUDER:
            first = int((span.start - timeline.since) / size)
            for at in range(first, min(max(int((span.end - timeline.since) / size), first + 1), columns)):
                cells[at] = INTRUDED
    return cells


def _number(cells: list[str], bar: Bar, timeline: Timeline, columns: int, signs: dict[str, str]) -> None:
    """Write the job's number into its bar, where the bar is alone and long enough."""
    size = (timeline.until - timeline.since) / columns
    first = int((bar.start - timeline.since) / size + 0.5)
    last = min(int((bar.end - timeline.since) / size + 0.5), columns)
    number, sign = str(bar.job), signs[bar.user]
    if bar.lanes == 1 and last - first >= len(number) + _ROOM and set(cells[first:last]) == {sign}:
        middle = first + (last - first - len(number)) // 2
        # The user's own letter on each side, so that the number is seen to belong to the bar.
        cells[middle : middle + len(number)] = [sign + digit for digit in number]


def _painted(cells: list[str], signs: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The cells in stretches of one style. A digit has its user's letter before it, for the style alone."""
    styles = _styles(signs)
    stretch, style = "", ""
    for cell in cells:
        its = styles(cell[0])
        if its != style and stretch:
            yield stretch, style
            stretch = ""
        stretch, style = stretch + cell[-1], its
    yield stretch.rstrip(), style


def _styles(signs: dict[str, str]) -> Callable[[str], str]:
    order = {sign: _STYLES[at % len(_STYLES)] for at, sign in enumerate(dict.fromkeys(signs.values()))}
    return lambda sign: "bold red" if sign == INTRUDED else order.get(sign, "dim")


def _waiting(timeline: Timeline, columns: int) -> list[float | None]:
    """The most jobs that waited, column by column."""
    size = (timeline.until - timeline.since) / columns
    found = [0.0] * columns
    ends = [at for at, _ in timeline.queue[1:]] + [timeline.until]
    for (start, count), end in zip(timeline.queue, ends, strict=True):
        first, last = (start - timeline.since) / size, (end - timeline.since) / size
        for at in range(int(first), min(max(ceil(last), int(first) + 1), columns)):
            found[at] = max(found[at], float(count))
    return list(found)


def _legend(timeline: Timeline, signs: dict[str, str], seen: set[str], width: int, free: str) -> Iterator[Painted]:
    styles = _styles(signs)
    words = [(signs[user], f"{user} {marks.figure(seconds / 3600)}h") for user, seconds in timeline.users[: len(SIGNS)]]
    if len(timeline.users) > len(SIGNS):
        words.append((OTHERS, f"{len(timeline.users) - len(SIGNS)} others"))
    names = {**{sign: kind for kind, sign in CLOSED.items()}, CLOSED["foreign"]: "used by others", INTRUDED: "intruder"}
    words += [(sign, names[sign]) for sign in names if sign in seen]
    words.append((free, "free"))
    if timeline.longest_queue:
        words.append(("", f"queue: at most {timeline.longest_queue}"))
    line: Painted = []
    room = width
    for sign, name in words:
        size = text.width(sign) + text.width(name) + 3
        if line and size > room:
            yield line
            line, room = [], width
        line += [(sign, styles(sign)), (f" {name}  " if sign else f"{name}  ", "")]
        room -= size
    yield line
