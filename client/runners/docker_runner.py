"""Runs single commands in containers, on the cards that they name."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence


class DockerRunner:
    """Runs commands in containers of one image, through the daemon: it reserves the cards and keeps the output.

    The image is ``image``, else that in the environment variable `DOCKER_IMAGE_NAME`. Where neither names one, a
    warning says so; then only the daemon's own default (`containers.image`) can help.

    A container sees the code directory at `/workspace`, where it starts, and the directories of :mod:`runners.config`
    at their own places and below `/storage`, with their environment variables.

    Args:
        image: The image to run commands in.
    """

    def __init__(self, image: str | None = None) -> None:
        self.image = image or os.environ.get("DOCKER_IMAGE_NAME") or None
        #: Ports of the container to open on this machine's loopback address: `8888`, or `8889:8888` (ours, its).
        self.ports: tuple[str, ...] = ()
        if self.image is None:
            warnings.warn(
                "no image to run containers of: give DockerRunner one, or set DOCKER_IMAGE_NAME", stacklevel=2
            )

    def run(self, command: str | Sequence[str], gpus: str | None, name: str | None = None, detach: bool = True) -> int:
        """Run a command in a container, at once, on exactly these cards.

        Args:
            command: What to run. A string runs under `sh -c`, a list as it is.
            gpus: Indices of cards, such as `'0,1'` for the first two, or their UUIDs. Empty or None: no card.
            name: What the job is called; else it is named after the command's first word.
            detach: Come back at once and leave it running. Otherwise stay: its output is written to standard output and
                standard error, and Ctrl-C is sent to it.

        Returns:
            The job's id when detached, for `runners-client show`, `logs` and `cancel`; else the command's exit code.

        Raises:
            runners.errors.Unavailable: a card is in use; the message says who has it. Nothing waits, and nothing runs.
                Or no daemon answers and none can be started.
            runners.errors.InvalidPipeline: no image anywhere, no such card, no container engine...
        """
        from . import at_once

        return at_once.run(
            command, run_in="container", gpus=gpus, name=name, image=self.image, ports=self.ports, detach=detach
        )
