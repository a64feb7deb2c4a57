"""`show`: a job's page. Pure: values in, lines out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runners.api import AttemptView, IntruderView, JobDetailView

from . import words
from .foretold import ahead, expected
from .lines import Line, columns
from .measured import measured
from .status import STATES, ranges

#: Keys of `spec` that have a line of their own above the others.
_SHOWN = ("name", "command", "num_gpus", "run_in", "image", "priority", "env")
_SIZES = ("gpu_memory", "memory", "shm_size")
_TIMES = ("time_limit", "grace", "retry_delay")
_LABEL = 11


def detail(job: JobDetailView, indices: Mapping[str, int], now: float) -> list[Line]:
    """Everything known of one job."""
    sign, style = STATES.get(job["state"], ("?", ""))
    head: Line = [
        (f"job {job['id']}", "bold"),
        (f"  {words.clean(job['name'])}  ", "bold"),
        (f"{sign} {job['state'].replace('_', ' ')}", style),
    ]
    if job["started_at"] is not None:
        spent = words.duration(words.took(job, now))
        head.append((f" {'after' if job['finished_at'] is not None else 'for'} {spent}", "dim"))
    lines = [head, [(f"  {words.clean(job['reason']['text'])}", "" if job["state"] in words.WAITING else style)], []]
    lines += [_row(label, text) for label, text in _facts(job, indices, now)]
    if job["attempts"]:
        lines += [[], [("attempts", "bold")], *_attempts(job, indices, now)]
    if job["attempt"]:
        lines += [[], [("output", "bold"), (f"  runners-client logs {job['id']}", "")]]
        lines += [_row(stream, path) for stream, path in job.get("logs", {}).items()]
    return lines


def _facts(job: JobDetailView, indices: Mapping[str, int], now: float) -> Iterator[tuple[str, str]]:
    spec = job["spec"]
    yield "pipeline", " ".join(filter(None, (job["pipeline"], words.clean(job.get("pipeline_name", "")))))
    yield "user", f"{words.clean(job['user'])} ({job['uid']})"
    yield "command", _command(spec.get("command", ""))
    yield (
        "in",
        words.clean(job.get("cwd", "-"))
        + (f", container {words.clean(str(spec.get('image', '')))}" if job["run_in"] == "container" else ""),
    )
    if job["num_gpus"]:
        held = ranges(words.cards(job, indices)) if job["gpus"] else ""
        yield "cards", f"{job['num_gpus']}" + (f" (index {held})" if held else "")
    if job["priority"]:
        yield "priority", str(job["priority"])
    yield "submitted", _when(job["submitted_at"], now)
    if job["started_at"] is not None:
        begun = next((one["started_at"] for one in job["attempts"] if one["started_at"]), job["started_at"])
        yield "waited", words.duration(max(begun - job["submitted_at"], 0.0))
        yield "started", _when(job["started_at"], now)
    elif job["state"] in words.WAITING:
        start = expected(job["expected_start"], job.get("expected_start_range"), now)
        if start:
            yield "starts", start
        if "ahead" in job:
            yield "ahead", ahead(job["ahead"])
        for advice in job.get("would_start_now", []):
            yield "would start", f"now {words.clean(advice['text'])}"
    if job["finished_at"] is not None:
        yield "finished", _when(job["finished_at"], now)
    if job["exit_code"] is not None:
        yield "exit code", str(job["exit_code"])
    for key, value in spec.items():
        if key not in _SHOWN:
            yield key, _when(value, now) if key == "begin" else words.clean(_value(key, value))
    if spec.get("env"):
        yield "env", ", ".join(f"{name}={words.clean(str(value))}" for name, value in spec["env"].items())


def _attempts(job: JobDetailView, indices: Mapping[str, int], now: float) -> Iterator[Line]:
    rows = [_attempt(one, indices, now) for one in job["attempts"]]
    for one, text in zip(job["attempts"], columns(rows), strict=True):
        yield [(f"  {text}", _attempt_style(one))]
        for other in one.get("contaminated", ()):
            yield [(f"     contaminated: {_intruder(other, indices, now)}", "yellow")]
        for event in job["events"]:
            if "xid" in event and event["xid"]["attempt"] == one["attempt"]:
                card = indices.get(event["xid"]["gpu"], event["xid"]["gpu"])
                when = words.clock(event["at"], now)
                yield [(f"     card {card} had {words.clean(event['xid']['text'])}, {when}", "yellow")]
        summary = one.get("telemetry")
        if summary is not None:
            yield from measured(summary)


def _attempt_style(one: AttemptView) -> str:
    if one["state"] == "succeeded":
        return ""
    return "yellow" if one["reason"]["code"] == "preempted" else STATES.get(one["state"], ("", ""))[1]


def _intruder(other: IntruderView, indices: Mapping[str, int], now: float) -> str:
    """Who else was on an attempt's card, and when."""
    whose = other["user"] or (f"uid {other['uid']}" if other["uid"] is not None else "unknown user")
    card = indices.get(other["gpu"], other["gpu"])
    had = f" with {words.size(other['memory'])}" if other["memory"] else ""
    return (
        f"{words.clean(other['program'] or 'a process')} (pid {other['pid']}, {words.clean(whose)}){had} "
        f"on card {card}, {words.clock(other['since'], now)} to {words.clock(other['until'], now)}"
    )


def _attempt(one: AttemptView, indices: Mapping[str, int], now: float) -> tuple[str, ...]:
    started, finished = one["started_at"], one["finished_at"]
    known = sorted(indices[uuid] for uuid in one["gpus"] if uuid in indices)
    spent = None if started is None else (now if finished is None else finished) - started
    return (
        str(one["attempt"]),
        words.attempt_state(one),
        f"cards {ranges(','.join(map(str, known)))}" if known else "",
        "not started" if started is None else words.clock(started, now),
        words.duration(spent),
        words.clean(one["reason"]["text"]),
    )


def _row(label: str, text: str) -> Line:
    return [(f"  {label.replace('_', ' '):<{_LABEL}} ", "dim"), (text, "")]


def _when(at: float, now: float) -> str:
    away = f"in {words.rough(at - now)}" if at > now else f"{words.rough(now - at)} ago"
    return f"{words.clock(at, now)} ({away})"


def _command(command: Any) -> str:
    if isinstance(command, str):
        return words.clean(command.replace("\n", " ⏎ "))
    import shlex

    return words.clean(shlex.join(map(str, command)))


def _value(key: str, value: Any) -> str:
    if key in _SIZES and isinstance(value, (int, float)):
        return words.size(value)
    if key in _TIMES and isinstance(value, (int, float)):
        return words.duration(value)
    if key == "needs":
        return ", ".join(one["job"] + (" (finished)" if one["on"] == "finished" else "") for one in value)
    if key == "notify" and isinstance(value, dict):
        where = ", ".join(value[name] for name in ("email", "webhook") if name in value) or "as usual"
        return where if "on" not in value else f"{where}, of {', '.join(value['on']) or 'nothing'}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    return "yes" if value is True else str(value)
