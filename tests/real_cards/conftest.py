"""Only where there are real cards that nobody is on: everything else skips here, and says why."""

from __future__ import annotations

import pytest

from harness import nvidia_smi


@pytest.fixture(scope="session")
def told() -> list[nvidia_smi.Told]:
    """The cards of this machine, by their indices."""
    found = nvidia_smi.cards()
    if not found:
        pytest.skip("no NVIDIA cards here: `nvidia-smi` tells of none")
    if somebody := nvidia_smi.people():
        pytest.skip(f"the cards are in use: pids {somebody}")
    return found
