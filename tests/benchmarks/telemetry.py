"""Row t: what it costs to measure running jobs, beside a daemon that looks at the same cards and measures nothing."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.table import Row
from fake_nvml import FakeDriver, build
from harness.daemon import ROOT, Daemon, eventually

JOBS, WORKERS = 8, 8
#: As seldom as a setting can say: no sample is taken but the first.
_NEVER = "365d"
#: Seconds until what was begun with the jobs is done: the process that keeps series starts, and writes every 15 s.
_SETTLED = 17.0


def cost(seconds: float = 60.0) -> list[Row]:
    """CPU of the daemon and its helpers with eight jobs of ten processes, each on a busy card of its own."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        driver = FakeDriver(build(ROOT / ".cache" / "fake_nvml"), Path(folder)).add_cards(JOBS)
        for card in driver.cards:
            card.utilization, card.power, card.used = 97, 650.0, 70 << 30
        driver.write()
        with _busy(Path(folder) / "idle", driver, _NEVER) as running:
            idle = used(running, seconds / 2)
        with _busy(Path(folder) / "measuring", driver, "1s") as running:
            ours = used(running, seconds)
            samples = _samples(running, 1)
            assert samples >= seconds * 0.9, f"{samples} samples are not one a second"
    return [Row("t", f"CPU to measure {JOBS} jobs on {JOBS} busy cards", f"{max(ours - idle, 0.0):.2%} of a core",
                f"{idle:.2%} unmeasured", "-", "< 1 %")]  # fmt: skip


@contextmanager
def _busy(folder: Path, driver: FakeDriver, every: str) -> Iterator[Daemon]:
    """A daemon that measures so often, with its jobs running and whatever begins with them over."""
    with Daemon(folder, env=driver.environment({}), config={"telemetry": {"every": every}}) as running:
        workers = "sleep 3600 & " * WORKERS
        ids = running.submit(*({"name": f"j{n}", "command": f"{workers}wait", "num_gpus": 1} for n in range(JOBS)))
        eventually("all run", lambda: all(running.job(id)["state"] == "running" for id in ids))
        time.sleep(_SETTLED)
        yield running


def _samples(running: Daemon, id: int) -> int:
    attempts = running.job(id)["attempts"]
    return int(attempts[-1]["telemetry"]["samples"]) if attempts and attempts[-1]["telemetry"] else 0


def used(running: Daemon, seconds: float) -> float:
    """Cores that the daemon and all below it that is no job's use."""
    family = _family(running)
    start, began = sum(map(_cpu, family)), time.perf_counter()
    time.sleep(seconds)
    return (sum(map(_cpu, family)) - start) / (time.perf_counter() - began)


def _family(running: Daemon) -> list[int]:
    """The daemon and its children: its helpers; jobs' supervisors are nobody's children."""
    assert running.process is not None, "it runs"
    pid = running.process.pid
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
