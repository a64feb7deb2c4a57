"""What an experiment is told of its containers: lines in its record, written with the submitter's rights to files.

A container has no supervisor of ours that could become its submitter, so a thread does; one that hangs is left behind.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from runnersd.machine.docker.aside import aside
from runnersd.machine.docker.asuser import as_user
from runnersd.model import Submitter

log = logging.getLogger(__name__)

#: The file in an experiment's folder, as `runners.experiments.folder` has it.
FILE = "record.jsonl"
#: Seconds to wait for the writing.
_PATIENCE = 5.0
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


async def note(folder: str, facts: Mapping[str, Any], who: Submitter | None) -> None:
    """Add a line to the record in an experiment's folder, as its submitter. One that cannot be written is lost."""
    line = json.dumps(facts).encode() + b"\n"
    uid, gid, groups = (who.uid, who.gid, who.groups) if who is not None else (None, 0, ())
    try:
        await aside(
            "the experiment's folder", partial(as_user, partial(_write, folder, line), uid, gid, groups), _PATIENCE
        )
    except (OSError, TimeoutError) as error:
        log.info("an experiment was not told of an attempt: %s", error)


def _write(folder: str, line: bytes) -> None:
    descriptor = os.open(f"{folder}/{FILE}", _FLAGS, 0o666)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)
