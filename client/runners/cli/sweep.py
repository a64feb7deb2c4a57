"""`sweep`: an experiment in many variants, made and queued."""

from __future__ import annotations

from runners.client import Client
from runners.experiments.sweep import pipeline

from .options import Words
from .submit import queue


def sweep(words: Words) -> int:
    """Make the experiments that a file's `sweep` names, and queue their stages."""
    [file] = words.all("FILE")
    loaded = pipeline(file, num_gpus=words.number("gpus"), num_jobs=words.number("num-jobs"))
    return queue(Client(words.text("socket")), [file], [loaded], words)
