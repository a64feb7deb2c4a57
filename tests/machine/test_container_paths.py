"""What a container may be given of the host: looked up with the submitter's rights, whatever stands in the way."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runnersd.machine import LaunchFailed
from runnersd.machine.docker import aside as asides
from runnersd.machine.docker import asuser, paths
from runnersd.machine.docker.aside import aside
from runnersd.machine.docker.asuser import as_user
from runnersd.machine.docker.paths import Found, resolve
from runnersd.model import Mount

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for a moment")

EVE, BOB, SHARED_GROUP = 61001, 61002, 61003

#: Makes a mount namespace in which a path of somebody else's is a folder of one's own, and stays in it.
IN_ANOTHER_WORLD = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def do(done):
    if done != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def mount(source, target, kind, flags):
    do(libc.mount(source, target, kind, flags, None))
do(libc.unshare(0x20000))
mount(None, b"/", None, 0x44000)
mount(b"tmpfs", os.fsencode(sys.argv[1]), b"tmpfs", 0)
os.mkdir(sys.argv[2])
os.chmod(sys.argv[2], 0o777)
os.setgroups([])
os.setresgid(61001, 61001, 61001)
os.setresuid(61001, 61001, 61001)
do(libc.prctl(4, 1, 0, 0, 0))
print("ready", flush=True)
sys.stdin.read()
"""


def look_up(*sources: object, uid: int | None = None, groups: Sequence[int] = (), **more: Any) -> list[Found]:
    mounts = [
        Mount(str(source), f"/{place}", asked="allowed" in more) for place, source in enumerate(sources, start=97)
    ]
    options = {"allowed": (), "private": (), **more}
    return as_user(partial(resolve, mounts, **options), uid, uid or 0, groups)


def refusal(source: object, **options: Any) -> str:
    with pytest.raises(LaunchFailed) as refused:
        look_up(source, **options)
    return str(refused.value)


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that every user can reach."""
    with tempfile.TemporaryDirectory(prefix="paths-") as made:
        path = Path(made)
        path.chmod(0o755)
        yield path


def owned(path: Path, uid: int, mode: int = 0o700) -> Path:
    path.mkdir()
    path.chmod(mode)
    os.chown(path, uid, uid)
    return path


def test_a_directory_and_a_plain_file_are_known_by_their_real_path_and_inode(folder: Path) -> None:
    (folder / "plain").write_text("x")
    (folder / "link").symlink_to(folder / "sub" / ".." / "plain")
    (folder / "sub").mkdir()

    directory, file = look_up(f"{folder}/sub/.//", folder / "link")

    assert (directory.mount.source, file.mount.source) == (str(folder / "sub"), str(folder / "plain"))
    assert file.inode == (folder / "plain").stat().st_ino


@pytest.mark.parametrize("source", ["", "here", "./here", "../here", "~"])
def test_relative_paths_are_refused(source: str) -> None:
    assert "must be an absolute path" in refusal(source)


@pytest.mark.parametrize(
    "path",
    ["/", "//", "/etc", "/etc/hostname", "/proc", "/proc/self/status", "/sys", "/dev", "/dev/shm", "/run", "/var/run",
     "/var", "/var/lib", "/tmp/../etc", "/usr/../proc/1"],
)  # fmt: skip
def test_what_is_the_systems_is_never_mounted_nor_what_holds_it(path: str) -> None:
    if os.path.exists(path):
        assert "belongs to the system or to the daemon" in refusal(path)


def test_what_is_the_daemons_is_refused_and_covered_where_it_lies_below(folder: Path) -> None:
    (folder / "data" / "state" / "runs").mkdir(parents=True)
    (folder / "link").symlink_to(folder / "data")
    private = (str(folder / "link" / "state"),)

    assert "belongs to the system" in refusal(folder / "data" / "state", private=private)
    assert "belongs to the system" in refusal(folder / "link" / "state" / "runs", private=private)
    (above,) = look_up(folder / "data", private=private)
    assert above.masked == ("state",)


def test_what_is_asked_for_lies_below_what_is_allowed_wherever_links_lead(folder: Path) -> None:
    for name in ("open", "shut"):
        (folder / name / "x").mkdir(parents=True)
    (folder / "alias").symlink_to("open")
    (folder / "open" / "out").symlink_to(folder / "shut")

    (found,) = look_up(folder / "open" / "x", allowed=[str(folder / "alias")])
    assert found.mount.source == str(folder / "open" / "x")
    for path in (folder / "shut", folder / "open" / "out" / "x", folder / "open" / ".." / "shut", f"{folder}/openly"):
        Path(f"{folder}/openly").mkdir(exist_ok=True)
        assert "is not below what this daemon allows" in refusal(path, allowed=[str(folder / "alias")])


def test_pipes_sockets_and_devices_are_refused_without_being_opened(folder: Path) -> None:
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        for path in (pipe, folder / "socket"):
            assert "neither a directory nor a plain file" in refusal(path)
    if os.geteuid() == 0:
        os.mknod(folder / "device", 0o20666, os.makedev(1, 3))
        assert "neither a directory nor a plain file" in refusal(folder / "device")
    # Opened for a moment, a pipe tells its writers so: with O_NONBLOCK they succeed just then.
    stop = threading.Event()
    opened: list[int] = []

    def write() -> None:
        while not stop.is_set():
            try:
                opened.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:
                continue

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(500):
        refusal(pipe)
    stop.set()
    writer.join()
    assert not opened


def test_links_of_proc_are_not_followed(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        for path in (f"/proc/self/fd/{fd}", f"/proc/self/root{folder}", f"/proc/{os.getpid()}/cwd"):
            assert "a link of /proc" in refusal(path)
    finally:
        os.close(fd)


@needs_root
def test_another_mount_namespace_lends_no_names(folder: Path) -> None:
    """In a world of her own eve owns what has the name of bob's folder in ours."""
    owned(folder / "bob", BOB)
    (folder / "bob" / "data").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", IN_ANOTHER_WORLD, str(folder / "bob"), str(folder / "bob" / "data")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as eve:  # fmt: skip
        assert eve.stdout is not None and eve.stdout.readline() == b"ready\n"
        hers = f"/proc/{eve.pid}/root{folder}/bob/data"
        assert os.path.exists(hers)
        assert "cannot mount" in refusal(hers, uid=EVE)
        assert eve.stdin is not None
        eve.stdin.close()


@needs_root
def test_a_submitter_mounts_what_they_can_read_and_nothing_else(folder: Path) -> None:
    home = owned(folder / "bob", BOB)
    owned(home / "inside", BOB, 0o755)
    owned(folder / "passable", BOB, 0o711)
    team = owned(folder / "team", BOB, 0o750)
    os.chown(team, BOB, SHARED_GROUP)
    file = folder / "file"
    file.write_text("s3cret")
    file.chmod(0o600)
    (folder / "link").symlink_to(home)
    (folder / "link2").symlink_to(home / "inside")

    for path in (home, home / "inside", folder / "link", folder / "link2", folder / "passable", team, file):
        assert "Permission denied, for the submitter" in refusal(path, uid=EVE), path
    look_up(home, home / "inside", folder / "link2", folder / "passable", team, uid=BOB)
    look_up(team, uid=EVE, groups=[SHARED_GROUP])
    assert (os.geteuid(), os.getegid()) == (0, 0)
    assert home.is_dir() and file.read_text() == "s3cret"  # this thread is still root


@needs_root
def test_of_many_at_once_each_has_its_own_rights(folder: Path) -> None:
    homes = {uid: owned(folder / str(uid), uid) for uid in range(61010, 61026)}
    wrong: list[object] = []

    def look(uid: int) -> None:
        for other, home in homes.items():
            try:
                look_up(home, uid=uid)
            except LaunchFailed:
                if other == uid:
                    wrong.append((uid, "own"))
            else:
                if other != uid:
                    wrong.append((uid, other))

    threads = [threading.Thread(target=look, args=(uid,)) for uid in homes for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@contextmanager
def swapping(link: Path, *targets: Path) -> Iterator[None]:
    """Points a link now here, now there, as fast as it can."""
    stop = threading.Event()

    def swap() -> None:
        scratch = link.with_name("scratch")
        while not stop.is_set():
            for target in targets:
                scratch.symlink_to(target)
                scratch.rename(link)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@needs_root
def test_a_link_that_is_swapped_all_the_time_never_gives_anothers_file(folder: Path) -> None:
    mine, theirs = owned(folder / "mine", EVE), owned(folder / "bob", BOB, 0o755)
    theirs = owned(theirs / "secret", BOB)
    link = folder / "link"
    link.symlink_to(mine)
    found = 0
    with swapping(link, mine, theirs, Path("/etc")):
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            try:
                (one,) = look_up(link, uid=EVE)
            except LaunchFailed:
                continue
            found += 1
            assert (one.mount.source, one.inode) == (str(mine), mine.stat().st_ino)
    assert found


def test_a_folder_that_is_moved_away_under_the_look_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "mine").mkdir()
    judge = paths._judge

    def judge_and_swap(*arguments: Any) -> None:
        judge(*arguments)
        (folder / "mine").rename(folder / "away")
        (folder / "mine").mkdir()

    monkeypatch.setattr(paths, "_judge", judge_and_swap)
    assert "it has changed while it was looked up" in refusal(folder / "mine")


def test_a_path_that_is_no_text_is_refused(folder: Path) -> None:
    odd = os.fsencode(folder) + b"/odd\xff"
    os.mkdir(odd)
    (folder / "link").symlink_to(os.fsdecode(odd))
    assert "not UTF-8" in refusal(folder / "link")


def test_a_look_that_hangs_is_left_to_itself_and_many_are_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asides, "MOST", 2)
    go = threading.Event()

    async def story() -> None:
        assert await aside("it", lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await aside("it", lambda: 1 // 0)
        for _ in range(2):
            with pytest.raises(TimeoutError, match=r"the disk did not answer in 0.01 s"):
                await aside("the disk", go.wait, 0.01)
        with pytest.raises(TimeoutError, match="2 looks at files hang already"):
            await aside("the disk", lambda: 7)
        go.set()
        for thread in list(asides._hanging):
            thread.join()
        assert await aside("the disk", lambda: 7) == 7

    asyncio.run(story())


def test_the_system_call_numbers_are_those_of_this_machine() -> None:
    """setgroups as a raw call is the only one that changes one thread; a wrong number would be another call."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.syscall(asuser._SETGROUPS, -1, None) == -1
    assert ctypes.get_errno() in (22, 1)  # EINVAL, or EPERM for a user: not ENOSYS
