"""The watch over a container's first process and the shim above it, with processes that play both."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from runnersd.machine.docker import kernel
from runnersd.machine.docker.watch import Watch

CONTAINER = "c" * 64
#: Names itself as a shim, has a child, and says which.
SHIM = """
import ctypes, subprocess, sys
ctypes.CDLL(None).prctl(15, sys.argv[1].encode())
child = subprocess.Popen(["sleep", "60"])
print(child.pid, flush=True)
child.wait()
sys.stdin.read()
"""


class Pair:
    """A shim, and the container's first process below it."""

    def __init__(self, name: str) -> None:
        self.shim = subprocess.Popen(
            [sys.executable, "-IS", "-c", SHIM, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.shim.stdout is not None
        self.first = int(self.shim.stdout.readline())
        self.start = kernel.process_started(self.first)

    def kill_first(self) -> None:
        subprocess.run(["kill", "-9", str(self.first)], check=True)

    def close(self) -> None:
        if kernel.process_started(self.first) == self.start:
            self.kill_first()
        self.shim.kill()
        self.shim.communicate()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair("containerd-shim-runc-v2")
    yield made
    made.close()


async def watched(pair: Pair, kill: str) -> Watch:
    """The watch after one of them was killed, and it has said so."""
    ended = asyncio.Event()
    watch = Watch(pair.first, pair.start, CONTAINER, ended.set)
    if kill == "shim":
        pair.shim.send_signal(signal.SIGKILL)
    else:
        pair.kill_first()
    async with asyncio.timeout(20):
        await ended.wait()
    return watch


def test_a_container_that_ends_is_no_orphan(pair: Pair) -> None:
    assert not asyncio.run(watched(pair, "first")).orphaned


def test_a_container_whose_shim_is_killed_is_an_orphan(pair: Pair) -> None:
    assert asyncio.run(watched(pair, "shim")).orphaned


def test_a_parent_that_is_no_shim_is_not_watched() -> None:
    pair = Pair("conmon")

    async def story() -> None:
        ended = asyncio.Event()
        Watch(pair.first, pair.start, CONTAINER, ended.set)
        pair.shim.kill()
        pair.shim.wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await ended.wait()
        pair.kill_first()
        async with asyncio.timeout(20):
            await ended.wait()

    try:
        asyncio.run(story())
    finally:
        pair.close()


def test_another_process_of_the_same_number_is_not_watched(pair: Pair) -> None:
    async def story() -> None:
        with pytest.raises(ProcessLookupError):
            Watch(pair.first, (pair.start or 0) + 1, CONTAINER, lambda: None)

    asyncio.run(story())
