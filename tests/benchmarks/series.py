"""Row s: what it costs to keep the series of eight attempts with eight cards each, and to read one back."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.table import Row
from runnersd.telemetry.recorder import SeriesRecorder
from runnersd.telemetry.sample import CardSample, ProcessSample, Sample

ATTEMPTS, CARDS = 8, 8
#: Seconds of samples, some chunks' flushes among them.
SECONDS = 90
#: Samples that are read back: an hour's.
HOUR = 3600


def keeping() -> list[Row]:
    """CPU of the process that writes, and of the daemon for it; and the time until an hour is read."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        return asyncio.run(_keeping(Path(folder)))


async def _keeping(folder: Path) -> list[Row]:
    kept = SeriesRecorder(folder, 1.0)
    uuids = [f"GPU-{card}" for card in range(CARDS)]
    begin = time.time() - HOUR
    try:
        for job in range(1, ATTEMPTS + 1):
            kept.began(job, 1, begin, uuids)
        for second in range(HOUR):
            kept.add(1, 1, _sample(begin + second, second))
            if second % 100 == 0:
                await asyncio.sleep(0.01)
        await kept.read(1, 1, 2000)
        assert kept._process is not None, "it was started by the question"
        reads = []
        for _ in range(5):
            start = time.perf_counter()
            found = json.loads(await kept.read(1, 1, 2000))
            reads.append(time.perf_counter() - start)
        assert len(found["at"]) <= 2000
        await asyncio.sleep(1)
        began, child, daemon = time.monotonic(), _cpu(kept._process.pid), 0.0
        for second in range(SECONDS):
            start = time.process_time()
            for job in range(1, ATTEMPTS + 1):
                kept.add(job, 1, _sample(time.time(), second))
            daemon += time.process_time() - start
            await asyncio.sleep(began + second + 1 - time.monotonic())
        used = _cpu(kept._process.pid) - child
    finally:
        await kept.close()
    what = f"series of {ATTEMPTS} attempts with {CARDS} cards each, at 1/s"
    hours = ATTEMPTS * SECONDS / 3600
    return [
        Row("s", what, f"{used / SECONDS:.2%} of a core", "-", f"{used / hours:.1f} s of CPU an attempt-hour", "< 1 %"),
        Row("s", "the daemon's part of that", f"{daemon / SECONDS:.2%} of a core", "-", "-", "< 0.3 %"),
        Row(
            "s",
            "reading an hour of eight cards, 2,000 points",
            f"{statistics.median(reads) * 1e3:.0f} ms",
            "-",
            "-",
            "-",
        ),
    ]


def _sample(at: float, second: int) -> Sample:
    cards = tuple(
        CardSample(
            f"GPU-{card}", card, "H100", 80 << 30, (40 << 30) + (second * 7919 % 512 << 21), float((second * 31 + card) % 101),
            300.0 + (second * 17 + card) % 400, 50.0 + second % 20,
        )
        for card in range(CARDS)
    )  # fmt: skip
    return Sample(at, cards, ProcessSample((8 << 30) + second * 4096, 3.5))


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
