"""Every launcher keeps the contract."""

from __future__ import annotations

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
