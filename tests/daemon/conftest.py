"""Fixtures for tests of container jobs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from daemon.containers import Lab, lab_on
from engine import Engine


@pytest.fixture(scope="module")
def module_lab(shared_docker_engine: Engine) -> Iterator[Lab]:
    """The lab below `lab`; take that one."""
    with shared_docker_engine.leaving_no_containers(), lab_on(shared_docker_engine) as lab:
        yield lab


@pytest.fixture
def lab(module_lab: Lab) -> Iterator[Lab]:
    """A daemon on a real engine, one for the module; after each test nothing may be left of its jobs."""
    yield module_lab
    module_lab.clean()
