"""Durability: changes gathered, written together, and either promised or taken back.

One batch is being written while the next is gathered, so the busier the loop, the more share one fsync. When a write
fails, nothing more is taken in. Memory is made anew from the rows, which may be older than it; a probe is written until
one works or until it is too late. A database that was moved away can be written as ever, and would be lost with what is
promised: so before each commit its place is looked at.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from runners.errors import Unavailable
from runnersd.store.batch import Batch
from runnersd.store.opening import is_damage
from runnersd.store.place import Anchor, Moved
from runnersd.store.reading import Loaded, load
from runnersd.store.writer import Writer, transact

log = logging.getLogger(__name__)

T = TypeVar("T")
#: Seconds between probes after a failed write, and until the failure is final.
PROBE_EVERY, GIVE_UP_AFTER = 1.0, 60.0
#: A probe writes this many bytes, so that the first changes after it have room too.
_PROBE = 1 << 18


class Journal:
    """The way to disk. ``committed`` hears of what is there, ``restored`` of what the rows say after a failure."""

    def __init__(
        self, writer: Writer, file: Path, committed: Callable[[Batch], None], restored: Callable[[Loaded], None]
    ) -> None:
        self.healthy = True
        self.generation = 0  #: counts recoveries
        self.fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._writer, self._file, self._committed, self._restored = writer, file, committed, restored
        self._gathered: Batch | None = None
        self._last: Batch | None = None  #: the latest of those under way
        self._under_way = 0
        self._recovery: asyncio.Task[None] | None = None
        self._anchor = Anchor(file)
        self.refusal = ""  #: why nothing can be promised, where that is so

    def batch(self) -> Batch:
        """The changes that will be written next, to add to.

        Raises:
            Unavailable: nothing can be promised now.
        """
        if not self.healthy:
            raise Unavailable(self.refusal)
        if self._gathered is None:
            self._gathered = Batch()
            self._loop.call_soon(self._flush)
        return self._gathered

    def look(self) -> None:
        """See that the database is still where it was opened. Else nothing more is taken in until it is."""
        try:
            self._anchor.check()
        except Moved as error:
            self._fail(error)

    async def committed(self) -> None:
        """Wait until everything gathered so far is on disk.

        Raises:
            Unavailable: it is not, and memory no longer says so either.
        """
        if not self.healthy:
            raise Unavailable(self.refusal)
        batch = self._gathered or self._last
        if batch is None:
            return
        waiter = self._loop.create_future()
        batch.waiters.append(waiter)
        await waiter

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What ``work`` finds in the rows, with everything gathered so far among them (unless its write fails).

        Raises:
            Unavailable: the rows cannot be read.
        """
        self._hand_over()
        try:
            return await self._writer.read(work)
        except sqlite3.Error as error:
            if is_damage(error):
                self._fail(error)
            raise Unavailable(f"cannot read {self._file}: {error}; see that its disk works") from error

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do ``work`` in a transaction of its own.

        Raises:
            Unavailable: it failed.
        """
        if not self.healthy:
            raise Unavailable(self.refusal)
        self._hand_over()
        future: asyncio.Future[T] = self._loop.create_future()

        def done(result: Any, error: BaseException | None) -> None:
            if error is not None:
                self._fail(error)
            if not future.done():
                if error is not None:
                    future.set_exception(Unavailable(self.refusal))
                else:
                    future.set_result(result)

        self._writer.write(self._in_place(work), done)
        return await future

    async def close(self) -> None:
        """Write what is gathered, then take in nothing more."""
        if self._recovery is not None:
            self._recovery.cancel()
            await asyncio.gather(self._recovery, return_exceptions=True)
        while self.healthy and (self._gathered or self._under_way):
            await asyncio.gather(self.committed(), return_exceptions=True)
        self.healthy, self.refusal = False, "cannot promise anything now: the daemon is stopping"
        await self._loop.run_in_executor(None, self._writer.close)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        if not self._under_way:
            self._hand_over()

    def _hand_over(self) -> None:
        batch, self._gathered = self._gathered, None
        if batch is not None:
            self._under_way += 1
            self._last = batch
            self._writer.write(self._in_place(batch.write), partial(self._written, batch))

    def _in_place(self, work: Callable[[sqlite3.Connection], T]) -> Callable[[sqlite3.Connection], T]:
        """The work of a transaction, which is committed only where the database can be found again."""

        def checked(connection: sqlite3.Connection) -> T:
            result = work(connection)
            self._anchor.check()
            return result

        return checked

    def _written(self, batch: Batch, _: None, error: BaseException | None) -> None:
        self._under_way -= 1
        if self._last is batch:
            self._last = None
        if error is not None:
            self._fail(error)
            self._take_back(batch)
            return
        self._committed(batch)
        for waiter in batch.waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._flush()

    def _fail(self, error: BaseException) -> None:
        if not self.healthy:
            return
        self.healthy = False
        if isinstance(error, Moved):
            self.refusal = f"cannot promise anything now: {error}"
            log.error("nothing starts or is taken in: %s", error)
        else:
            self.refusal = (
                f"cannot promise anything now: writing to {self._file} failed ({error}); free some disk space"
            )
            log.error("writing to %s failed; nothing starts or is taken in until it works", self._file, exc_info=error)
        gathered, self._gathered = self._gathered, None
        if gathered is not None:
            self._take_back(gathered)
        if is_damage(error):
            self._end(error)
        else:
            self._recovery = self._loop.create_task(self._recover())

    def _take_back(self, batch: Batch) -> None:
        futures: list[asyncio.Future[Any]] = [*batch.waiters, *(intake.accepted for intake in batch.intakes)]
        for future in futures:
            if not future.done():
                future.set_exception(Unavailable(self.refusal))

    async def _recover(self) -> None:
        too_late = self._loop.time() + GIVE_UP_AFTER
        stale = True
        while True:
            try:
                if stale:
                    self._restored(await self._writer.read(load))
                    stale = False
                self._anchor.check()
                await self._writer.recover(_probe)
                break
            except Moved:  # for as long as it takes: who restarted by itself would begin with an empty queue
                too_late = self._loop.time() + GIVE_UP_AFTER
            except sqlite3.Error as error:
                if is_damage(error) or self._loop.time() > too_late:
                    self._end(error)
                    return
            except Exception as error:  # noqa: BLE001 - rows that cannot be read are as final as a broken disk
                self._end(error)
                return
            await asyncio.sleep(PROBE_EVERY)
        self.healthy = True
        self.generation += 1
        log.warning("writing to %s works again", self._file)

    def _end(self, error: BaseException) -> None:
        if not self.fatal.done():
            final = Unavailable(f"cannot go on: writing to {self._file} failed ({error}); see that its disk works")
            final.__cause__ = error
            self.fatal.set_exception(final)


def _probe(connection: sqlite3.Connection) -> None:
    """Write something of a size and delete it again."""

    def fill(connection: sqlite3.Connection) -> None:
        connection.execute(
            "INSERT OR REPLACE INTO meta (key, value) VALUES ('probe', json_quote(hex(zeroblob(?))))", (_PROBE // 2,)
        )

    def clear(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM meta WHERE key = 'probe'")

    transact(connection, fill)
    transact(connection, clear)
