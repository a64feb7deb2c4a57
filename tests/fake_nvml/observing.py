"""Runs a scenario with an observer of a fake driver, in the daemon's own kind of event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import uvloop

from runnersd.machine.nvml import NvmlObserver

Scenario = Callable[[NvmlObserver], Awaitable[None]]


def observe(
    environment: Mapping[str, str],
    scenario: Scenario,
    *,
    timeout: float = 5.0,
    retry: float = 60.0,
    plain: bool = False,
) -> None:
    """Run the scenario under uvloop, or under asyncio's own loop; the observer is closed whatever happens."""

    async def run() -> None:
        observer = NvmlObserver(timeout, environment, retry=retry)
        try:
            await scenario(observer)
        finally:
            await observer.close()

    factory: Any = asyncio.new_event_loop if plain else uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run())


def nvml_processes(state: Path) -> set[int]:
    """The pids of the processes that look at the driver with this state file."""
    wanted = f"FAKE_NVML_STATE={state}".encode()
    pids = set()
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and wanted in (folder / "environ").read_bytes().split(b"\0"):
                pids.add(int(folder.name))
        except OSError:
            continue  # it ended while we looked
    return pids


async def worst_lag(act: Awaitable[None]) -> float:
    """Seconds that the loop was late, at worst, while ``act`` was awaited."""
    loop = asyncio.get_running_loop()
    worst = 0.0

    async def tick() -> None:
        nonlocal worst
        while True:
            before = loop.time()
            await asyncio.sleep(0.005)
            worst = max(worst, loop.time() - before - 0.005)

    ticking = asyncio.create_task(tick())
    try:
        await act
    finally:
        ticking.cancel()
    return worst
