"""Compiles the recorder, once for every version of its source."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("recorder.c")


class CannotBuild(Exception):
    """Something the build needs is not here; the message names it."""


def build(cache: Path) -> Path:
    """The library below ``cache``, for LD_PRELOAD. Safe to call from several processes.

    Raises:
        CannotBuild: there is no gcc.
    """
    compiler = shutil.which("gcc")
    if compiler is None:
        raise CannotBuild("gcc is not installed")
    library = cache / f"recorder-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}.so"
    if not library.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            made = Path(scratch) / library.name
            flags = ["-O1", "-shared", "-fPIC", "-U_FORTIFY_SOURCE"]
            subprocess.run([compiler, *flags, "-o", made, SOURCE, "-ldl", "-lpthread"], check=True)
            made.replace(library)
    return library


def environment(library: Path, root: Path, log: Path, kill: int = 0) -> dict[str, str]:
    """What a program's environment must have to be recorded below ``root``; 0: it is not killed at any fsync."""
    more = {"LD_PRELOAD": str(library), "RECORDER_ROOT": str(root.resolve()), "RECORDER_LOG": str(log)}
    return {**os.environ, **more, "RECORDER_KILL": str(kill)}
