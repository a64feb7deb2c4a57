"""Caches between processes: many at once, builders and removals that are killed at every step and at random moments."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .caching import evidence, expected, unsound
from .conftest import ROOT

SEED = int(os.environ.get("SEED", "20261126"))


@pytest.fixture
def there(tmp_path: Path) -> str:
    """The cache directory, which nobody has made yet."""
    return str(tmp_path / "caches")


def process(there: str, mode: str, *words: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "client.caching", mode, there, *map(str, words)]
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'client'}:{ROOT / 'tests'}", "RUNNERS_SOCKET": "/nowhere/s"}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def done(there: str, mode: str, *words: object, timeout: float = 110.0) -> tuple[str, str]:
    running = process(there, mode, *words)
    out, said = running.communicate(timeout=timeout)
    assert running.returncode == 0, said
    return out, said


def prune(there: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runners.cli", "caches", "prune", "--directory", there, *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "client"), "RUNNERS_SOCKET": "/nowhere/s"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def builders(there: str) -> list[str]:
    """The processes that have begun to build."""
    return evidence(there).read_text().split()


def test_sixteen_processes_build_once_and_read_the_same(there: str) -> None:
    out, said = done(there, "many", 16)
    assert out.splitlines() == [expected(1)] * 16
    assert len(builders(there)) == 1
    assert said.count(": waiting for ") == 15
    assert [name for name in os.listdir(there) if name.startswith(".")] == []


def test_a_builder_killed_at_some_steps_leaves_nothing_that_looks_finished(there: str) -> None:
    """At every 60th of the steps in which it touches the disk; every one of them has its turn in the slow set."""
    done(there, "killed_builds", 1 + SEED % 60, 10_000, 60)


@pytest.mark.slow
def test_a_builder_killed_at_any_step_leaves_nothing_that_looks_finished(there: str) -> None:
    out, _said = done(there, "killed_builds", 1, 10_000, 1, timeout=1000)
    deaths, finished, last = map(int, out.split())
    print(f"killed before each of {deaths} steps, {finished} of them with a whole cache; it lived at {last}")
    assert deaths > 150 and 1 < finished < 40


def test_a_removal_killed_at_some_steps_is_finished_by_the_next(there: str) -> None:
    done(there, "killed_prunes", 1 + SEED % 12, 10_000, 12)


@pytest.mark.slow
def test_a_removal_killed_at_any_step_is_finished_by_the_next(there: str) -> None:
    _out, said = done(there, "killed_prunes", 1, 10_000, 1, timeout=1000)
    deaths, _last = map(int, said.split())
    assert deaths > 50


@pytest.mark.slow
def test_thirty_kills_of_the_builder_at_random_moments(there: str) -> None:
    """Three processes want each cache; whoever builds it is killed, until one comes through before its time."""
    chance = random.Random(SEED)
    print(f"SEED={SEED}")
    kills = finished = 0
    seed = 0
    while kills < 30:
        seed += 1
        evidence(there).unlink(missing_ok=True)
        three = [process(there, "build", seed, 0.1) for _ in range(3)]
        alive = {str(one.pid): one for one in three}
        begun = 0
        while alive and kills < 30:
            lines = builders(there) if evidence(there).exists() else []
            if len(lines) == begun:  # nobody builds yet, or it is finished
                if all(one.poll() is not None for one in three):
                    break
                time.sleep(0.001)
                continue
            begun = len(lines)
            time.sleep(chance.uniform(0.0, 0.5))
            victim = alive.pop(lines[-1])
            if victim.poll() is None:
                kills += 1
                os.kill(victim.pid, signal.SIGKILL)
                victim.wait()
            assert not unsound(there)
        for one in three:
            out, said = one.communicate(timeout=60)
            assert one.returncode in (0, -signal.SIGKILL), said
            if one.returncode == 0:
                finished += 1
                assert out == f"{expected(seed)}\n"
        assert not unsound(there)
        out, _said = done(there, "build", seed, 0)
        assert out == f"{expected(seed)}\n"
        assert [name for name in os.listdir(there) if name.startswith(".")] == []
    print(f"{kills} kills, {seed} caches, {finished} processes that came through")


def test_what_a_dead_builders_worker_still_holds_does_not_stop_the_next(there: str, tmp_path: Path) -> None:
    """A process that the builder has forked outlives it, with everything that it had open."""
    script = tmp_path / "orphan.py"
    script.write_text(
        "import os, signal, sys\n"
        "from runners.cache import open_cache\n"
        "def build(group):\n"
        "    if os.fork() == 0:\n"
        "        print(os.getpid(), flush=True)\n"
        "        signal.pause()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "open_cache('made', {'seed': 3}, build, directory=sys.argv[1])\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "client")}
    first = subprocess.Popen([sys.executable, str(script), there], env=env, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    orphan = int(first.stdout.readline())
    try:
        assert first.wait(30) == -signal.SIGKILL
        out, said = done(there, "build", 3, 0)
        assert out == f"{expected(3)}\n"
        assert "waiting" not in said
    finally:
        os.kill(orphan, signal.SIGKILL)
        first.stdout.close()
    assert [name for name in os.listdir(there) if name.startswith(".")] == []


@pytest.fixture
def reader(there: str) -> Iterator[subprocess.Popen[str]]:
    """A process that reads a cache over and over."""
    done(there, "build", 1, 0)
    running = process(there, "hold", 1, stdin=subprocess.PIPE)
    assert running.stdout is not None and running.stdout.readline() == f"{expected(1)}\n"
    yield running
    running.kill()
    running.communicate()


def test_what_is_being_read_is_not_pruned(there: str, reader: subprocess.Popen[str]) -> None:
    done(there, "build", 2, 0)
    for _ in range(3):
        said = prune(there, "--keep", "0")
        assert said.returncode == 0, said.stderr
    assert len(os.listdir(there)) == 1
    assert "what is left is in use" in said.stdout
    assert reader.stdin is not None
    reader.stdin.close()
    reader.stdin = None
    assert reader.wait(30) == 0  # it has read the whole of it each time
    assert prune(there, "--keep", "0").stdout.endswith("0 caches left, 0 B\n")
    assert os.listdir(there) == []


def test_a_reader_that_is_killed_lets_go(there: str, reader: subprocess.Popen[str]) -> None:
    reader.kill()
    reader.wait()
    assert prune(there, "--unused", "0").stdout.startswith("removed made-")


@pytest.mark.slow
def test_while_caches_are_pruned_everyone_reads_whole_ones(there: str) -> None:
    """Six processes open the same few caches again and again while everything that nobody uses is removed."""
    print(f"SEED={SEED}")
    chance = random.Random(SEED)
    os.mkdir(there)
    removed = 0
    for _round in range(12):
        seeds = [chance.randrange(3) for _ in range(6)]
        six = [process(there, "build", seed, 0.05) for seed in seeds]
        while any(one.poll() is None for one in six):
            said = prune(there, "--keep", "0", "--json")
            assert said.returncode == 0, said.stderr
            removed += said.stdout.count("made-")
        for one, seed in zip(six, seeds, strict=True):
            out, problem = one.communicate()
            assert (one.returncode, out) == (0, f"{expected(seed)}\n"), problem
    print(f"{removed} caches removed meanwhile")
    assert removed > 0
    assert not unsound(there)
