"""`status` on a terminal: a line a card, then the jobs that are live, queued and over. Pure: values in, lines out."""

from __future__ import annotations

from types import MappingProxyType

from . import bookings, words
from .lines import REST, end, left, length, middle, right, width, with_rest, wrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runners.api import GpuView, JobView, StatusView

    from .lines import Line

#: A sign and a style for every state of a job.
STATES = {
    "queued": ("○", "blue"),
    "held": ("◇", "magenta"),
    "starting": ("◐", "cyan"),
    "running": ("●", "green"),
    "stopping": ("◌", "yellow"),
    "succeeded": ("✓", "green"),
    "failed": ("✗", "red"),
    "cancelled": ("⊘", "yellow"),
    "timed_out": ("✗", "red"),
    "skipped": ("–", "dim"),
}
#: Those of a job that runs, and whose cards have done nothing for too long.
IDLE = ("◍", "yellow")
#: The same signs where the terminal has no Unicode.
PLAIN_SIGNS = str.maketrans("○◇◐●◍◌✓✗⊘–━─╸·…", "o-+*%.vx/-#-=.~")
_CARDS = {
    "free": "dim",
    "reserved": "green",
    "shared": "cyan",
    "foreign": "red",
    "drained": "yellow",
    "lost": "bold red",
}
_ROOMY = 96  # columns from which a card's line has everything
_SMALL = 56  # columns below which a card has no bar, so that its state is seen
_NAME = 6  # columns below which a job's name says nothing
_WHY = 44  # columns from which sentences stand beside the jobs, and not below them
_SPARKS = "▁▂▃▄▅▆▇█"
_UNSAID = ("launching", "running", "ok")  # codes whose sentence says no more than the state does


def screen(
    view: StatusView,
    most: int,
    now: float,
    uid: int,
    history: Mapping[str, Sequence[int | None]] | None = None,
    others: Sequence[JobView] = (),
) -> list[Line]:
    """The whole of `status` in ``most`` columns. ``history``: utilisations by UUID, for `--watch` to draw. ``others``:
    jobs that have cards, and are not listed themselves."""
    lines = [_heading(view, now), *_notices(view)]
    names = {job["id"]: job for job in (*others, *view["jobs"])}
    lines += cards(view["gpus"], names, most, now, history or {})
    indices = {gpu["uuid"]: gpu["index"] for gpu in view["gpus"]}
    lines += bookings.screen(view.get("bookings", ()), indices, now, uid, most)
    lines += sections(view["jobs"], indices, most, now, uid, view.get("counts", {}))
    if not view["jobs"]:
        lines += [[], [(" no jobs yet; ", "dim"), ("runners-client submit FILE", ""), (" queues some", "dim")]]
    return lines


def sections(
    jobs: Sequence[JobView],
    indices: Mapping[str, int],
    most: int,
    now: float,
    uid: int,
    totals: Mapping[str, int] = MappingProxyType({}),
) -> list[Line]:
    """Jobs that are live, queued and over, each under its heading. ``totals``: how many there are of each state, where
    not all are shown."""
    table = _Jobs(jobs, indices, most, now, uid)
    lines: list[Line] = []
    for states, title, labels in (
        (words.LIVE, "Running", ("cards", "for", "", "")),
        (words.WAITING, "Queued", ("wants", "waits", "starts", "why")),
        (words.SETTLED, "Finished", ("cards", "ran", "ended", "how")),
    ):
        section = [job for job in jobs if job["state"] in states]
        if section:
            total = sum(totals.get(state, 0) for state in states) if states != words.SETTLED else 0
            lines += [[], table.heading(title, len(section), total, labels), *table.lines(section)]
    return lines


def _heading(view: StatusView, now: float) -> Line:
    daemon, counts = view["daemon"], view.get("counts", {})
    line: Line = [(" runners", "bold"), (f" {daemon['version']}", "dim")]
    if daemon["engine"] != "local":
        line.append((f" on {daemon['engine']}", "dim"))
    line.append((f" · up {words.duration(daemon['uptime'])}", "dim"))
    for state in ("running", "queued", "held"):
        if state in counts and (counts[state] or state == "queued"):
            line += [(" · ", "dim"), (f"{counts[state]} {state}", STATES[state][1] if counts[state] else "dim")]
    idle = sum(map(_idle, view["jobs"]))
    if idle:
        line += [(" · ", "dim"), (f"{idle} idle", IDLE[1])]
    line.append((f" · {words.clock(now, now)}", "dim"))
    return line


def _idle(job: JobView) -> bool:
    """Whether a running job's cards have done nothing for too long."""
    return job["state"] == "running" and job.get("idle_since") is not None


def _notices(view: StatusView) -> list[Line]:
    daemon, lines = view["daemon"], []
    paused, notice = daemon.get("paused"), daemon.get("notice")
    if paused is not None:
        lines.append([(" paused", "bold yellow"), (f": {words.clean(paused) or 'no reason given'}", "yellow")])
    if notice:
        lines.append([(f" {words.clean(notice)}", "dim")])
    return lines


def cards(
    gpus: Sequence[GpuView],
    jobs: Mapping[int, JobView],
    most: int,
    now: float,
    history: Mapping[str, Sequence[int | None]] = MappingProxyType({}),
) -> list[Line]:
    """A line a card: what it is, how full and how busy, and whose."""
    if not gpus:
        return []
    rows = []
    for gpu in gpus:
        used, total = gpu["memory_used"], gpu["memory_total"]
        rows.append(
            (
                str(gpu["index"]),
                middle(card_name(gpu["name"]), 18 if most >= _ROOMY else 14 if most >= _SMALL else 8),
                words.memory(used, total),
                _unit(gpu["utilization"], "%"),
                _unit(gpu.get("temperature"), "°C") if most >= _ROOMY else "",
                _unit(gpu.get("power"), "W") if most >= _ROOMY else "",
                gpu["state"],
            )
        )
    titles = ("", "card", "memory", "busy", "", "", "state")
    shown = [column for column in range(7) if any(row[column] for row in rows)]
    widths = [
        max(map(width, column)) if place not in shown else max(width(titles[place]), *map(width, column))
        for place, column in enumerate(zip(*rows, strict=True))
    ]
    bar = 14 if most >= _ROOMY else 8 if most >= _SMALL else 0
    lines: list[Line] = [[], _card_heading(widths, shown, bar, bool(history))]
    for gpu, row in zip(gpus, rows, strict=True):
        style = _CARDS.get(gpu["state"], "")
        line: Line = [(f" {right(row[0], widths[0])}", "bold"), (f"  {left(row[1], widths[1])}  ", "")]
        line += _bar(gpu, style, bar)
        line.append((f" {right(row[2], widths[2])}", ""))
        seen = history.get(gpu["uuid"])
        if seen:
            line.append(("  " + "".join(map(_spark, seen)), "cyan"))
        if any(one[3] for one in rows):
            line.append((f"  {right(row[3], widths[3])}", "dim" if not gpu["utilization"] else ""))
        for position in (4, 5):
            if widths[position]:
                line.append((f"  {right(row[position], widths[position])}", "dim"))
        line.append((f"  {left(row[6], widths[6])}", style))
        lines += _with_who(line, gpu, jobs, most, now)
    return lines


def _with_who(line: Line, gpu: GpuView, jobs: Mapping[int, JobView], most: int, now: float) -> list[Line]:
    """A card's line with its jobs and whose processes are there too, or those below it where there is no room."""
    why, style = _why(gpu, now), "red" if gpu["foreign_pids"] else "dim"
    begin, first, lines = length(line) + 2, [*line, ("  ", "")], []
    if most - begin < REST:
        begin, first, lines = 4, [(" " * 4, "")], [line]
    tenants = _tenants(gpu, jobs, most - begin)
    if not tenants and not why:
        return [line]
    if tenants and why:
        beside = [*tenants, (", ", "dim")]
        if most - begin - length(beside) >= min(width(why), REST):
            tenants = beside
        else:
            lines.append([*first, *tenants])
            first, tenants = [(" " * begin, "")], []
    return lines + with_rest([*first, *tenants], why, style, most)


def closest(gpus: Sequence[GpuView]) -> list[Line]:
    """A line with the cards that are closest to each other and what connects them, if that is known."""
    indices = {gpu["uuid"]: gpu["index"] for gpu in gpus}
    groups = []
    for gpu in gpus:
        near = gpu.get("near")
        if near:
            group = sorted({gpu["index"], *(indices[uuid] for uuid in near["gpus"] if uuid in indices)})
            groups.append(f"{words.clean(near['by'])} {ranges(','.join(map(str, group)))}")
    if not groups:
        return []
    return [[(" closest  ", "dim"), (" · ".join(dict.fromkeys(groups)), "")]]


def _card_heading(widths: Sequence[int], shown: Sequence[int], bar: int, drawn: bool) -> Line:
    """What the columns of the cards mean."""
    text = f" {left('card', widths[0] + 2 + widths[1])}  {left('memory', bar + 1 + widths[2])}"
    if drawn:
        text += " " * 12
    if 3 in shown:
        text += f"  {right('busy', widths[3])}"
    text += "".join(" " * (2 + widths[place]) for place in (4, 5) if widths[place])
    return [(f"{text}  {left('state', widths[6])}  who", "dim")]


def card_name(name: str) -> str:
    """A card's name without its maker's: `A100-SXM4-80GB`, `RTX 4090`."""
    for prefix in ("NVIDIA ", "GeForce ", "Tesla ", "Quadro "):
        name = name.removeprefix(prefix)
    return words.clean(name)


def _bar(gpu: GpuView, style: str, size: int) -> Line:
    used, total = gpu["memory_used"], gpu["memory_total"]
    if not total or used is None:
        return [("─" * size, "dim")]
    halves = min(2 * size, round(2 * size * used / total))
    full = "━" * (halves // 2) + "╸" * (halves % 2)
    return [(full, style), ("─" * (size - len(full)), "dim")]


def _spark(value: int | None) -> str:
    return " " if value is None else _SPARKS[min(7, value * 8 // 101)]


def _unit(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.0f}{unit}"


def _tenants(gpu: GpuView, jobs: Mapping[int, JobView], room: int) -> Line:
    """The jobs that have the card."""
    said: Line = []
    # With users' names if there is room, else without, else the jobs' numbers alone.
    share = room // max(1, len(gpu["jobs"])) - 2
    for id in gpu["jobs"]:
        job = jobs.get(id)
        said += [(", ", "dim"), (str(id), "bold")]
        if job is None:
            continue
        user = f" {words.clean(job['user'])}"
        left_over = share - len(str(id)) - 1
        if left_over - width(user) >= _NAME:
            said += [(f" {middle(words.clean(job['name']), left_over - width(user))}", ""), (user, "dim")]
        elif left_over >= _NAME:
            said.append((f" {middle(words.clean(job['name']), left_over)}", ""))
    return said[1:]


def _why(gpu: GpuView, now: float) -> str:
    """Whose processes are on the card that do not belong there, why it is out of use, or for whom it is kept."""
    drained, kept = gpu.get("drained"), gpu.get("kept")
    if drained is not None:
        return words.drain(drained, now)
    if kept is not None:
        return words.kept(kept, now)
    why = words.clean(gpu.get("reason", ""))
    return why or ("pid " + ", ".join(map(str, gpu["foreign_pids"])) if gpu["foreign_pids"] else "")


class _Jobs:
    """The table of jobs: one grid for its three sections."""

    def __init__(self, jobs: Sequence[JobView], indices: Mapping[str, int], most: int, now: float, uid: int) -> None:
        self.indices, self.now, self.uid, self.most = indices, now, uid, most
        self.id = max((len(str(job["id"])) for job in jobs), default=1)
        self.pipeline = max((len(job["pipeline"]) for job in jobs), default=2)
        self.user = min(10, max(4, *(width(job["user"]) for job in jobs), 4))
        self.cards = min(9, max(5, *(len(ranges(words.cards(job, indices))) for job in jobs), 5))
        self.time = max(5, *(len(words.duration(words.took(job, now))) for job in jobs), 5)
        self.when = max((width(self.moment(job)) for job in jobs), default=0)
        self.when = self.when and max(self.when, 6)
        fixed = 1 + self.id + 2 + self.pipeline + 2 + 2 + self.user + 2 + 11 + 2 + self.cards + 2 + self.time
        room = max(8, most - fixed - (2 + self.when if self.when else 0))
        names = max((width(job["name"]) for job in jobs), default=8)
        whys = min(_WHY, max((width(self.why(job)) for job in jobs), default=0) + 2)
        # Sentences stand beside the jobs where names leave them room, else below.
        self.beside = room - max(8, min(names, room // 2)) >= whys
        self.name = max(8, min(names, room - whys if self.beside else room))

    def heading(self, title: str, shown: int, total: int, labels: tuple[str, str, str, str]) -> Line:
        """A section's title over its rows, and what its columns mean."""
        of = f"{shown} of {total}" if total > shown else str(shown)
        first = self.id + 2 + self.pipeline + 2 + self.name
        count = "" if title == "Finished" else f" {of}"
        when = f"  {left(labels[2], self.when)}" if self.when else ""
        return [
            (f" {title}", "bold"),
            (left(count, first - len(title)), "dim"),
            (f"  {left('user', self.user)}  {left('state', 11)}", "dim"),
            (f"  {left(labels[0], self.cards)}  {right(labels[1], self.time)}{when}", "dim"),
            (f"  {labels[3]}" if self.beside else "", "dim"),
        ]

    def lines(self, jobs: Sequence[JobView]) -> list[Line]:
        """A section's jobs. What is true of several in a row is said once: of the first, or below the last of them."""
        lines: list[Line] = []
        indent = 1 + self.id + 2 + self.pipeline + 2
        for why, alike in self._alike(jobs):
            if self.beside:
                for place, job in enumerate(alike):
                    said = f"the same as {alike[0]['id']}" if place else why
                    lines += with_rest([*self.line(job), ("  ", "")], said, "dim", self.most)
                continue
            lines += map(self.line, alike)
            said = f"all {len(alike)}: {why}" if len(alike) > 1 else why
            lines += [[(" " * indent, ""), (part, "dim")] for part in wrap(said, self.most - indent)]
        return lines

    def _alike(self, jobs: Sequence[JobView]) -> list[tuple[str, list[JobView]]]:
        """Jobs that wait for the same and stand in a row, together; every other by itself. Each with the sentence."""
        groups: list[tuple[str, list[JobView]]] = []
        for job in jobs:
            why = self.why(job)
            if groups and why and why == groups[-1][0] and job["state"] in words.WAITING:
                groups[-1][1].append(job)
            else:
                groups.append((why, [job]))
        return groups

    def line(self, job: JobView) -> Line:
        """One job, without the sentence."""
        state = "idle" if _idle(job) else job["state"]
        sign, style = IDLE if _idle(job) else STATES.get(state, ("?", ""))
        settled = job["state"] in words.SETTLED
        cards = ranges(words.cards(job, self.indices))
        return [
            (f" {right(str(job['id']), self.id)}", "" if settled else "bold"),
            (f"  {left(job['pipeline'], self.pipeline)}", "dim"),
            (f"  {left(middle(words.clean(job['name']), self.name), self.name)}", ""),
            (f"  {left(end(words.clean(job['user']), self.user), self.user)}", "" if job["uid"] == self.uid else "dim"),
            (f"  {sign} {left(state.replace('_', ' '), 9)}", style),
            (f"  {left(end(cards, self.cards), self.cards)}", "dim" if settled else ""),
            (f"  {right(words.duration(words.took(job, self.now)), self.time)}", "dim" if settled else ""),
            (f"  {left(self.moment(job), self.when)}" if self.when else "", "dim"),
        ]

    def moment(self, job: JobView) -> str:
        """When it ended, or will start as far as that can be said."""
        if job["finished_at"] is not None:
            return f"{words.rough(self.now - job['finished_at'])} ago"
        if job["expected_start"] is not None and job["state"] in words.WAITING:
            return f"~{words.clock(job['expected_start'], self.now)}"
        return ""

    def why(self, job: JobView) -> str:
        """Why it is where it is."""
        said = []
        if job["attempt"] > 1:
            said.append(f"attempt {job['attempt']}")
        if job["reason"]["code"] not in _UNSAID:
            said.append(words.clean(job["reason"]["text"]))
        return " · ".join(said)


def ranges(cards: str) -> str:
    """``0-3,6`` for ``0,1,2,3,6``; what is no list of numbers stays as it is."""
    parts = cards.split(",")
    if len(parts) < 3 or not all(part.isdigit() for part in parts):
        return cards
    runs: list[list[int]] = []
    for number in map(int, parts):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)
