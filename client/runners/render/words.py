"""Durations, sizes, times and states in the words people read. Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runners.api import AttemptView, DrainView, JobView, KeptView

GIB = 1 << 30

#: A job's states in the three groups `status` shows. `runners.api` has them as types, which cost more to load.
LIVE = ("starting", "running", "stopping")
WAITING = ("queued", "held")
SETTLED = ("succeeded", "failed", "cancelled", "timed_out", "skipped")


def attempt_state(attempt: AttemptView) -> str:
    """How an attempt is or ended. One that made way for another job did not fail, whatever its process came to."""
    return "preempted" if attempt["reason"]["code"] == "preempted" else attempt["state"].replace("_", " ")


def duration(seconds: float | None) -> str:
    """``42s``, ``12m 03s``, ``1h 02m``, ``3d 04h``; a dash for one not known."""
    if seconds is None:
        return "-"
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"


def rough(seconds: float) -> str:
    """``42s``, ``12m``, ``5h``, ``3d``: for how long ago something was."""
    return duration(seconds).split(" ", 1)[0]


def size(count: float | None) -> str:
    """``512 MiB``, ``61.2 GiB``; a dash for one not known."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{_short(count)} {unit}"
        count /= 1024
    return f"{_short(count)} TiB"


def memory(used: int | None, total: int | None) -> str:
    """``61.2/80 GiB``: a card's memory. One that the driver does not tell is a dash."""
    if total is None:
        return "-" if used is None else f"{_short(used / GIB)} GiB"
    return f"{'-' if used is None else _short(used / GIB)}/{_short(total / GIB)} GiB"


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 100 or number == int(number) else f"{number:.1f}".removesuffix(".0")


def clock(at: float, now: float) -> str:
    """``14:05``, or ``Mon 14:05`` within a week, or ``2026-03-01 14:05``: a time as a person would say it."""
    import time

    that, today = time.localtime(at), time.localtime(now)
    if that[:3] == today[:3]:
        return time.strftime("%H:%M", that)
    if abs(at - now) < 6 * 86400:
        return time.strftime("%a %H:%M", that)
    return time.strftime("%Y-%m-%d %H:%M", that)


def count(number: int, one: str, many: str = "") -> str:
    """``1 job``, ``3 jobs``."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def took(job: JobView, now: float) -> float | None:
    """Seconds that matter of a job: waiting since, running since, or how long it ran."""
    started, finished = job["started_at"], job["finished_at"]
    if job["state"] in WAITING:
        return now - job["submitted_at"]
    if started is None:
        return None
    return (now if finished is None else finished) - started


def cards(job: JobView, indices: Mapping[str, int]) -> str:
    """``0,1``: the indices of the cards a job has or had; ``2 cards`` that it waits for; nothing when it needs none."""
    if job["gpus"]:
        known = sorted(indices[uuid] for uuid in job["gpus"] if uuid in indices)
        lost = len(job["gpus"]) - len(known)
        return ",".join([*map(str, known), *["?"] * lost])
    if job["num_gpus"] and job["state"] in WAITING:
        return count(job["num_gpus"], "card")
    return ""


def drain(drain: DrainView, now: float) -> str:
    """``fan is loud (root, since 14:05)``: why a card is drained."""
    since = "" if drain["at"] is None else f"since {clock(drain['at'], now)}"
    who = ", ".join(clean(text) for text in (drain["by"] and f"by {drain['by']}", since) if text)
    return f"{clean(drain['reason'])} ({who})" if drain["reason"] and who else clean(drain["reason"]) or who


def kept(kept: KeptView, now: float) -> str:
    """``kept for 12 (ann), about 14:20``: for whom a free card is kept, and when they are expected to start there."""
    about = f", about {clock(kept['at'], now)}" if kept["at"] > now else ""
    return f"kept for {kept['job']} ({clean(kept['user'])}){about}"


def clean(text: str) -> str:
    """``text`` without what would move a terminal's cursor or change its colours."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
