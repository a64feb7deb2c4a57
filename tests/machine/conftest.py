"""Runs async tests as the daemon runs: under uvloop, with a limit on their time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from machine.worlds import HostWorld

LIMIT = 40.0  # seconds


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: Any) -> bool | None:
    """Run a coroutine, then let the world that it used end, in the same loop."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}

    async def body() -> None:
        try:
            async with asyncio.timeout(LIMIT):
                await pyfuncitem.obj(**arguments)
        finally:
            world = arguments.get("world")
            if world is not None:
                await world.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(body())
    return True


@pytest.fixture
def world(tmp_path: Path) -> Iterator[HostWorld]:
    """This machine. The contract's classes put others in its place."""
    return HostWorld(tmp_path)
