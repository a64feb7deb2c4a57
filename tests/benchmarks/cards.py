"""What runners costs on this machine's own NVIDIA cards. Not part of `make bench`: few machines have any.

python -m benchmarks.cards
"""

from __future__ import annotations

import asyncio
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.table import Row, printed
from benchmarks.telemetry import used
from harness import nvidia_smi
from harness.daemon import ROOT, Daemon, eventually
from runnersd.machine.nvml import NvmlObserver

CUDA = [sys.executable, str(ROOT / "tests" / "harness" / "cuda.py")]
LOOKS, JOBS, SECONDS = 100, 20, 20.0

#: The least that a scheduler must ask of each card: memory, and who is on it.
FLOOR = """
import time, pynvml
pynvml.nvmlInit()
cards = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
for _ in range(100):
    began = time.perf_counter()
    for card in cards:
        pynvml.nvmlDeviceGetMemoryInfo(card)
        pynvml.nvmlDeviceGetComputeRunningProcesses(card)
    print(time.perf_counter() - began)
    time.sleep(0.02)
"""


def looks() -> list[Row]:
    """How long a look at the cards takes, the first one and those after."""
    times = asyncio.run(_looks())
    said = subprocess.check_output([sys.executable, "-c", FLOOR], text=True)
    least = [float(line) for line in said.split()]
    shown = _timed(lambda: subprocess.run(["nvidia-smi"], check=True, capture_output=True))
    ours, floor = statistics.median(times[1:]), statistics.median(least[1:])
    slow = sorted(times[1:])[int(LOOKS * 0.95) - 1]
    return [
        Row(
            "1",
            "the first look, which starts the driver's library",
            _ms(times[0]),
            f"{_ms(least[0])} bare pynvml's",
            "",
            "",
        ),
        Row("2", "a look at all cards, median", _ms(ours), f"{_ms(floor)} bare pynvml", f"{ours / floor:.1f}", ""),
        Row("2", "the same, 95 %", _ms(slow), f"{_ms(shown)} nvidia-smi", f"{slow / shown:.2f}", ""),
    ]


async def _looks() -> list[float]:
    observer = NvmlObserver()
    times = []
    try:
        for _ in range(LOOKS + 1):
            began = time.perf_counter()
            seen = await observer.observe()
            times.append(time.perf_counter() - began)
            assert seen.gpus and not seen.stale, seen.problem
            await asyncio.sleep(0.02)
    finally:
        await observer.close()
    return times


def jobs(folder: Path) -> list[Row]:
    """What jobs wait for, and what the daemon uses while one computes."""
    short, busy = shlex.join([*CUDA, "64", "0"]), shlex.join([*CUDA, "64", "600", "work"])
    alone = statistics.median(
        _timed(lambda: subprocess.run(short, shell=True, check=True, capture_output=True)) for _ in range(5)
    )
    card = {"num_gpus": 1, "gpus": ["0"]}
    with Daemon(folder) as daemon:
        eventually("the cards are seen", lambda: daemon.client().gpus())
        began = time.perf_counter()
        daemon.wait(
            *daemon.submit(
                *({"name": f"j{number}", "command": short, **card} for number in range(JOBS)), env=dict(os.environ)
            )
        )
        each = (time.perf_counter() - began) / JOBS
        (id,) = daemon.submit({"name": "busy", "command": busy, **card}, env=dict(os.environ))
        eventually("it computes", lambda: b"ready" in daemon.run("logs", str(id)).stdout)
        time.sleep(2)
        cores = used(daemon, SECONDS)
        daemon.client().cancel(id, now=True)
        daemon.wait(id)
    return [
        Row("3", f"{JOBS} jobs one after another on a card, for each", _ms(each), f"{_ms(alone)} by hand", f"{each / alone:.2f}", ""),
        Row("4", "CPU of the daemon while a job computes", f"{cores:.2%} of a core", "-", "-", "< 1 %"),
    ]  # fmt: skip


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


def main() -> None:
    """Measure and print."""
    told = nvidia_smi.cards()
    if not told:
        sys.exit("no NVIDIA cards here: `nvidia-smi` tells of none")
    print(f"{len(told)} x {told[0].name}")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        print(printed([*looks(), *jobs(Path(folder) / "d")]))


if __name__ == "__main__":
    main()
