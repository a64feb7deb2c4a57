"""A disk that can be slow, full, or lose its daemon: the store's real SQLite on it, worked by the loop, not a thread."""

from __future__ import annotations

import asyncio
import queue
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast
from unittest import mock

from runnersd.store import Store, opening
from runnersd.store import store as store_module
from runnersd.store.writer import Writer

T = TypeVar("T")


class Disk:
    """Holds one database. ``pace`` is how many turns of the loop a piece of work waits for at most."""

    def __init__(self, file: Path, seed: int) -> None:
        self.file = file
        self.pace = 3
        self.delay = 0.0  #: seconds that a piece of work takes at most, on top
        self.spare = 0  #: so many of the next commits still work
        self.full = 0  #: so many of those after them fail
        self.lying = False  #: whether a commit that fails was done all the same
        self.unreadable = 0  #: so many of the next reads fail
        self.random = random.Random(seed)
        self._writer: _Writer | None = None

    async def open_store(self, clock: Callable[[], float], boot: str) -> Store:
        """The store on this disk, for a new daemon."""
        with self._hired():
            return await Store.open(self.file, clock=clock, boot=boot)

    def rows(self, query: str, *values: object) -> list[Any]:
        """What a query finds on disk just now: all that is committed and nothing else."""
        if self._writer is not None and self._writer.connection is not None:
            return self._writer.connection.execute(query, values).fetchall()
        connection = sqlite3.connect(self.file)
        try:
            return connection.execute(query, values).fetchall()
        finally:
            connection.close()

    def fails(self) -> bool:
        """Whether the commit that comes now does; asked once for each."""
        if not self.full:
            return False
        if self.spare:
            self.spare -= 1
            return False
        self.full -= 1
        return True

    def crash(self, *, finish: bool) -> None:
        """The daemon is killed. What it had asked for is done and never told, or never done."""
        if self._writer is not None:
            self._writer.die(finish=finish)
            self._writer = None

    @contextmanager
    def _hired(self) -> Iterator[None]:
        def hire(loop: asyncio.AbstractEventLoop) -> _Writer:
            self._writer = _Writer(loop, self)
            return self._writer

        # No power is cut here, so nothing has to be synced.
        pragmas = tuple(pragma.replace("= FULL", "= OFF") for pragma in opening.PRAGMAS)
        with mock.patch.object(store_module, "Writer", hire), mock.patch.object(opening, "PRAGMAS", pragmas):
            yield


class _Writer(Writer):
    """The store's own writer, but for its thread: its work is done between the turns of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, disk: Disk) -> None:
        super().__init__(loop)
        self.connection: sqlite3.Connection | None = None
        self._disk = disk
        self._items: list[Any] = []
        self._dead = False
        # The rest of the class puts what it is given into its queue.
        self._queue = cast(queue.SimpleQueue[Any], self)

    async def open(self, connect: Callable[[], tuple[sqlite3.Connection, T]]) -> T:
        await self._pause()
        if self._dead:
            await asyncio.get_running_loop().create_future()
        self.connection, result = connect()
        return result

    def put(self, item: Any) -> None:
        """Take work in; it is done after a while, in order."""
        if self._dead:
            return
        self._items.append(item)
        if len(self._items) == 1:
            self._soon()

    def close(self) -> None:
        self._dead = True
        while self._items:
            self._do_first()
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def die(self, *, finish: bool) -> None:
        """Killed: nobody hears of anything any more."""
        items, self._items, self._dead = self._items, [], True
        if self.connection is not None:
            for item in items if finish else ():
                item.done = lambda result, error: None
                self._do(item, self._seen())
            self.connection.close()
            self.connection = None

    def stuck(self, seconds: float) -> bool:
        return False

    async def _pause(self) -> None:
        for _ in range(self._disk.random.randint(0, self._disk.pace)):
            await asyncio.sleep(0)

    def _soon(self) -> None:
        delay = self._disk.random.uniform(0, self._disk.delay) if self._disk.delay else 0.0
        turns = self._disk.random.randint(0, self._disk.pace)
        if delay:
            self._loop.call_later(delay, self._turn, turns)
        else:
            self._loop.call_soon(self._turn, turns)

    def _turn(self, turns: int) -> None:
        if self._dead or not self._items:
            return
        if turns:
            self._loop.call_soon(self._turn, turns - 1)
            return
        self._do_first()
        if self._items:
            self._soon()

    def _do_first(self) -> None:
        item = self._items.pop(0)
        if not item.writes and self._disk.unreadable:
            self._disk.unreadable -= 1
            item.work = _fail_to_read
        self._do(item, self._seen())

    def _seen(self) -> sqlite3.Connection:
        assert self.connection is not None
        return cast(sqlite3.Connection, _Faulty(self.connection, self._disk))


def _fail_to_read(connection: sqlite3.Connection) -> None:
    raise sqlite3.OperationalError("disk I/O error")


class _Faulty:
    """The connection, with commits that fail as those of a full disk do: everything is rolled back."""

    def __init__(self, connection: sqlite3.Connection, disk: Disk) -> None:
        self._connection = connection
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        """As the connection's, but for commits."""
        if statement == "COMMIT" and self._disk.fails():
            if self._disk.lying:
                self._connection.execute(statement)
            raise sqlite3.OperationalError("database or disk is full")
        return self._connection.execute(statement, *values)
