"""What `nvidia-smi` tells of this machine's cards: the other witness, beside the daemon."""

from __future__ import annotations

import csv
import shutil
import subprocess
from typing import NamedTuple


class Told(NamedTuple):
    """A card as it tells of it; ``memory`` in MiB."""

    uuid: str
    name: str
    memory: int
    capability: str


def cards() -> list[Told]:
    """The cards by their indices; none where there is no driver."""
    rows = _asked("--query-gpu=uuid,name,memory.total,compute_cap")
    return [Told(uuid, name, int(memory), capability) for uuid, name, memory, capability in rows]


def people() -> list[int]:
    """The pids that compute on the cards."""
    return [int(pid) for (pid,) in _asked("--query-compute-apps=pid")]


def _asked(query: str) -> list[list[str]]:
    if shutil.which("nvidia-smi") is None:
        return []
    said = subprocess.run(
        ["nvidia-smi", query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=60, check=False
    )
    return (
        [[word.strip() for word in row] for row in csv.reader(said.stdout.splitlines())] if not said.returncode else []
    )
