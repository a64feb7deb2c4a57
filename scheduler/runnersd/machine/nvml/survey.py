"""Asks the NVIDIA driver once for what does not change while jobs run, in a process of its own, with a deadline.

Run by its path, this file is the program of that process: it prints one JSON object. Imported, it starts the program.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: NVML's return codes that mean "there is no driver here" (nvml.h).
_ABSENT = {9: "the NVIDIA driver is not loaded", 12: "libnvidia-ml.so.1 is not found"}
#: The kernel's driver and this machine's library are of different versions.
MISMATCH = 18
#: Seconds in which a killed process dies, unless the driver holds it.
_DEATH = 1.0


@dataclass(frozen=True, slots=True)
class SurveyedCard:
    """One whole card. ``persistent`` is whether the driver keeps it initialised; None where it does not say."""

    uuid: str
    name: str
    persistent: bool | None


@dataclass(frozen=True, slots=True)
class Survey:
    """What the driver said: either ``absent`` (why there is none), or ``error`` (why it does not say), or the rest."""

    driver: str = ""
    cards: tuple[SurveyedCard, ...] = ()
    absent: str | None = None
    error: str | None = None
    code: int | None = None


def survey(timeout: float, environment: Mapping[str, str] | None = None) -> Survey:
    """Ask the driver; after ``timeout`` seconds without an answer the survey says so. Blocks; raises nothing."""
    process = subprocess.Popen(
        [sys.executable, "-P", __file__],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=None if environment is None else dict(environment),
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that hangs in the driver does not even die
            process.communicate(timeout=_DEATH)
        return Survey(error=f"it has not answered for {timeout:g} s")
    if process.returncode < 0:
        return Survey(error=f"it made the process that asked it crash ({_signal(-process.returncode)})")
    try:
        return _read(json.loads(said))
    except (ValueError, KeyError, TypeError):
        return Survey(error="the process that asked it ended without an answer")


def _read(said: Mapping[str, Any]) -> Survey:
    if "absent" in said:
        return Survey(absent=str(said["absent"]))
    if "error" in said:
        return Survey(error=str(said["error"]), code=int(said["code"]))
    cards = tuple(SurveyedCard(card["uuid"], card["name"], card["persistent"]) for card in said["cards"])
    return Survey(driver=said["driver"], cards=cards)


def _signal(number: int) -> str:
    return signal.strsignal(number) or f"signal {number}"


# -- the program -------------------------------------------------------------------------------------------------------


def look(nvml: Any) -> dict[str, Any]:
    """The answer of the driver behind ``nvml``, the module `pynvml`."""
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        return {"driver": _text(nvml.nvmlSystemGetDriverVersion()), "cards": [_card(nvml, one) for one in handles]}
    except nvml.NVMLError as error:
        if error.value in _ABSENT:
            return {"absent": _ABSENT[error.value]}
        return {"error": str(error), "code": error.value}


def _card(nvml: Any, handle: Any) -> dict[str, Any]:
    try:
        persistent = bool(nvml.nvmlDeviceGetPersistenceMode(handle))
    except nvml.NVMLError:
        persistent = None
    uuid, name = nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle)
    return {"uuid": _text(uuid), "name": _text(name), "persistent": persistent}


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def main() -> int:
    """Print the answer."""
    try:
        import pynvml  # here, so that its absence is an answer
    except ImportError:
        answer: dict[str, Any] = {"absent": "the Python package nvidia-ml-py is not installed"}
    else:
        answer = look(pynvml)
    os.write(1, json.dumps(answer).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
