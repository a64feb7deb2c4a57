"""When jobs will start, in words: of one job, of a submission that is only tried, of a change to others. Pure."""

from __future__ import annotations

from . import words
from .lines import columns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from runners.api import AheadView, EffectView, JobView

#: Seconds from now that are as good as now.
_NOW = 5.0
#: From so many seconds on, differences are said in whole minutes: nothing here is known better.
_ROUGH = 300.0


def expected(likely: float | None, between: Sequence[float | None] | None, now: float) -> str:
    """``14:20, most likely between 13:50 and 16:10``; empty where nothing is foretold."""
    if between is None or between[0] is None:
        return "" if likely is None else f"about {words.clock(likely, now)}"
    earliest, latest = between[0], between[1]
    if likely is None or latest is None:
        first = "" if earliest <= now + _NOW else f"hardly before {words.clock(earliest, now)}; "
        return f"{first}nobody can say when: what is ahead has no time limit, and nothing like it has run before"
    if latest <= now + _NOW:
        return "now"
    soonest = "now" if earliest <= now + _NOW else words.clock(earliest, now)
    return f"about {words.clock(likely, now)}, most likely between {soonest} and {words.clock(latest, now)}"


def ahead(view: AheadView) -> str:
    """``3 jobs: 17 train (ann), 18 fit (bob), 19 fit (bob)``."""
    if not view["count"]:
        return "nobody"
    named = ", ".join(f"{job['id']} {words.clean(job['name'])} ({words.clean(job['user'])})" for job in view["jobs"])
    left_out = view["count"] - len(view["jobs"])
    return f"{words.count(view['count'], 'job')}: {named}" + (f" and {left_out} more" if left_out else "")


def foreseen(job: Mapping[str, Any], indices: Mapping[str, int], now: float) -> list[str]:
    """What would become of a job that is not queued: ``would start now on card 0``; or when, and why not now."""
    if "reason" not in job:
        return []
    if job["starts_now"]:
        numbers = sorted(indices[uuid] for uuid in job["gpus"] if uuid in indices)
        cards = f" on card{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}" if numbers else ""
        return [f"would start now{cards}"]
    start = expected(job["expected_start"], job["expected_start_range"], now)
    likely = job["expected_start"] is not None
    first = f"would start {start}" if likely else f"would wait; {start}" if start else "would wait"
    return [first, words.clean(job["reason"]["text"])]


def stopped(job: JobView, now: float) -> str:
    """What a cancel would do to a live job: ``12 fit would be stopped; it has run for 3h 10m``."""
    ran = "" if job["started_at"] is None else f"; it has run for {words.duration(now - job['started_at'])}"
    return f"{job['id']} {words.clean(job['name'])} would be stopped{ran}"


def effects(found: Sequence[EffectView], now: float) -> list[str]:
    """A row for each job that a change would move, with a heading."""
    if not found:
        return ["nobody would start earlier or later"]
    rows = [("ID", "NAME", "USER", "STARTS", "THEN", "DIFFERENCE")]
    for one in found:
        rows.append(
            (
                str(one["id"]),
                words.clean(one["name"]),
                words.clean(one["user"]),
                _start(one["before"], one["before_range"], now),
                _start(one["after"], one["after_range"], now),
                _difference(one),
            )
        )
    return columns(rows, rightmost=(0,))


def _start(likely: float | None, between: Sequence[float | None] | None, now: float) -> str:
    if likely is None:
        return "not known" if between is not None else "-"
    return "now" if likely <= now + _NOW else f"~{words.clock(likely, now)}"


def _difference(one: EffectView) -> str:
    later = one["later"]
    if later is None:
        if one["before_range"] is not None and one["after_range"] is None:
            return "would not start"
        return "not known"
    if abs(later) < _NOW:
        return "none"
    much = abs(later) if abs(later) < _ROUGH else 60.0 * round(abs(later) / 60.0)
    return f"{words.duration(much)} {'later' if later > 0 else 'earlier'}"
