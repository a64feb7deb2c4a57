"""Compiles the fake driver once for every version of its source and of pynvml's list of functions."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("fake_nvml.c")
LIBRARY = "libnvidia-ml.so.1"
NOT_SUPPORTED = 3


class CannotBuild(Exception):
    """Something the build needs is not here; the message names it."""


def build(cache: Path) -> Path:
    """The folder below ``cache`` that holds the library, for LD_LIBRARY_PATH. Safe to call from several processes.

    Raises:
        CannotBuild: there is no gcc, or no pynvml.
    """
    compiler = shutil.which("gcc")
    found = importlib.util.find_spec("pynvml")
    if compiler is None:
        raise CannotBuild("gcc is not installed")
    if found is None or found.origin is None:
        raise CannotBuild("pynvml is not installed")
    source = SOURCE.read_text() + _stubs(SOURCE.read_text(), Path(found.origin).read_text())
    folder = cache / hashlib.sha256(source.encode()).hexdigest()[:16]
    if not (folder / LIBRARY).exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            _compile(compiler, source, Path(scratch) / LIBRARY)
            folder.mkdir(exist_ok=True)
            (Path(scratch) / LIBRARY).replace(folder / LIBRARY)
    return folder


def _stubs(source: str, pynvml: str) -> str:
    """Every other function pynvml may call: it is there, and not supported."""
    wanted = set(re.findall(r"_nvmlGetFunctionPointer\([\"'](nvml\w+)[\"']\)", pynvml))
    made = set(re.findall(r"(?:ret_t|char \*)\s?(nvml\w+)\(", source)) | set(re.findall(r"PROCS\((nvml\w+)", source))
    return "".join(f"int {name}(void) {{ return {NOT_SUPPORTED}; }}\n" for name in sorted(wanted - made))


def _compile(compiler: str, source: str, library: Path) -> None:
    command = [compiler, "-x", "c", "-O1", "-shared", "-fPIC", f"-Wl,-soname,{LIBRARY}", "-o", str(library), "-"]
    subprocess.run([*command, "-lpthread"], input=source, text=True, check=True)
