"""Which databases are opened, which are refused, and how an old one becomes a new one."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from core.builders import spec
from runners.errors import InvalidConfig
from runnersd.model import Drain
from runnersd.notices.notice import Receiver
from runnersd.past.experience import Sample
from runnersd.past.kinds import kind_of
from runnersd.store import Store, opening, place, schema
from simulation.storing import BOB, check, image, opened, queue, rows_of, run, succeed

DATABASES = Path(__file__).parent / "databases"
LOCAL = "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n23 22 0:5 / /run rw - tmpfs tmpfs rw\n"


def refused(path: Path, match: str) -> None:
    async def work() -> None:
        await opened(path)

    with pytest.raises(InvalidConfig, match=match):
        run(work)


def restore(script: Path, folder: Path) -> None:
    """Make the database that a dump describes."""
    connection = sqlite3.connect(folder / "runnersd.db", isolation_level=None)
    connection.executescript(script.read_text())
    connection.close()


def shape(folder: Path) -> list[tuple[str, str]]:
    found = rows_of(folder, "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
    return [(name, " ".join(sql.split())) for name, sql in found]


@pytest.mark.parametrize("script", sorted(DATABASES.glob("v*.sql")), ids=lambda script: script.stem)
def test_a_database_of_every_released_schema_opens_and_becomes_the_newest(tmp_path: Path, script: Path) -> None:
    """The dump holds one pipeline that is over and one with a live, a failed, a held and a waiting job.

    From version 2 on there is one of bob's too, whose jobs taught something; from version 3 on what was measured.
    """
    restore(script, tmp_path)
    version = int(script.stem[1:])
    assert rows_of(tmp_path, "PRAGMA user_version") == [(version,)]
    states = {3: "running", 4: "failed", 5: "held", 6: "queued", 7: "queued"}
    if version >= 2:
        states |= {8: "succeeded", 9: "queued"}
    fresh = tmp_path / "fresh"

    async def work() -> None:
        await (await opened(fresh)).close()
        store = await opened(tmp_path, boot="boot-2")
        assert {id: job.state.value for id, job in store.snapshot.jobs.items()} == states
        assert store.snapshot.jobs[3].gpus == ("GPU-0", "GPU-1")
        assert [job.id for job in store.recent][-3:] == [4, 2, 1]
        assert [attempt["exit_code"] for attempt in await store.archive.attempts(4)] == [3, 4]
        assert store.snapshot.doomed == {6}
        assert dict(store.drained) == {"GPU-7": Drain("fan broken")} and store.paused == "maintenance"
        assert dict(await store.environment(2)) == {"PATH": "/usr/bin", "SECRET": "hush"}
        assert store.database == "0123456789ab" and store.interrupted == {(3, 1)}
        await knows_what_was_measured(store, version)
        knows_who_is_to_be_told(store, version)
        # It goes on working: ids count on, the key is still known.
        assert await queue(store, key="key-1") == [1, 2]
        assert await queue(store) == [max(states) + 1]
        knows_bob(store, version)
        succeed(store, 3)
        await check(store)
        before = image(store)
        await store.close()
        store = await opened(tmp_path)
        assert image(store) == before
        await store.close()

    run(work)
    assert rows_of(tmp_path, "PRAGMA user_version") == [(len(schema.SCRIPTS),)]
    assert shape(tmp_path) == shape(fresh)


def knows_bob(store: Store, version: int) -> None:
    """Whatever the rows say of what bob's jobs taught is known; an older schema says nothing of it."""
    kind = kind_of(spec(num_gpus=1))
    known = store.snapshot.experience.samples(BOB.uid, kind)
    if version == 1:
        assert known is None and not store.snapshot.usage.charges
        return
    assert known is not None and list(known.latest) == [
        Sample(3.25, None, 2 << 30),
        Sample(53.75, None, 3 << 30, False),
    ]
    assert store.snapshot.jobs[9].preempted == 1
    card_seconds, at = store.snapshot.usage.charges[BOB.uid]
    assert card_seconds == pytest.approx(3.25 + 53.75, rel=1e-3) and at == 401.0


def knows_who_is_to_be_told(store: Store, version: int) -> None:
    """From version 3 on ann is to be told that her job's cards do nothing."""
    assert store.snapshot.jobs[3].idle_since == (402.0 if version >= 3 else None)
    assert [(one.receiver, one.facts) for one in store.undelivered] == (
        [(Receiver("mail", "ann@lab"), {"job": 3})] if version >= 3 else []
    )


async def knows_what_was_measured(store: Store, version: int) -> None:
    """From version 3 on there is a summary of an attempt that is over, and of one that goes on."""
    (over,) = await store.archive.attempts(1)
    summary = over["telemetry"]
    assert (summary["energy"] if summary else None) == (800.0 if version >= 3 else None)
    assert {key: view["energy"] for key, view in store.summaries.items()} == ({(3, 1): 1600.0} if version >= 3 else {})


def test_a_database_of_every_version_is_kept() -> None:
    assert len(list(DATABASES.glob("v*.sql"))) == len(schema.SCRIPTS)


def test_a_migration_happens_whole_or_not_at_all(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    newest = len(schema.SCRIPTS)
    more = "CREATE TABLE more (a);\nINSERT INTO more VALUES (';');\n"
    schema.migrate(connection)
    with pytest.raises(sqlite3.OperationalError):
        schema.migrate(
            connection, (*schema.SCRIPTS, more, "CREATE TABLE last (a);\nALTER TABLE nothing RENAME TO x;\n")
        )
    assert connection.execute("PRAGMA user_version").fetchone() == (newest + 1,)
    assert connection.execute("SELECT a FROM more").fetchall() == [(";",)]
    assert connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'last'").fetchone() is None
    assert schema.migrate(connection, (*schema.SCRIPTS, more, "CREATE TABLE last (a);\n")) == newest + 1
    assert connection.execute("PRAGMA user_version").fetchone() == (newest + 2,)
    connection.close()


def test_a_newer_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "runnersd.db", isolation_level=None)
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION}")
    connection.execute("PRAGMA user_version = 99")
    connection.execute("CREATE TABLE job (future)")
    connection.close()
    refused(tmp_path, "schema has version 99, this runnersd knows versions up to")
    assert rows_of(tmp_path, "SELECT count(*) FROM job") == [(0,)]


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "runnersd.db", isolation_level=None)
    connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    refused(tmp_path, "another program wrote it")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runnersd.db").write_bytes(b"hello, I am text\n" * 1000)
    refused(tmp_path, "damaged or no database")
    assert (tmp_path / "runnersd.db").read_bytes().startswith(b"hello")


def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    async def fill() -> None:
        store = await opened(tmp_path)
        for _ in range(300):
            await queue(store)
        await store.close()

    run(fill)
    file = tmp_path / "runnersd.db"
    with file.open("r+b") as opened_file:
        opened_file.seek(file.stat().st_size // 2)
        opened_file.write(b"\xff" * 8192)
    refused(tmp_path, "damaged")


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", r"cannot make the database .*say another --state-dir")


def test_a_database_that_another_process_has_open_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        code = (
            "import sqlite3, sys\n"
            "connection = sqlite3.connect(sys.argv[1], timeout=0)\n"
            "try:\n    connection.execute('SELECT * FROM job')\n"
            "except sqlite3.OperationalError as error:\n    print(error)\n"
        )
        said = await asyncio.to_thread(
            subprocess.check_output, [sys.executable, "-c", code, str(tmp_path / "runnersd.db")], text=True
        )
        assert said == "database is locked\n"
        await store.close()

    run(work)
    holder = sqlite3.connect(tmp_path / "runnersd.db", isolation_level=None)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(opening, "PRAGMAS", [one.replace("5000", "50") for one in opening.PRAGMAS])
    refused(tmp_path, "another process has it open")
    holder.close()


def test_another_machines_directory_is_refused_until_it_is_adopted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> str:
        store = await opened(tmp_path)
        await store.close()
        return store.database

    database = run(work)
    monkeypatch.setattr(opening, "machine_id", lambda: "f" * 32)
    refused(tmp_path, r"another machine wrote it.*touch .*/adopt")
    (tmp_path / "adopt").touch()
    assert run(work) == database
    assert not (tmp_path / "adopt").exists()
    assert run(work) == database
    monkeypatch.undo()
    refused(tmp_path, "another machine wrote it")


def test_a_machine_is_known_by_its_id_else_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "machine-id"
    by_name = place.machine_id(file)
    file.write_text("uninitialized\n")
    assert place.machine_id(file) == by_name
    file.write_text("0" * 31 + "1\n")
    by_id = place.machine_id(file)
    assert by_id != by_name and len(by_id) == 32 and "0" * 31 not in by_id


@pytest.mark.parametrize(
    ("mounts", "kind"),
    [
        ("", "ext4"),
        ("24 22 0:6 / /home rw shared:1 - nfs4 server:/home rw\n", "nfs4"),
        ("24 22 0:6 / /home/ann rw - nfs4 server:/home rw\n25 24 8:2 / /home/ann/state rw - xfs /dev/sdb rw\n", "xfs"),
        ("24 22 0:6 / /home/annabel rw - nfs4 server:/home rw\n", "ext4"),
        ("24 22 8:3 / /home rw - xfs /dev/sdc rw\n25 24 0:7 / /home rw - cifs //server/home rw\n", "cifs"),
        ("24 22 0:6 / /home/ann/state\\040x rw - nfs server:/x rw\n", "ext4"),
    ],
)
def test_the_file_system_of_a_path_is_its_nearest_mounts(mounts: str, kind: str) -> None:
    assert place.file_system(Path("/home/ann/state/runners"), LOCAL + mounts) == kind


def test_a_mount_point_with_a_blank_is_read() -> None:
    mounts = LOCAL + "24 22 0:6 / /home/my\\040state rw - nfs server:/x rw\n"
    assert place.file_system(Path("/home/my state/a"), mounts) == "nfs"


@pytest.mark.parametrize(
    ("kind", "safe"),
    [
        ("ext4", True), ("xfs", True), ("btrfs", True), ("zfs", True), ("tmpfs", True), ("overlay", True),
        ("virtiofs", True), ("fuseblk", True), ("fuse.fuse-overlayfs", True), ("nfs", False), ("nfs4", False),
        ("cifs", False), ("smb3", False), ("9p", False), ("ceph", False), ("lustre", False), ("gpfs", False),
        ("fuse.sshfs", False), ("fuse.glusterfs", False), ("fuse", False),
    ],
)  # fmt: skip
def test_a_network_file_system_is_refused(kind: str, safe: bool) -> None:
    mounts = LOCAL + f"24 22 0:6 / /home rw - {kind} source rw\n"
    if safe:
        place.refuse_network(Path("/home/ann"), mounts)
    else:
        with pytest.raises(InvalidConfig, match=rf"network file system \({kind}\).*--state-dir on a disk"):
            place.refuse_network(Path("/home/ann"), mounts)


def test_a_state_directory_on_a_network_is_refused_also_through_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "link").symlink_to("net")
    mounts = f"{LOCAL}24 22 0:6 / {tmp_path.resolve()}/net rw - nfs4 server:/x rw\n"
    monkeypatch.setattr(opening, "read_mountinfo", lambda: mounts)
    refused(tmp_path / "link", "network file system")
    assert os.listdir(tmp_path / "net") == []
