"""The one thread that has the database. It does what it is given in order, and tells the loop."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
#: Called on the loop with what came of the work: its result, or its error.
Done = Callable[[Any, BaseException | None], None]


class Refused(Exception):
    """A write that was not tried, because one before it failed."""


@dataclass(slots=True)
class _Item:
    work: Callable[[sqlite3.Connection], Any]
    done: Done
    writes: bool


class Writer:
    """Owns the connection. Once a write has failed it refuses all later ones, until `recover` has worked."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._broken = False
        self._busy_since: float | None = None

    async def open(self, connect: Callable[[], tuple[sqlite3.Connection, T]]) -> T:
        """Start the thread, and open the database in it. Raises what ``connect`` raises."""
        opened: asyncio.Future[T] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._run, args=(connect, _settle(opened)), name="store-writer", daemon=True
        )
        self._thread.start()
        return await opened

    def write(self, work: Callable[[sqlite3.Connection], Any], done: Done) -> None:
        """Do ``work`` in a transaction of its own, after everything given before."""
        self._queue.put(_Item(work, done, True))

    def read(self, work: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Do ``work``, which changes nothing, after everything given before."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Item(work, _settle(future), False))
        return future

    def recover(self, work: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Do ``work`` after a failed write; when it raises nothing, later writes are taken again."""

        def recovering(connection: sqlite3.Connection) -> T:
            result = work(connection)
            self._broken = False
            return result

        return self.read(recovering)

    def stuck(self, seconds: float) -> bool:
        """Whether the thread is dead, or at one piece of work for longer than that."""
        since = self._busy_since
        alive = self._thread is not None and self._thread.is_alive()
        return not alive or (since is not None and time.monotonic() - since > seconds)

    def close(self) -> None:
        """Finish what was given, close the database, end the thread."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()

    def _run(self, connect: Callable[[], tuple[sqlite3.Connection, Any]], opened: Done) -> None:
        try:
            connection, result = connect()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is for whoever waits on the loop
            self._tell(opened, None, error)
            return
        self._tell(opened, result, None)
        try:
            while (item := self._queue.get()) is not None:
                self._busy_since = time.monotonic()
                self._do(item, connection)
                self._busy_since = None
        finally:
            connection.close()

    def _do(self, item: _Item, connection: sqlite3.Connection) -> None:
        result, error = None, None
        try:
            if connection.in_transaction:  # a rollback failed
                connection.execute("ROLLBACK")
            if not item.writes:
                result = item.work(connection)
            elif self._broken:
                raise Refused("a write before this one failed")
            else:
                result = transact(connection, item.work)
        except BaseException as raised:  # noqa: BLE001 - whatever it is, it is for whoever waits on the loop
            self._broken = self._broken or item.writes
            error = raised
        self._tell(item.done, result, error)

    def _tell(self, done: Done, result: Any, error: BaseException | None) -> None:
        try:
            self._loop.call_soon_threadsafe(done, result, error)
        except RuntimeError:
            if not self._loop.is_closed():
                raise


def transact(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """``work`` in one transaction: all of it is on disk when this returns, or none of it when this raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result


def _settle(future: asyncio.Future[Any]) -> Done:
    def done(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    return done
