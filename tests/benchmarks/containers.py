"""What containers cost through the daemon: against the same calls by hand, on an engine of the benchmark's own.

Rows g, h and i of the table. The floor makes, starts, awaits and removes the same containers with aiodocker alone.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiodocker import Docker

from benchmarks.table import Row
from engine import CARDS, SHELL, Engine
from fake_nvml import FakeDriver, build
from harness.daemon import ROOT, Daemon

#: What a job says: when its first instruction ran and when its last (seconds after boot).
SAYS = "cat /proc/uptime; sleep {seconds}; cat /proc/uptime"


@contextmanager
def world(cards: int = 0) -> Iterator[tuple[Engine, Daemon]]:
    """An engine that passes fake cards, and a daemon on it, which runs as root does."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        env: Mapping[str, str] = {}
        if cards:
            env = FakeDriver(build(ROOT / ".cache" / "fake_nvml"), folder).add_cards(cards).environment({})
        with Engine(folder / "engine", cards=CARDS) as engine:
            engine.import_standard_images()
            containers = {"socket": str(engine.socket), "network": "none"}
            with Daemon(folder / "d", env=env, config={"containers": containers}) as running:
                job = {"name": "warm", "command": "true", "run_in": "container", "image": SHELL}
                running.wait(*running.submit(job))
                yield engine, running


def throughput(jobs: int = 24, at_once: int = 4, rounds: int = 3) -> list[Row]:
    """(g) Containers that do nothing, so many at a time."""
    ours, floor = [], []
    with world() as (engine, running):
        for _ in range(rounds):
            start = time.perf_counter()
            job = {"command": "true", "run_in": "container", "image": SHELL}
            ids = running.submit(*[{"name": f"j{n}", **job} for n in range(jobs)], num_jobs=at_once)
            running.client().wait(*ids)
            ours.append(jobs / (time.perf_counter() - start))
            floor.append(asyncio.run(by_hand(engine, jobs, at_once)))
    rate, bare = statistics.median(ours), statistics.median(floor)
    return [
        Row("g", f"{jobs} no-op containers, {at_once} at once", f"{rate:.2f}/s", f"{bare:.2f}/s aiodocker by hand",
            f"{rate / bare:.2f}", ">= 0.9"),
    ]  # fmt: skip


def hand_off(jobs: int = 12) -> list[Row]:
    """(h) From one container's last instruction to the next one's first, on one card; staged and not.

    Without staging, the next job is queued only when the one before it has ended: nobody could have known it.
    """
    with world(cards=1) as (engine, running):
        job = {"command": SAYS.format(seconds=1.5), "run_in": "container", "image": SHELL, "num_gpus": 1}
        known = running.submit(*[{"name": f"j{n}", **job} for n in range(jobs)])
        running.client().wait(*known)
        staged = statistics.median(gaps(running, known))
        floor = asyncio.run(start_by_hand(engine, jobs))
    with world(cards=1) as (engine, running):
        # Two pipelines of one job at a time: the second's job is not looked at before the first's is over.
        job = {"command": SAYS.format(seconds=0), "run_in": "container", "image": SHELL, "num_gpus": 1}
        chain = [{"name": f"j{n}", **job, **({"needs": [f"j{n - 1}"]} if n else {})} for n in range(jobs)]
        unknown = running.submit(*chain)
        running.client().wait(*unknown)
        plain = statistics.median(gaps(running, unknown))
    return [
        Row("h", "a card's hand-off between containers", f"{plain:.0f} ms", f"{floor:.0f} ms create + start by hand",
            f"{plain / floor:.2f}", "<= 1.1"),
        Row("i", "the same, the next one staged", f"{staged:.1f} ms", f"{floor:.0f} ms create + start by hand",
            f"{staged / floor:.2f}", "aim < 20 ms"),
    ]  # fmt: skip


def gaps(running: Daemon, ids: list[int]) -> list[float]:
    """Milliseconds between the jobs' own words, one after the other."""
    said = []
    for id in ids:
        first, last = Path(running.job(id)["logs"]["stdout"]).read_text().splitlines()
        said.append((float(first.split()[0]), float(last.split()[0])))
    said.sort()
    return [(after[0] - before[1]) * 1e3 for before, after in itertools.pairwise(said)]


def body(*command: str) -> dict[str, Any]:
    """A container as a person would ask for it, with what the daemon's have that costs time."""
    return {
        "Image": SHELL,
        "Cmd": list(command),
        "User": f"{os.getuid()}:{os.getgid()}",
        "HostConfig": {"NetworkMode": "none", "Init": True, "ShmSize": 8 << 30},
    }


async def by_hand(engine: Engine, jobs: int, at_once: int) -> float:
    """Containers a second: create, start, wait, remove."""
    connector = aiohttp.UnixConnector(str(engine.socket), limit=0)
    docker = Docker(url="unix://localhost", connector=connector)
    names = iter(range(jobs))

    async def work() -> None:
        for number in names:
            container = await docker.containers.create(body("true"), name=f"hand-{time.time_ns()}-{number}")
            await container.start()
            await container.wait()
            await container.delete()

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    rate = jobs / (time.perf_counter() - start)
    await docker.close()
    await connector.close()
    return rate


async def start_by_hand(engine: Engine, jobs: int) -> float:
    """Milliseconds of create and start of one container, the median."""
    connector = aiohttp.UnixConnector(str(engine.socket), limit=0)
    docker = Docker(url="unix://localhost", connector=connector)
    times = []
    for number in range(jobs):
        start = time.perf_counter()
        container = await docker.containers.create(body("true"), name=f"hand-{time.time_ns()}-{number}")
        await container.start()
        times.append((time.perf_counter() - start) * 1e3)
        await container.wait()
        await container.delete()
    await docker.close()
    await connector.close()
    return statistics.median(times)
