"""A recording, cut off at its places: what each cut leaves is opened by the store's own code and examined."""

from __future__ import annotations

import hashlib
import random
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from powerloss.disk import AllKept, AllLost, Chance, Content, Disk, Fate, write
from powerloss.promises import Promises
from powerloss.recording import Step, read
from runners.errors import RunnersError
from runnersd.store import Store
from simulation.storing import Clock

#: Where in the recorded folder the store is, and what is promised.
STORE, MARKS = "state/runnersd.db", "marks"
Left = dict[str, Content | None]


@dataclass(slots=True)
class Recording:
    """The folder before the first step, and the steps. ``promises`` hold before them."""

    base: Path
    log: Path
    promises: Promises

    def play(self) -> Iterator[tuple[int, Step, Disk, Promises]]:
        """Before each step: its number, the step, the disk as it is, the promises up to then."""
        disk, promises = Disk(self.base), deepcopy(self.promises)
        line = b""
        for number, step in enumerate(read(self.log)):
            yield number, step, disk, promises
            if disk.opened(step) == MARKS and step.kind == "W":
                *lines, line = (line + step.data).split(b"\n")
                for one in lines:
                    promises.hear(one.decode())
            else:
                disk.do(step)
        yield -1, Step("end", -1, 0, 0, "", b""), disk, promises

    def cut(self, dice: random.Random) -> tuple[Left, Promises]:
        """What one cut at any place leaves, by chance, and what was promised until then."""
        place = dice.randrange(sum(1 for _ in read(self.log)))
        for number, _, disk, promises in self.play():
            if number == place:
                return disk.cut(Chance(dice)), promises
        raise AssertionError("the recording became shorter")


def dump(file: Path) -> str:
    """All rows of all tables and the schema, as a digest; SQLite alone brings the file in order."""
    digest = hashlib.sha256()
    connection = sqlite3.connect(file)
    try:
        connection.text_factory = bytes
        digest.update(repr(connection.execute("PRAGMA user_version").fetchone()).encode())
        for name, sql in connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall():
            digest.update(repr((name, sql)).encode())
            if sql is not None and sql.startswith(b"CREATE TABLE"):
                rows = connection.execute(f"SELECT * FROM {name.decode()}").fetchall()
                digest.update(repr(rows).encode())
    finally:
        connection.close()
    return digest.hexdigest()


class Cutter:
    """Cuts a recording; what is left is examined in a scratch folder."""

    def __init__(self, recording: Recording, scratch: Path, seed: int) -> None:
        self._recording, self._scratch, self._seed = recording, scratch, seed
        self._dice = random.Random(seed)
        self._states: dict[str, int] = {}  #: that the rows were in, as digests, one after another
        self._needed = {recording.promises.count: 0}  #: by count of promises: the state that is on the disk by then
        self._seen: set[tuple[bytes, int]] = set()
        self.cuts = 0  #: how many different ones were examined

    async def examine(self, times: int, places: float) -> None:
        """Cut at every fsync: nothing kept, all kept, and so many times by chance; and at a part of all other steps.

        Raises:
            AssertionError: a cut leaves what breaks a promise; says where.
        """
        self._learn()
        for number, step, disk, promises in self._recording.play():
            fates: list[Fate] = []
            if step.kind in ("F", "end"):
                fates = [AllLost(), AllKept(), *(Chance(self._dice) for _ in range(times))]
            elif self._dice.random() < places:
                fates = [Chance(self._dice)]
            for fate in fates:
                left = disk.cut(fate)
                key = (_digest(left), promises.count)
                if key in self._seen:
                    continue
                self._seen.add(key)
                self.cuts += 1
                try:
                    await self._look(left, promises)
                except (AssertionError, RunnersError, sqlite3.Error) as error:
                    where = f"seed {self._seed}, before step {number} ({step.kind} {disk.opened(step)})"
                    raise AssertionError(f"{where}, {type(fate).__name__}: {error}") from error

    def _learn(self) -> None:
        """Which states there were: what a kill would leave after each write to the log that ends with an fsync."""
        sealed = current = 0
        last = b""
        for _, step, disk, promises in self._recording.play():
            marks = disk.opened(step) == MARKS
            if step.kind in ("W", "T", "A") and not marks:
                continue
            left = disk.cut(AllKept())
            if (image := _digest(left)) != last:
                last = image
                with self._folder(left) as folder:
                    state = dump(folder / STORE) if (folder / STORE).exists() else ""
                current = self._states.setdefault(state, len(self._states))
            if step.kind == "F" and disk.opened(step).endswith("-wal"):
                sealed = current
            elif marks and step.kind == "W":
                if step.data.startswith(b"found "):
                    sealed = current  # what a store finds it tells, whoever wrote it
                self._needed[promises.count + 1] = sealed

    async def _look(self, left: Left, promises: Promises) -> None:
        """The rows are in a state in which they were, one that was promised or a later one; and the store opens."""
        with self._folder(left) as folder:
            state = dump(folder / STORE) if (folder / STORE).exists() else ""
        at = self._states.get(state)
        needed = self._needed[promises.count]
        assert at is None or at >= needed, f"lost: the rows are in state {at}, {needed} was promised"
        with self._folder(left) as folder:
            store = await Store.open(folder / STORE, clock=Clock(), boot="boot-2")
            try:
                await promises.check(store)
            finally:
                await store.close()
        assert at is not None, "the rows are in a state in which they never were"

    @contextmanager
    def _folder(self, left: Left) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            write(left, Path(folder))
            yield Path(folder)


def _digest(left: Left) -> bytes:
    digest = hashlib.blake2b()
    for path, content in left.items():
        digest.update(repr((path, None if content is None else (content.size, len(content.data)))).encode())
        if content is not None:
            digest.update(content.data)
    return digest.digest()
