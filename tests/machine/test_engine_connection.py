"""Calls to a real engine that hangs over some containers: the others are not kept waiting."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from engine import BARE, PROGRAM, Engine, Hang, Proxy
from runnersd.machine.docker.connection import Connection

#: More than an engine is asked at one time by a machine full of jobs.
MANY = 40
SOON = 4.0  # seconds; less than anything is waited for


@asynccontextmanager
async def reached(socket: Path) -> AsyncIterator[Connection]:
    connection = Connection(str(socket))
    await connection.connect()
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def hanging(proxy: Proxy, method: str, path: str, call: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Many of these calls, none of which is answered until the end."""
    fault = proxy.fault(method, path, Hang())
    calls = [asyncio.ensure_future(call()) for _ in range(MANY)]
    try:
        async with asyncio.timeout(SOON):
            while fault.hits < 32:  # so many ask at once in any case
                await asyncio.sleep(0.01)
        yield
    finally:
        fault.lift()
        await asyncio.gather(*calls, return_exceptions=True)


def running(engine: Engine) -> str:
    """A container that runs."""
    create = {"Image": BARE, "Cmd": [PROGRAM, "sleep", "1000"], "HostConfig": {"NetworkMode": "none"}}
    container = str(engine.api("POST", "/containers/create", create).json["Id"])
    engine.api("POST", f"/containers/{container}/start")
    return container


@pytest.mark.parametrize("what", ["looks", "changes"])
async def test_what_hangs_over_one_container_keeps_no_other_waiting(
    what: str, docker_engine: Engine, tmp_path: Path
) -> None:
    hung, other = running(docker_engine), running(docker_engine)
    with Proxy(tmp_path / "proxy.sock", docker_engine.socket) as proxy:
        async with reached(proxy.socket) as connection:
            ways = {
                "looks": ("GET", f"/containers/{hung}/json", lambda: connection.inspect(hung)),
                "changes": ("DELETE", f"/containers/{hung}", lambda: connection.remove(hung)),
            }
            async with hanging(proxy, *ways[what]), asyncio.timeout(SOON):
                await connection.kill(other, signal.SIGKILL)
                await connection.connect()
                while (await connection.inspect(other))["State"]["Running"]:
                    await asyncio.sleep(0.05)
