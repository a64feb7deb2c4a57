"""`run`: one job in the foreground, or only queued."""

from __future__ import annotations

import sys

from runners.client import Client
from runners.errors import RunnersError

from .foreground import NOT_STARTED, Signals, of_one_job, stay
from .main import complain
from .options import Words
from .sentences import print_json
from .submission import surroundings


def run(words: Words) -> int:
    """Queue it, stay with it to its end, and exit as it did; 125 when it never started."""
    client = Client(words.text("socket"))
    with Signals() as signals:
        try:
            [made] = client.submit([_submission(words)])
        except RunnersError as error:
            complain(of_one_job(error))
            return NOT_STARTED
        id = made["jobs"][0]["id"]
        if not words.has("detach"):
            return stay(client, id, signals)
        if words.has("json"):
            print_json(made)
        else:
            sys.stdout.write(f"{id}\n")
        return 0


def _submission(words: Words) -> dict[str, object]:
    job: dict[str, object] = {"command": words.all("CMD")}
    for option, key in (
        ("gpu-memory", "gpu_memory"),
        ("gpu-capability", "gpu_capability"),
        ("memory", "memory"),
        ("image", "image"),
        ("time-limit", "time_limit"),
        ("name", "name"),
    ):
        if words.has(option):
            job[key] = words.text(option)
    if words.has("gpus"):
        job["num_gpus"] = words.number("gpus")
    elif any(words.has(name) for name in ("gpu-memory", "gpu-shared", "gpu-capability")):
        job["num_gpus"] = 1  # who says what a card must be like wants one
    if words.has("gpu-shared"):
        job["gpu_shared"] = True
    if words.has("cpus"):
        job["cpus"] = _cpus(words.text("cpus") or "")
    if words.has("image"):
        job["run_in"] = "container"
    return {"name": words.text("name") or "run", "num_jobs": 1, "jobs": [job], **surroundings()._asdict()}


def _cpus(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # the daemon says what it may be
