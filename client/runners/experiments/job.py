"""What a job's own process knows and tells of itself: to the experiment's record, and to Comet."""

from __future__ import annotations

import atexit
import importlib.metadata
import logging
import os
import platform
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

#: Seconds that the daemon has to say what it knows of the job.
_DAEMON_WITHIN = 2.0
#: What Comet is told of the daemon's view of a job, where it has that.
_TOLD = ("user", "submitted_at", "started_at", "queue_time", "telemetry", "contaminated")

log = logging.getLogger(__name__)


def facts_of(environment: Mapping[str, str]) -> dict[str, Any]:
    """Which job this is, by its variables; empty outside of a job.

    >>> facts_of({"RUNNERS_JOB_ID": "7", "RUNNERS_ATTEMPT": "1", "CUDA_VISIBLE_DEVICES": "GPU-1,GPU-2"})
    {'job': 7, 'attempt': 1, 'cards': ['GPU-1', 'GPU-2']}
    """
    if not environment.get("RUNNERS_JOB_ID", "").isdecimal():
        return {}
    names = {"name": "RUNNERS_JOB_NAME", "pipeline": "RUNNERS_PIPELINE_ID"}
    told = {key: environment[name] for key, name in names.items() if environment.get(name)}
    cards = [card for card in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if card]
    attempt = environment.get("RUNNERS_ATTEMPT", "")
    return {
        "job": int(environment["RUNNERS_JOB_ID"]),
        "attempt": int(attempt) if attempt.isdecimal() else 1,
        **told,
        "cards": cards,
    }


def joined(config: Mapping[str, Any], exp: Any) -> None:
    """Note that this process works on an experiment, and have Comet told of its job, now and when the process ends.

    Nothing where this is no job. That something cannot be noted is logged, and no failure.
    """
    from . import comet, folder

    facts = facts_of(os.environ)
    if not facts:
        return
    where = config["info"].get("output_folder")
    mode = None if exp is None else "offline" if type(exp).__name__.startswith("Offline") else "online"
    upload = comet.upload_command(where, config["info"]["experiment_key"]) if mode == "offline" else None
    try:
        folder.note(
            where, "loaded", at=time.time(), job=facts["job"], attempt=facts["attempt"],
            python=platform.python_version(), packages=packages(), image=os.environ.get("RUNNERS_IMAGE") or None,
            comet=mode, upload=upload,
        )  # fmt: skip
    except OSError as error:
        log.warning("cannot add to the record in %s: %s", where, error)
    if exp is not None:
        exp.log_others({f"runners_{name}": str(fact) for name, fact in facts.items()})
        _tell(exp, facts["job"])
        _at_exit(partial(_tell, exp, facts["job"]))


def _at_exit(do: Callable[[], None]) -> None:
    """Have it done before Comet's own hook ends the experiment: those come in reverse, and before all of `atexit`'s."""
    try:
        from comet_ml import atexit_hooks
    except ImportError:  # a release without them: it uses `atexit`
        atexit.register(do)
    else:
        atexit_hooks.register(do)


def packages() -> dict[str, str]:
    """Every package that this interpreter has, with its version."""
    found = {(one.metadata["Name"] or ""): one.version for one in importlib.metadata.distributions()}
    return {name: found[name] for name in sorted(found, key=str.lower) if name}


def daemon_facts(job: int) -> dict[str, Any]:
    """What the daemon says of a job, flattened to what Comet is told; empty where it does not answer in time."""
    from runners.client import Client
    from runners.errors import RunnersError
    from runners.utils import flatten

    try:
        view: dict[str, Any] = {**Client(timeout=_DAEMON_WITHIN).job(job)}
    except (RunnersError, OSError) as error:
        log.debug("the daemon does not say more of job %s: %s", job, error)
        return {}
    if view.get("started_at") is not None and view.get("attempt") == 1:
        view["queue_time"] = round(view["started_at"] - view["submitted_at"], 3)
    view["telemetry"] = _measured(view["attempts"][-1].get("telemetry")) if view.get("attempts") else None
    told = {name: view[name] for name in _TOLD if view.get(name) is not None}
    return {f"runners_{name}": value for name, value in flatten(told).items()}


def _measured(summary: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What was measured up to now, card by card: means and peaks, and nothing that is not known."""
    if summary is None:
        return None
    cards = {f"card_{card['index']}": _known(card) for card in summary["gpus"]}
    return {**_known({name: summary[name] for name in ("seconds", "energy", "process")}), **cards}


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers among these; of what was so over time only the mean and the peak."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            wanted = ("mean", "peak") if "mean" in value else tuple(value)
            found[name] = _known({one: value[one] for one in wanted})
        elif isinstance(value, (int, float)):
            found[name] = value
    return found


def _tell(exp: Any, job: int) -> None:
    if not exp.alive:
        return  # it was ended before the process
    facts = daemon_facts(job)
    if facts:
        exp.log_others(facts)
