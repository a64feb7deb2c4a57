"""Every launcher keeps the contract."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from engine import Engine
from machine.contract import LauncherContract
from machine.worlds import DockerWorld, HostWorld, SimulatedWorld, run_name
from runners.api import Code
from runnersd.machine import LaunchFailed


class TestSimulated(LauncherContract):
    @pytest.fixture(params=range(3))
    def world(self, request: pytest.FixtureRequest) -> SimulatedWorld:
        return SimulatedWorld(request.param)


class TestHost(LauncherContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> HostWorld:
        return HostWorld(tmp_path)


class TestDocker(LauncherContract):
    @pytest.fixture
    def world(self, tmp_path: Path, docker_engine: Engine) -> DockerWorld:
        return DockerWorld(tmp_path, docker_engine, gated=True)

    async def test_the_peak_of_its_memory_is_the_containers(self, world: DockerWorld) -> None:
        launcher = await world.daemon()
        dd = "dd if=/dev/zero of=/dev/null bs=48M count=1 2>/dev/null"
        for job, command in ((1, f"{dd}; read x < pipe.1"), (2, "read x < pipe.2")):
            await launcher.launch(world.launch(["sh", "-c", f"mkfifo pipe.{job}; echo ready; {command}"], job=job))
            await world.ready(run_name(job))
        async with asyncio.timeout(20):  # it is looked at now and then while it runs
            while (launcher._attempts[run_name(1)]._first.peak_memory or 0) < 48 << 20:
                await asyncio.sleep(0.01)
        for job in (1, 2):
            await asyncio.to_thread(world.finish, run_name(job), 0)
        large, small = [(await launcher.wait(run_name(job))).peak_memory for job in (1, 2)]
        assert large is not None and small is not None
        assert large > 48 << 20 > small > 0


@pytest.mark.slow  # what differs is in tests/daemon/test_container_user.py
class TestDockerWithoutGates(LauncherContract):
    @pytest.fixture
    def world(self, tmp_path: Path, docker_engine: Engine) -> DockerWorld:
        return DockerWorld(tmp_path, docker_engine, gated=False)

    async def test_what_cannot_start_says_so_and_never_will(self, world: DockerWorld) -> None:  # type: ignore[override]
        """What only the engine's init finds out is told at the end."""
        launcher = await world.daemon()
        with suppress(LaunchFailed):
            await launcher.launch(world.order("missing"))
        for _ in range(2):
            outcome = await launcher.wait(run_name())
            assert outcome.exit_code is None
            assert outcome.failure is not None and outcome.failure.code is Code.LAUNCH_FAILED
            assert world.missing in outcome.failure.text
            launcher = await world.daemon()
