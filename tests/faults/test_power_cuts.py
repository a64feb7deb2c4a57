"""The power goes at any moment: the database opens, what was promised is in it, and nothing is there by half."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.lacking import skipped_for
from powerloss.builder import CannotBuild, build, environment
from powerloss.cuts import MARKS, STORE, Cutter, Left, Recording
from powerloss.disk import AllKept, Content, Disk, write
from powerloss.promises import Promises
from runnersd.store import opening

CACHE = Path(__file__).parents[2] / ".cache" / "powerloss"
#: KiB that the write-ahead log is made large. The log outgrows them.
ROOM = 64
DATABASES = Path(__file__).parents[1] / "simulation" / "databases"


@pytest.fixture(scope="session")
def recorder() -> Path:
    """The library that records what a program does to its files."""
    with skipped_for(CannotBuild, "the recorder of file changes cannot be built: {}"):
        return build(CACHE)


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where that can be: every fsync there waits for nothing."""
    memory = Path("/dev/shm")
    where = memory if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 1 << 30 else tmp_path
    with tempfile.TemporaryDirectory(prefix="power-cuts-", dir=where) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def small_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is opened keeps no more room than the victims do: 16 MiB would take longer than all the rest."""
    monkeypatch.setattr(opening, "RESERVE", ROOM << 10)


class Recorder:
    """Has stores live in `root`, and records them."""

    def __init__(self, library: Path, folder: Path, left: Left | None = None, promises: Promises | None = None) -> None:
        """What is ``left`` of earlier stores is in the folder, on the disk for sure; it keeps these promises."""
        self._library = library
        self.root, self.base, self.log = folder / "root", folder / "base", folder / "log"
        self._promises = promises or Promises()
        for place in (self.root, self.base):
            place.mkdir(parents=True)
            write(left or {}, place)

    def live(
        self, seed: int, rounds: int, *pragmas: str, checkpoint: int = 30, room: int = ROOM, kill: int = 0
    ) -> None:
        """Lead one store's life; it ends by itself, or is killed as it asks for that fsync (before it is done)."""
        file, marks = self.root / STORE, self.root / MARKS
        words = [file.parent, marks, seed, rounds, checkpoint, room, *pragmas]
        done = subprocess.run(
            [sys.executable, "-m", "powerloss.victim", *map(str, words)],
            env={**environment(self._library, self.root, self.log, kill), "PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert done.returncode == (-9 if kill else 0), done.stderr

    def recording(self) -> Recording:
        """What was done, if nothing was missed: replayed with all kept, it makes the folder as it is."""
        recording = Recording(self.base, self.log, self._promises)
        *_, (_, _, disk, _) = recording.play()
        replayed, real = disk.cut(AllKept()), Disk(self.root).cut(AllKept())
        del replayed[MARKS], real[MARKS]  # what goes there is no change of the disk, but a promise
        assert replayed == real, "the recorder missed something"
        return recording


def examine(recording: Recording, scratch: Path, *, seed: int, times: int, places: float) -> int:
    cutter = Cutter(recording, scratch, seed)
    asyncio.run(cutter.examine(times, places))
    print(f"seed {seed}: {cutter.cuts} different cuts")
    return cutter.cuts


def test_what_was_promised_is_there_after_a_power_cut_at_any_fsync(recorder: Path, scratch: Path) -> None:
    recorded = Recorder(recorder, scratch)
    recorded.live(1, 100, kill=40, checkpoint=100_000, room=1_024)  # without checkpoints, so at a commit
    recorded.live(2, 8)
    assert examine(recorded.recording(), scratch, seed=1, times=1, places=0.05) > 100


def test_a_store_that_does_not_sync_its_commits_is_found_out(recorder: Path, scratch: Path) -> None:
    recorded = Recorder(recorder, scratch)
    recorded.live(1, 5, "PRAGMA synchronous = NORMAL")
    with pytest.raises(AssertionError, match="AllLost: lost: "):
        examine(recorded.recording(), scratch, seed=1, times=0, places=0.0)


@pytest.mark.parametrize(
    "version", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)]
)
def test_a_migration_is_whole_or_not_at_all_after_a_power_cut(recorder: Path, scratch: Path, version: int) -> None:
    recorded = Recorder(recorder, scratch, *old_database(version, scratch))
    recorded.live(1, 1, kill=5)
    recorded.live(1, 2, checkpoint=10)
    assert examine(recorded.recording(), scratch, seed=1, times=3, places=0.1) > 20


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", range(4))
def test_thousands_of_power_cuts_each_life_going_on_from_what_one_left(
    recorder: Path, scratch: Path, number: int
) -> None:
    seed = int(os.environ.get("SEED", "1")) + number
    print(f"SEED={seed - number}, life {number}")
    dice = random.Random(seed)
    left, promises, cuts = None, None, 0
    for generation in range(4):
        recorded = Recorder(recorder, scratch / str(generation), left, promises)
        how = {"checkpoint": dice.choice([10, 30, 200, 1_000]), "room": dice.choice([16, 64, 16_384])}
        for _ in range(2):
            recorded.live(dice.getrandbits(30), 1_000, kill=dice.randrange(1, 60), **how)
        recorded.live(dice.getrandbits(30), dice.randrange(2, 8), **how)
        recording = recorded.recording()
        cuts += examine(recording, scratch, seed=dice.getrandbits(30), times=2, places=0.01)
        left, promises = recording.cut(dice)
    assert cuts > 300


def old_database(version: int, scratch: Path) -> tuple[Left, Promises]:
    """A database of that schema, left by a daemon that was killed: partly in its log. And what it has promised."""
    file = scratch / "old.db"
    connection = sqlite3.connect(file, isolation_level=None)
    connection.executescript((DATABASES / f"v{version}.sql").read_text())
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("INSERT INTO meta VALUES ('probe', '1')")
    jobs = {id: (attempt, state) for id, attempt, state in connection.execute("SELECT id, attempt, state FROM job")}
    log = file.with_name(f"{file.name}-wal")
    left: Left = {os.path.dirname(STORE): None, STORE: content(file), f"{STORE}-wal": content(log)}
    connection.close()
    return left, Promises(database="0123456789ab", reached=jobs, since=max(jobs) + 1)


def content(file: Path) -> Content:
    data = file.read_bytes()
    return Content(bytearray(data), len(data))
