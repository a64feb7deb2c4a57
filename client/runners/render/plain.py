"""`status` and `gpus` in a pipe: aligned columns of plain text, nothing cut, a row a line. Pure."""

from __future__ import annotations

from . import words
from .lines import columns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from runners.api import GpuView, JobView, StatusView


def status(view: StatusView, now: float) -> list[str]:
    """The whole of `status`: notices, cards, jobs."""
    daemon = view["daemon"]
    lines = []
    if daemon.get("paused") is not None:
        lines += [f"paused: {words.clean(daemon['paused'] or 'no reason given')}", ""]
    if daemon.get("notice"):
        lines += [words.clean(daemon["notice"]), ""]
    if view["gpus"]:
        lines += [*cards(view["gpus"], now), ""]
    indices = {gpu["uuid"]: gpu["index"] for gpu in view["gpus"]}
    if view.get("bookings"):
        from . import bookings

        lines += [*bookings.plain(view["bookings"], indices, now), ""]
    return lines + jobs(view["jobs"], indices, now)


def cards(gpus: Sequence[GpuView], now: float, *, near: bool = False) -> list[str]:
    """A row a card; with ``near`` also what connects it with which others, if that is known."""
    rows: list[tuple[str, ...]] = [
        ("GPU", "NAME", "MEMORY", "UTIL", "TEMP", "POWER", "STATE", "JOBS", "UUID", "REASON")
    ]
    for gpu in gpus:
        power = gpu.get("power")
        rows.append(
            (
                str(gpu["index"]),
                words.clean(gpu["name"]),
                words.memory(gpu["memory_used"], gpu["memory_total"]),
                _known(gpu["utilization"], "%"),
                _known(gpu.get("temperature"), "C"),
                _known(None if power is None else round(power), "W"),
                gpu["state"],
                ",".join(map(str, gpu["jobs"])) or ",".join(f"pid:{pid}" for pid in gpu["foreign_pids"]) or "-",
                gpu["uuid"],
                _why(gpu, now),
            )
        )
    if near and any(gpu.get("near") for gpu in gpus):
        rows = [(*row[:-2], told, *row[-2:]) for row, told in zip(rows, ("NEAR", *nearest(gpus)), strict=True)]
    if all(row[-1] == "-" for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    return columns(rows, rightmost=(0, 2, 3, 4, 5))


def nearest(gpus: Sequence[GpuView]) -> list[str]:
    """For each card, what connects it with those that are closest to it: `NV12:1,2,3`."""
    indices = {gpu["uuid"]: gpu["index"] for gpu in gpus}
    told = []
    for gpu in gpus:
        near = gpu.get("near")
        others = [str(indices[uuid]) for uuid in near["gpus"] if uuid in indices] if near else []
        told.append(f"{words.clean(near['by'])}:{','.join(others)}" if near and others else "-")
    return told


def _why(gpu: GpuView, now: float) -> str:
    drained = gpu.get("drained")
    if drained is not None:
        return f"drained: {words.drain(drained, now)}"
    kept = gpu.get("kept")
    return words.kept(kept, now) if kept is not None else words.clean(gpu.get("reason") or "-")


def jobs(views: Sequence[JobView], indices: dict[str, int], now: float) -> list[str]:
    """A row a job."""
    if not views:
        return ["no jobs"]
    rows = [("ID", "PIPELINE", "NAME", "USER", "STATE", "GPUS", "TIME", "STARTS_IN", "REASON")]
    rows += [
        (
            str(job["id"]),
            job["pipeline"],
            words.clean(job["name"]),
            words.clean(job["user"]),
            job["state"],
            words.cards(job, indices).replace(" ", "") or "-",
            words.duration(words.took(job, now)).replace(" ", ""),
            _starts_in(job, now),
            words.clean(job["reason"]["text"]),
        )
        for job in views
    ]
    return columns(rows, rightmost=(0, 6, 7))


def _known(value: int | None, unit: str) -> str:
    return "-" if value is None else f"{value}{unit}"


def _starts_in(job: JobView, now: float) -> str:
    start = job["expected_start"] if job["state"] in words.WAITING else None
    return "-" if start is None else f"~{words.duration(start - now).replace(' ', '')}"
