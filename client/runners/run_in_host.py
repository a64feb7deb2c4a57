"""Runs a command on this machine itself, in the foreground, on the cards that it names.

    python -m runners.run_in_host "python train.py" --gpus 0
    make run_in_host command="python train.py" gpus=0

It is :mod:`runners.run_in_docker` without the container: the cards are reserved all the same, and one that is in use is
an error that says who has it.
"""

from __future__ import annotations

import sys

from .run_in_docker import Given, foreground


def run_in_host() -> int:
    """Run the command of this program's own command line (``sys.argv``) on the host, and return its exit code."""
    return foreground("run_in_host", _on_host)


def _on_host(given: Given) -> int:
    from . import at_once

    return at_once.run(given.command, run_in="host", gpus=given.gpus, name=given.name)


if __name__ == "__main__":
    sys.exit(run_in_host())
