"""Fixtures with a Docker engine, for tests on every floor; tests/conftest.py takes them in."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.engine import CARDS, Engine
from engine.requirements import Unavailable, require_tools
from harness.lacking import skipped_for


def check_docker() -> None:
    """Skip the test where no engine can run; fail it in CI."""
    with skipped_for(Unavailable):
        require_tools()


@contextmanager
def short_directory() -> Iterator[Path]:
    """A directory with a short name: the engine makes sockets deep in it, and their names have 107 bytes at most."""
    directory = Path(tempfile.mkdtemp(prefix="engine-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def engine_directory() -> Iterator[Path]:
    """A directory for an engine that the test makes itself."""
    with short_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def shared_docker_engine() -> Iterator[Engine]:
    """The engine below `docker_engine`; take that one."""
    check_docker()
    with short_directory() as directory, Engine(directory, cards=CARDS) as engine:
        engine.import_standard_images()
        yield engine


@pytest.fixture
def docker_engine(shared_docker_engine: Engine) -> Iterator[Engine]:
    """A running engine, started once a session, with the images SHELL and BARE, a GPU hook with CARDS, and no container.

    Add images to it as you like; to kill or reconfigure an engine take one of `new_docker_engine`.
    """
    shared_docker_engine.set_cards(CARDS)
    with shared_docker_engine.leaving_no_containers():
        yield shared_docker_engine


@pytest.fixture
def new_docker_engine() -> Iterator[Callable[..., Engine]]:
    """Makes engines of the test's own, running, with the images SHELL and BARE: to kill, stop and restart.

    Arguments: ``config``, the engine's daemon.json, as {"live-restore": True}; ``cards``, uuid to minor, None for no
    GPU hook; ``bridge``, for a network between containers.
    """
    check_docker()
    with ExitStack() as engines:

        def make(
            *,
            config: Mapping[str, Any] | None = None,
            cards: Mapping[str, int] | None = CARDS,
            bridge: bool = False,
        ) -> Engine:
            directory = engines.enter_context(short_directory())
            engine = engines.enter_context(Engine(directory, config=config, cards=cards, bridge=bridge))
            engine.import_standard_images()
            return engine

        yield make
