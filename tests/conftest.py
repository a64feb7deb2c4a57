"""What tests on every floor may use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.fixtures import docker_engine, engine_directory, new_docker_engine, shared_docker_engine
from fake_nvml import CannotBuild, FakeDriver, build
from harness.lacking import skipped_for

#: pytest finds fixtures by their names here.
__all__ = ["docker_engine", "engine_directory", "new_docker_engine", "shared_docker_engine"]

CACHE = Path(__file__).parents[1] / ".cache" / "fake_nvml"


@pytest.fixture(scope="session")
def fake_nvml_library() -> Path:
    """The folder with the fake libnvidia-ml.so.1, built at most once for its source."""
    with skipped_for(CannotBuild, "the fake NVIDIA driver cannot be built: {}"):
        return build(CACHE)


@pytest.fixture
def fake_nvml(fake_nvml_library: Path, tmp_path: Path) -> Callable[[int], FakeDriver]:
    """Makes a fake driver with so many cards. A test has one; its state is `tmp_path/nvml-state`."""

    def make(count: int) -> FakeDriver:
        return FakeDriver(fake_nvml_library, tmp_path).add_cards(count)

    return make
