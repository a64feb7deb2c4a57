"""Row t: what it costs to measure running jobs, beside a daemon that looks at the same cards and measures nothing."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.table import Row
from fake_nvml import FakeDriver, build
from harness.daemon import ROOT, Daemon, eventually

JOBS, WORKERS = 8, 8
#: As seldom as a setting can say: no sample is taken.
_NEVER = "365d"


def cost(seconds: float = 10.0, rounds: int = 4) -> list[Row]:
    """CPU of the daemon and its helpers with eight jobs of ten processes, each on a busy card of its own."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        driver = FakeDriver(build(ROOT / ".cache" / "fake_nvml"), Path(folder)).add_cards(JOBS)
        for card in driver.cards:
            card.utilization, card.power, card.used = 97, 650.0, 70 << 30
        driver.write()
        with Daemon(Path(folder) / "d", env=driver.environment({}), config=_config("1s")) as running:
            workers = "sleep 3600 & " * WORKERS
            jobs = [{"name": f"j{n}", "command": f"{workers}wait", "num_gpus": 1} for n in range(JOBS)]
            ids = running.submit(*jobs)
            eventually("all are measured", lambda: all(_samples(running, id) for id in ids))
            with_it, without = [], []
            for _ in range(rounds):
                for every, figures in (("1s", with_it), (_NEVER, without)):
                    running.configure(_config(every))
                    running.reload()
                    time.sleep(2.0)  # what the reload costs is not part of it
                    figures.append(_used(running, seconds))
            samples = _samples(running, ids[0])
            running.client().cancel("p1")
            assert samples >= rounds * seconds * 0.9, f"{samples} samples are not one a second"
    ours, idle = statistics.median(with_it), statistics.median(without)
    extra = max(ours - idle, 0.0)
    return [Row("t", f"CPU to measure {JOBS} jobs on {JOBS} busy cards", f"{extra:.2%} of a core",
                f"{idle:.2%} unmeasured", "-", "< 1 %")]  # fmt: skip


def _config(every: str) -> dict[str, Any]:
    return {"telemetry": {"every": every}}


def _samples(running: Daemon, id: int) -> int:
    attempts = running.job(id)["attempts"]
    return int(attempts[-1]["telemetry"]["samples"]) if attempts and attempts[-1]["telemetry"] else 0


def _used(running: Daemon, seconds: float) -> float:
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
