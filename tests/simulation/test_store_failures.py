"""Disks that fail. What was promised stays; what was not is taken back; memory is never newer than the rows."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from core.builders import ANN, spec
from runners.api import Code, JobState
from runners.errors import RunnersError, Unavailable
from runnersd import lifecycle
from runnersd.model import Drain, Reason
from runnersd.store import Store, journal, opening
from runnersd.store.opening import RESERVE
from simulation.storing import OK, Asking, check, image, opened, queue, run, select, start, submission, succeed


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "PROBE_EVERY", 0.01)


async def recovered(store: Store) -> None:
    while not store.healthy:
        assert not store.fatal.done()
        await asyncio.sleep(0.002)


async def limit(store: Store, pages: int) -> None:
    """Let the database grow by so many pages and no more: a full disk, as SQLite sees it."""

    def set_limit(connection: sqlite3.Connection) -> None:
        now = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {now + pages}")

    await store._journal.read(set_limit)


async def story(store: Store, promised: dict[str, Any]) -> None:
    """Things that a daemon does. Whatever is promised on the way is noted; ends at the first broken promise."""
    for number in range(4):
        accepted = await store.submit([submission(spec("a", num_gpus=1), spec("b"))], ANN, f"key{number}", 1.0)
        promised[f"key{number}"] = accepted
        first, second = (id for id, _ in accepted[0][1])
        start(store, first, f"GPU-{number}")
        await store.committed()
        promised[f"job {first}"] = (JobState.RUNNING, JobState.SUCCEEDED)
        succeed(store, first)
        start(store, second)
        await store.committed()
        promised[f"job {first}"] = (JobState.SUCCEEDED,)
        promised[f"job {second}"] = (JobState.RUNNING, JobState.FAILED)
        store.drain(f"GPU-{number}", Drain("done"))
        store.record(lifecycle.Failed(second, 1, Reason(Code.EXIT_CODE, ""), 1, 9.0), 9.0)
        await store.committed()
        promised[f"job {second}"] = (JobState.FAILED,)


async def keeps(store: Store, promised: dict[str, Any]) -> None:
    """Everything promised is so."""
    for what, value in promised.items():
        if what.startswith("job "):
            assert (await store.job(int(what[4:]))).state in value
        else:
            assert await store.submit([submission()], ANN, what, 99.0) == value


class Faulty(sqlite3.Connection):
    """A connection whose Nth statement fails, before or after it has had its effect."""

    countdown = -1
    after = False
    lasting = False

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:  # type: ignore[override]
        kind = type(self)
        kind.countdown -= 1
        if not (kind.countdown == 0 or (kind.lasting and kind.countdown < 0 and not sql.startswith("SELECT"))):
            return super().execute(sql, *values)
        if sql == "ROLLBACK":
            return super().execute(sql, *values)
        if kind.after:
            super().execute(sql, *values)
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR  # type: ignore[misc]
        raise error


@pytest.mark.parametrize("after", [False, True], ids=["before its effect", "after its effect"])
def test_whichever_statement_fails_every_promise_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    monkeypatch.setattr(opening.sqlite3, "connect", partial(sqlite3.connect, factory=Faulty))

    async def work(nth: int) -> bool:
        folder = tmp_path / f"{nth}"
        Faulty.countdown = -1
        store = await opened(folder)
        promised: dict[str, Any] = {}
        Faulty.countdown, Faulty.after = nth, after
        try:
            await story(store, promised)
        except Unavailable:
            assert Faulty.countdown <= 0
        failed, Faulty.countdown = Faulty.countdown <= 0, -1
        await recovered(store)
        await check(store)
        await keeps(store, promised)
        await queue(store)
        before = image(store)
        await store.close()
        Faulty.countdown = -1
        store = await opened(folder)
        assert image(store) == before
        await keeps(store, promised)
        await store.close()
        shutil.rmtree(folder)
        return failed

    nth = 1
    while run(partial(work, nth)):
        nth += 3
    assert nth > 60


def test_while_the_disk_fails_nothing_is_promised_and_nothing_is_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening.sqlite3, "connect", partial(sqlite3.connect, factory=Faulty))

    async def work() -> None:
        Faulty.countdown, Faulty.after, Faulty.lasting = -1, False, False
        store = await opened(tmp_path)
        first, second, third = await queue(store, spec("a", num_gpus=1), spec("b"), spec("c"))
        start(store, first, "GPU-0")
        await store.committed()
        listener = store.events.subscribe()
        kept = image(store)
        Faulty.countdown, Faulty.lasting = 1, True
        # All of this is under way when the write fails.
        succeed(store, first)
        start(store, second)
        waits = [asyncio.ensure_future(store.committed()) for _ in range(5)]
        submitted = asyncio.ensure_future(store.submit([submission()], ANN, None, 1.0))
        await asyncio.sleep(0)
        late = asyncio.ensure_future(later(store, third))
        outcomes = await asyncio.gather(*waits, submitted, late, return_exceptions=True)
        assert all(isinstance(outcome, Unavailable) for outcome in outcomes), outcomes
        assert not store.healthy and store.generation == 0
        for change in (
            lambda: start(store, third),
            lambda: store.drain("GPU-0", Drain("x")),
            lambda: store.pause("x"),
            lambda: store.announce("gpu.lost", {}),
        ):
            with pytest.raises(Unavailable, match="cannot promise anything now: writing to .* failed"):
                change()
        for promise in (store.committed(), store.submit([submission()], ANN, "k", 1.0), store.prune(1.0)):
            with pytest.raises(Unavailable):
                await promise
        await asyncio.sleep(0.05)
        # Looking goes on, at what the disk holds.
        assert image(store) == kept
        assert (await store.jobs(states=[JobState.RUNNING]))[0].id == first
        Faulty.lasting = False
        await recovered(store)
        assert store.generation == 1
        await check(store)
        assert image(store) == kept
        # Level, not edge: what happened meanwhile is recorded again. No event of the lost ones was told.
        succeed(store, first)
        await store.committed()
        heard = await anext(listener)
        assert (heard.type, heard.job) == ("job.succeeded", first)
        assert not listener._records
        events = [event.id for event in await store.archive.events_after(0, 99)]
        assert len(set(events)) == len(events) == 6 and events[-1] == heard.id == store.events.last
        assert await queue(store) == [5]
        await check(store)
        await store.close()

    async def later(store: Store, id: int) -> None:
        start(store, id)
        await store.committed()

    run(work)


def test_a_full_database_refuses_and_recovers_when_there_is_room(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        promised: dict[str, Any] = {}
        await story(store, promised)
        store.events.outbox = asking = Asking("job.queued")
        await limit(store, 3)
        with pytest.raises(Unavailable, match="free some disk space"):
            await queue(store, *[spec(f"j{n}") for n in range(2000)])
        await asyncio.sleep(0.1)
        assert not store.healthy  # the probe asks for more room than there is
        assert store.queued_by() == 0
        await keeps_without_writing(store, promised)
        await limit(store, 1 << 20)
        await recovered(store)
        await check(store)
        await keeps(store, promised)
        assert (asking.on_disk, asking.restorations) == ([], 1)
        assert len(await queue(store, *[spec(f"j{n}") for n in range(2000)])) == 2000
        await check(store)
        await store.close()

    async def keeps_without_writing(store: Store, promised: dict[str, Any]) -> None:
        await keeps(store, {what: value for what, value in promised.items() if what.startswith("job ")})

    run(work)


def test_a_disk_that_stays_broken_is_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "GIVE_UP_AFTER", 0.1)

    async def work() -> None:
        store = await opened(tmp_path)
        await limit(store, 0)
        with pytest.raises(Unavailable):
            await queue(store, *[spec(f"j{n}") for n in range(2000)])
        with pytest.raises(Unavailable, match="cannot go on"):
            await store.fatal
        assert not store.healthy
        await store.close()

    run(work)


@pytest.mark.parametrize("code", [sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB])
def test_damage_is_final_at_once(tmp_path: Path, code: int) -> None:
    async def work() -> None:
        store = await opened(tmp_path)

        def damaged(_: sqlite3.Connection) -> None:
            error = sqlite3.DatabaseError("database disk image is malformed")
            error.sqlite_errorcode = code  # type: ignore[misc]
            raise error

        with pytest.raises(Unavailable):
            await store._journal.write(damaged)
        with pytest.raises(Unavailable, match="malformed"):
            await store.fatal
        with pytest.raises(Unavailable):
            await queue(store)
        await store.close()

    run(work)


def test_a_writer_that_hangs_or_dies_is_seen(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        assert not store.stalled(60.0)
        let_go = threading.Event()
        hanging = asyncio.ensure_future(store._journal.read(lambda _: let_go.wait()))
        while not store.stalled(0.01):
            await asyncio.sleep(0.002)
        assert not store.stalled(60.0)
        let_go.set()
        await hanging
        while store.stalled(0.0):
            await asyncio.sleep(0.002)
        await store.close()
        assert store.stalled(60.0)

    run(work)


def test_a_copy_of_the_files_at_any_moment_holds_what_was_promised(tmp_path: Path) -> None:
    """A power cut, as far as files tell: what fsync has not promised may be missing, nothing else."""

    async def work() -> None:
        store = await opened(tmp_path / "live")
        for moment in range(12):
            ids = await queue(store, spec("a", num_gpus=1), spec("b"))
            start(store, ids[0], f"GPU-{moment}")
            await store.committed()
            expected = image(store)
            start(store, ids[1])  # not promised
            copy = tmp_path / f"copy{moment}"
            # By another process: closing the file in this one would let go of SQLite's locks.
            await asyncio.to_thread(subprocess.check_call, ["cp", "-r", str(tmp_path / "live"), str(copy)])
            if moment % 3 == 2:  # the tail of the log was on its way
                log = copy / "runnersd.db-wal"
                with log.open("ab") as file:
                    file.write(os.urandom(5000))
            second = await opened(copy)
            found = image(second)
            assert found["live"].keys() >= expected["live"].keys()
            assert found["jobs"].keys() == expected["jobs"].keys()
            assert found["holders"].keys() == expected["holders"].keys()
            await check(second)
            await second.close()
        await store.close()

    run(work)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_up(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))


def test_a_full_disk_stops_promises_and_room_brings_them_back(small_disk: Path) -> None:
    async def work() -> None:
        store = await opened(small_disk)
        promised: dict[str, Any] = {}
        await story(store, promised)
        ballast = small_disk / "ballast"
        fill_up(ballast)
        refused = 0
        for number in range(2000):
            try:
                promised[f"more{number}"] = await store.submit([submission(spec("x" * 200))], ANN, f"more{number}", 1.0)
            except Unavailable:
                refused += 1
                if refused == 5:
                    break
                await asyncio.sleep(0.02)
        assert refused == 5
        kept = image(store)
        await asyncio.sleep(0.1)
        assert not store.healthy and image(store) == kept
        ballast.unlink()
        await recovered(store)
        await check(store)
        await keeps(store, promised)
        (id,) = await queue(store)
        start(store, id)
        succeed(store, id)
        await store.committed()
        before = image(store)
        await store.close()
        store = await opened(small_disk)
        assert image(store) == before
        await keeps(store, promised)
        await store.close()

    run(work)


def test_room_is_kept_where_there_is_enough(small_disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        for folder, kept, said in ((tmp_path, RESERVE, False), (small_disk, 0, True)):
            store = await opened(folder)
            (log,) = folder.glob("*-wal")
            assert log.stat().st_size // RESERVE * RESERVE == kept
            assert ("no room to spare" in caplog.text) == said
            await store.close()

    run(work)


def test_room_is_kept_where_the_log_of_a_linked_database_is(tmp_path: Path) -> None:
    async def work() -> None:
        await (await opened(tmp_path)).close()
        (file,) = tmp_path.iterdir()
        (tmp_path / "elsewhere").mkdir()
        file.symlink_to(file.rename(tmp_path / "elsewhere" / "moved"))
        store = await opened(tmp_path)
        assert (tmp_path / "elsewhere" / "moved-wal").stat().st_size == RESERVE
        await store.close()

    run(work)


def test_room_is_kept_where_the_file_system_cannot_promise_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def filled_up(number: int, offset: int, size: int) -> None:
        """What the GNU C library does then: a byte of every block is looked at, and written if there is none."""
        for at in range(offset + (size - 1) % 4096, offset + size, 4096):
            if at >= os.fstat(number).st_size or os.pread(number, 1, at) == b"\0":
                os.pwrite(number, b"\0", at)

    async def work() -> None:
        monkeypatch.setattr(os, "posix_fallocate", filled_up)
        for _ in range(2):
            store = await opened(tmp_path)
            (log,) = tmp_path.glob("*-wal")
            assert log.stat().st_size == RESERVE
            await store.close()

    run(work)


def test_a_full_disk_cannot_be_opened_and_says_why(small_disk: Path) -> None:
    fill_up(small_disk / "ballast")

    async def work() -> None:
        await opened(small_disk)

    with pytest.raises(RunnersError, match="cannot use the database .*see that its disk works and has space"):
        run(work)


def test_an_end_on_the_last_moment_is_on_disk_when_closed(tmp_path: Path) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        (id,) = await queue(store)
        start(store, id)
        store.record(lifecycle.Succeeded(id, 1, OK, 0, 5.0), 5.0)
        await store.close()
        store = await opened(tmp_path)
        assert await select(store, "SELECT state, finished_at FROM job") == [("succeeded", 5.0)]
        await store.close()

    run(work)
