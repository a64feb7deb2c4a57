"""Both launchers keep the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from machine.contract import LauncherContract
from machine.worlds import HostWorld, SimulatedWorld


class TestSimulated(LauncherContract):
    @pytest.fixture(params=range(3))
    def world(self, request: pytest.FixtureRequest) -> SimulatedWorld:
        return SimulatedWorld(request.param)


class TestHost(LauncherContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> HostWorld:
        return HostWorld(tmp_path)
