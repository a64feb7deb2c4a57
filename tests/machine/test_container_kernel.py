"""Whose processes are a container's: asked of the kernel, and not of whoever made a cgroup of that name."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from engine.keeper import hierarchies
from harness.daemon import eventually
from runnersd.machine.docker import kernel

EVE = 61001
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make cgroups")


@pytest.fixture
def inhabited() -> Iterator[Callable[[str, int], int]]:
    """Makes a cgroup under a name, for an owner, with one process in it; its pid."""
    made: list[Path] = []
    living: list[subprocess.Popen[bytes]] = []

    def make(name: str, owner: int) -> int:
        base = next((base for base in hierarchies() if os.access(base / "cgroup.procs", os.W_OK)), None)
        if base is None:
            pytest.skip("no control groups can be made here")
        folder = base / f"runners-test-{secrets.token_hex(4)}"
        for path in (folder, folder / name):
            path.mkdir()
            made.append(path)
        os.chown(folder / name, owner, owner)
        process = subprocess.Popen(["sleep", "60"])
        living.append(process)
        (folder / name / "cgroup.procs").write_text(str(process.pid))
        return process.pid

    yield make
    for process in living:
        process.kill()
        process.wait()
    for path in reversed(made):
        eventually(f"{path} is gone", lambda path=path: removed(path))


def removed(path: Path) -> bool:
    """A group is busy a little longer than its last process."""
    with suppress(OSError):
        path.rmdir()
    return not path.exists()


@pytest.mark.parametrize("name", ["{}", "docker-{}.scope", "libpod-{}.scope"])
def test_what_is_in_the_cgroup_that_an_engine_made_is_the_containers(
    inhabited: Callable[[str, int], int], name: str
) -> None:
    container = secrets.token_hex(32)
    pid = inhabited(name.format(container), 0)
    assert [process.pid for process in kernel.alive(container)] == [pid]


def test_a_cgroup_of_somebody_elses_holds_nobody(inhabited: Callable[[str, int], int]) -> None:
    container = secrets.token_hex(32)
    pid = inhabited(container, EVE)
    assert kernel.alive(container) == []
    assert kernel.kill(container) == []
    os.kill(pid, 0)


@pytest.mark.parametrize("name", ["x{}", "{}x", "{}.service", "{}-more"])
def test_a_name_that_only_looks_like_it_is_another_cgroup(inhabited: Callable[[str, int], int], name: str) -> None:
    container = secrets.token_hex(32)
    inhabited(name.format(container), 0)
    assert kernel.alive(container) == []


@pytest.mark.parametrize("container", ["-", "", "/", "s", "None", "0", "a" * 12])
def test_what_is_no_id_is_nobodys(container: str) -> None:
    assert kernel.alive(container) == []
