"""An experiment's folder: its `config.yml`, written whole or not at all, and its record, only ever added to."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from runners.errors import InvalidRequest

CONFIG = "config.yml"
#: What happened to the experiment: one JSON object a line.
RECORD = "record.jsonl"


def save_config(config: Mapping[str, Any]) -> str:
    """Write a configuration into its `info.output_folder`, which is made; returns the path of its `config.yml`.

    Raises:
        OSError: it cannot be written.
        InvalidRequest: the configuration names no folder, cannot be written as YAML, or another experiment is there.
    """
    from runners.utils import dump_yaml

    path = place_for(config)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = f"{path}.{os.getpid()}.partial"
    try:
        dump_yaml(config, partial)
        os.replace(partial, path)
    finally:
        if os.path.lexists(partial):
            os.unlink(partial)
    return path


def place_for(config: Mapping[str, Any]) -> str:
    """Where a configuration is saved: the path of its `config.yml`, which may not be another experiment's.

    Raises:
        InvalidRequest: the configuration names no folder, or another experiment is there.
    """
    from .configs import info_of

    info = info_of(config)
    folder, key = info.get("output_folder"), info.get("experiment_key")
    if not folder:
        raise InvalidRequest("cannot save the experiment: no `info.output_folder`")
    path = os.path.join(os.path.abspath(folder), CONFIG)
    there = _key_in(path)
    if there is not None and there != key:
        raise InvalidRequest(
            f"cannot save the experiment: {folder} holds the experiment {there} already; "
            "put ${EXPERIMENT_KEY} into `info.output_folder`, so that each has a folder of its own"
        )
    return path


def note(folder: str, event: str, **facts: Any) -> None:
    """Add a line to an experiment's record: what happened, and what was known then.

    Each line is one write at the file's end, so jobs of one experiment do not tear each other's.

    Raises:
        OSError: it cannot be written.
    """
    line = json.dumps({"event": event, **{name: fact for name, fact in facts.items() if fact is not None}})
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(os.path.join(folder, RECORD), flags, 0o666)
    try:
        os.write(descriptor, line.encode() + b"\n")
    finally:
        os.close(descriptor)


def read_record(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of an experiment's record, the earliest first; none where nothing was written down.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with open(os.path.join(folder, RECORD), encoding="utf-8") as file:
            return [json.loads(line) for line in file if line.endswith("\n")]
    except FileNotFoundError:
        return []


def _key_in(path: str) -> str | None:
    """The key of the experiment that is saved there; None where there is none."""
    from runners.utils import load_yaml

    try:
        config = load_yaml(path, ())
    except FileNotFoundError:
        return None
    info = config.get("info") if isinstance(config, dict) else None
    return str(info.get("experiment_key")) if isinstance(info, dict) else ""
