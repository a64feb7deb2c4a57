"""The state directory is moved away just when an attempt is to start: it starts once that is back, and once."""

from __future__ import annotations

import asyncio

import pytest

from machine.worlds import HostWorld, run_name
from runnersd.machine import LaunchFailed
from runnersd.machine.host.launcher import HostLauncher

FIRST, RUN = run_name(1), run_name(2)


async def waiting(world: HostWorld, launcher: HostLauncher) -> asyncio.Future[float]:
    """The launch of an attempt whose state directory has just been moved away."""
    await launcher.launch(world.order("exit 0", job=1))
    await launcher.wait(FIRST)
    world.state.rename(world.tmp / "away")
    launch = asyncio.ensure_future(launcher.launch(world.order("exit 3", job=2)))
    await asyncio.wait([launch], timeout=0.5)
    assert not launch.done()
    assert not world.state.exists(), "its place is free"
    return launch


async def test_it_starts_once_that_is_back(world: HostWorld) -> None:
    launcher = await world.daemon()
    launch = await waiting(world, launcher)
    (world.tmp / "away").rename(world.state)
    await launch
    assert (await launcher.wait(RUN)).exit_code == 3
    assert world.starts(RUN) == 1


async def test_it_can_be_stopped_meanwhile(world: HostWorld) -> None:
    launcher = await world.daemon()
    launch = await waiting(world, launcher)
    await launcher.stop(RUN)
    with pytest.raises(LaunchFailed, match="cannot write .*: No such file or directory"):
        await launch
    (world.tmp / "away").rename(world.state)
    assert world.starts(RUN) == 0


async def test_a_daemon_that_ends_meanwhile_leaves_it_to_the_next(world: HostWorld) -> None:
    launch = await waiting(world, await world.daemon())
    assert world.last is not None
    await world.last.close()
    with pytest.raises(asyncio.CancelledError):
        await launch
    world.last = None
    (world.tmp / "away").rename(world.state)
    launcher = await world.daemon()
    await launcher.launch(world.order("exit 3", job=2))
    assert (await launcher.wait(RUN)).exit_code == 3
    assert world.starts(RUN) == 1
