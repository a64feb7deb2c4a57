"""`open_cache`: built once, named by what made it, leased while it is in use, and never half there."""

from __future__ import annotations

import errno
import fcntl
import gc
import json
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from runners import config
from runners.cache import CacheError, layout, locks, open_cache, sums, upkeep
from runners.cache.source import state_of
from runners.errors import InvalidRequest, NotAllowed, NotFound

from .conftest import ROOT


class Build:
    """A build that counts how often it was called."""

    def __init__(self, value: int = 1, then: Callable[[], object] = lambda: None) -> None:
        self.value, self.then, self.calls = value, then, 0

    def __call__(self, group: zarr.Group) -> None:
        self.calls += 1
        group.attrs["value"] = self.value
        group.create_array("x", data=np.full((8, 4), self.value))
        self.then()


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache directory, which nobody has made yet."""
    monkeypatch.setattr(config, "cache_directory", str(tmp_path / "caches"))
    return tmp_path / "caches"


def names(there: Path) -> list[str]:
    return sorted(os.listdir(there))


def leased(there: Path) -> list[bool]:
    with layout.opened(str(there)) as directory:
        return [one.leased for one in upkeep.entries(directory)]


def test_it_is_built_once_and_then_read(there: Path) -> None:
    build = Build(7)
    first, second = open_cache("made", {"a": 1}, build), open_cache("made", {"a": 1}, build)
    assert build.calls == 1
    assert isinstance(second, zarr.Group) and second.metadata.zarr_format == 3
    assert second.attrs["value"] == 7
    np.testing.assert_array_equal(np.asarray(second["x"]), np.full((8, 4), 7))
    assert first.store_path == second.store_path
    [name] = names(there)
    assert name.startswith("made-") and len(name) == len("made-") + 16


def test_other_parameters_are_another_cache(there: Path) -> None:
    values = [open_cache("made", {"window": n}, Build(n)).attrs["value"] for n in (256, 512, 256)]
    assert values == [256, 512, 256]
    assert len(names(there)) == 2


def test_it_cannot_be_written(there: Path) -> None:
    group = open_cache("made", {}, Build())
    with pytest.raises(ValueError, match="read-only|read only"):
        group.attrs["value"] = 2
    with pytest.raises(ValueError, match="read-only|read only"):
        group["x"][0, 0] = 5  # type: ignore[index]
    with pytest.raises(ValueError, match="can only be read"):
        group.store.with_read_only(False)


def test_without_a_build_it_must_be_there(there: Path) -> None:
    with pytest.raises(NotFound, match="no directory"):
        open_cache("made", {})
    assert not there.exists()
    there.mkdir()
    with pytest.raises(NotFound, match="no build was given"):
        open_cache("made", {})
    open_cache("made", {}, Build())
    assert open_cache("made", {}).attrs["value"] == 1
    with pytest.raises(NotFound, match="other parameters"):
        open_cache("made", {"a": 1})
    assert [name for name in names(there) if name.startswith(".")] == []


def test_a_build_that_fails_leaves_nothing(there: Path) -> None:
    def fail() -> None:
        raise RuntimeError("no more disk")

    with pytest.raises(RuntimeError, match="no more disk"):
        open_cache("made", {}, Build(then=fail))
    assert names(there) == []
    assert open_cache("made", {}, Build(2)).attrs["value"] == 2


def test_while_it_is_built_there_is_nothing_under_its_name(there: Path) -> None:
    seen: list[str] = []
    open_cache("made", {}, Build(then=lambda: seen.extend(names(there))))
    assert all(name.startswith((".lock-made-", ".building-made-")) for name in seen) and len(seen) == 2
    assert [name for name in names(there) if name.startswith(".")] == []


def test_to_open_it_in_its_own_build_is_refused(there: Path) -> None:
    with pytest.raises(InvalidRequest, match="this is the call that builds it"):
        open_cache("made", {}, Build(then=lambda: open_cache("made", {}, Build())))
    inner = Build(then=lambda: open_cache("other", {}, Build(3)))
    assert open_cache("made", {}, inner).attrs["value"] == 1


def test_threads_wait_for_one_another(there: Path, capfd: pytest.CaptureFixture[str]) -> None:
    inside, go = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        assert go.wait(30)

    build, got = Build(5, wait), []
    first = threading.Thread(target=lambda: open_cache("made", {}, build))
    second = threading.Thread(target=lambda: got.append(open_cache("made", {}, build).attrs["value"]))
    first.start()
    assert inside.wait(30)
    second.start()
    said = ""
    while "waiting for process" not in said:
        said += capfd.readouterr().err
        assert second.is_alive()
    assert f"waiting for process {os.getpid()} of " in said
    go.set()
    first.join(30)
    second.join(30)
    assert got == [5] and build.calls == 1


def test_what_made_it_is_kept(there: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "song.wav").write_bytes(b"12345")
    monkeypatch.setenv("RUNNERS_JOB_ID", "12")
    monkeypatch.setenv("RUNNERS_JOB_NAME", "cache")
    monkeypatch.setenv("RUNNERS_PIPELINE_ID", "p3")
    open_cache("made", {"window": (1, 2)}, Build(), source=tmp_path / "song.wav")
    meta = json.loads((there / names(there)[0] / "meta.json").read_text())
    assert meta["job"] == {"id": 12, "name": "cache", "pipeline": "p3"}
    assert (meta["format"], meta["name"], meta["params"]) == (1, "made", {"window": [1, 2]})
    assert meta["source"] == state_of(tmp_path / "song.wav") | {"path": str(tmp_path / "song.wav")}
    assert meta["uid"] == os.geteuid() and meta["items"] is None
    data = [file for file in (there / names(there)[0] / "data.zarr").rglob("*") if file.is_file()]
    assert (meta["files"], meta["bytes"]) == (len(data), sum(file.stat().st_size for file in data))


def test_sha256sum_agrees(there: Path) -> None:
    open_cache("made", {}, Build(then=lambda: None))
    folder = there / names(there)[0]
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == json.loads((folder / "meta.json").read_text())["files"]


def test_names_that_need_escaping_are_summed_as_sha256sum_does(tmp_path: Path) -> None:
    (tmp_path / "data.zarr").mkdir()
    for name in ("a\nb", "c\\d", "e\\nf", " g ", "h\ri"):
        (tmp_path / "data.zarr" / name).write_text(name)
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        sealed = sums.seal(folder)
        assert sealed.files == 5
        assert list(sums.damage(folder, sealed.sums)) == []
    finally:
        os.close(folder)
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr


# -- the source --------------------------------------------------------------------------------------------------------


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    folder = tmp_path / "songs"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "a.wav").write_bytes(b"aaaa")
    (folder / "b.wav").write_bytes(b"bb")
    return folder


def change_bytes(songs: Path) -> None:
    (songs / "b.wav").write_bytes(b"bbb")


def change_time(songs: Path) -> None:
    now = (songs / "b.wav").stat().st_mtime_ns
    os.utime(songs / "b.wav", ns=(now, now + 1))


def change_name(songs: Path) -> None:
    (songs / "b.wav").rename(songs / "c.wav")


def add(songs: Path) -> None:
    (songs / "train" / "new.wav").touch()


def take_away(songs: Path) -> None:
    (songs / "train" / "a.wav").unlink()


def link(songs: Path) -> None:
    (songs / "link").symlink_to("nowhere")


@pytest.mark.parametrize("change", [change_bytes, change_time, change_name, add, take_away, link])
def test_a_changed_source_is_another_cache(there: Path, songs: Path, change: Callable[[Path], None]) -> None:
    build = Build()
    for _ in range(2):
        open_cache("made", {}, build, source=songs)
    change(songs)
    open_cache("made", {}, build, source=songs)
    assert build.calls == 2 and len(names(there)) == 2


def test_by_contents_a_touched_copy_is_the_same(there: Path, songs: Path, tmp_path: Path) -> None:
    build = Build()
    open_cache("made", {}, build, source=songs, contents=True)
    change_time(songs)
    songs.rename(tmp_path / "moved")
    open_cache("made", {}, build, source=tmp_path / "moved", contents=True)
    assert build.calls == 1
    (tmp_path / "moved" / "b.wav").write_bytes(b"bc")
    open_cache("made", {}, build, source=tmp_path / "moved", contents=True)
    assert build.calls == 2


def test_a_source_that_changes_while_it_is_read_makes_no_cache(there: Path, songs: Path) -> None:
    with pytest.raises(CacheError, match="changed while it was built"):
        open_cache("made", {}, Build(then=lambda: change_bytes(songs)), source=songs)
    assert names(there) == []


def test_linked_folders_are_followed_and_circles_end(songs: Path, tmp_path: Path) -> None:
    (songs / "round").symlink_to(songs)
    (songs / "far").symlink_to(tmp_path / "elsewhere")
    before = state_of(songs)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c.wav").write_bytes(b"c")
    after = state_of(songs)
    assert (before["files"], after["files"]) == (2, 3)
    assert before["digest"] != after["digest"]
    with pytest.raises(NotFound, match="no such file or folder"):
        state_of(tmp_path / "nothing")


def test_names_and_contents_cannot_be_mistaken_for_each_other(tmp_path: Path) -> None:
    for folder, files in (("one", {"a": b"1", "b": b""}), ("two", {"a": b"", "b": b"1"}), ("three", {"ab": b"1"})):
        (tmp_path / folder).mkdir()
        for name, data in files.items():
            (tmp_path / folder / name).write_bytes(data)
    assert len({state_of(tmp_path / name, contents=True)["digest"] for name in ("one", "two", "three")}) == 3


# -- leases ------------------------------------------------------------------------------------------------------------


def test_it_is_leased_as_long_as_anything_of_it_is_in_use(there: Path) -> None:
    group = open_cache("made", {}, Build())
    assert leased(there) == [True]
    array = group["x"]
    del group
    gc.collect()
    assert leased(there) == [True]
    copy = pickle.loads(pickle.dumps(array))
    del array
    gc.collect()
    assert leased(there) == [True]
    assert np.asarray(copy).sum() == 32
    copy.store.close()
    assert leased(there) == [False]


def test_opening_it_notes_the_time_and_so_does_the_end(there: Path) -> None:
    group = open_cache("made", {}, Build())
    lease = there / names(there)[0] / "lease"
    for act in (lambda: group.store.close(), lambda: open_cache("made", {})):
        os.utime(lease, (1, 1))
        act()
        assert lease.stat().st_mtime > 1e9


def test_a_cache_is_not_removed_while_it_is_leased(there: Path) -> None:
    group = open_cache("made", {}, Build())
    with layout.opened(str(there)) as directory:
        [entry] = upkeep.entries(directory)
        assert not upkeep.remove(directory, entry)
        assert open_cache("made", {}).attrs["value"] == 1
        group.store.close()
        gc.collect()
        assert upkeep.remove(directory, entry)
        assert not upkeep.remove(directory, entry)
    assert names(there) == []
    with pytest.raises(CacheError, match="has been removed"):
        pickle.loads(pickle.dumps(group))


def test_a_reader_that_is_overtaken_by_a_removal_has_no_lease(there: Path) -> None:
    """Between the opening of the folder and of its lease, or of the lease and its lock, the cache is taken away."""
    open_cache("made", {}, Build()).store.close()
    [id] = names(there)
    with layout.opened(str(there)) as directory:
        folder = layout.open_folder(directory, id)
        assert folder is not None
        os.rename(there / id, there / ".trash")
        assert locks.take_lease(directory, id, folder) is None
        os.unlink(there / ".trash" / "lease")
        assert locks.take_lease(directory, id, folder) is None
        os.close(folder)


def test_who_has_waited_at_a_lock_that_is_gone_locks_the_next(tmp_path: Path) -> None:
    """Else two could build: one with the lock that was removed, and one with the new one."""
    id = "made-0000000000000000"
    lock_file = str(tmp_path / f".lock-{id}")
    with layout.opened(str(tmp_path)) as directory:
        first = locks.take_build_lock(directory, id, wait=True)
        assert first is not None
        got: list[Any] = []
        waiting = threading.Thread(target=lambda: got.append(locks.take_build_lock(directory, id, wait=True)))
        waiting.start()
        while sum(link == lock_file for link in open_files()) < 2:
            assert waiting.is_alive()
        first.release()
        waiting.join(30)
        assert os.path.exists(lock_file)
        assert locks.take_build_lock(directory, id, wait=False) is None
        got[0].release()
    assert os.listdir(tmp_path) == []


def open_files() -> list[str]:
    """What this process has open, by name."""
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            links.append("")
    return links


# -- what may be wrong -------------------------------------------------------------------------------------------------


def test_no_directory_is_an_error_that_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "cache_directory", None)
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    with pytest.raises(InvalidRequest, match="set CACHE_DIRECTORY"):
        open_cache("made", {}, Build())


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_an_error_that_says_so(
    there: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """No such file system can be mounted here: what the kernel would say is said in its place."""

    def refuse(fd: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    build = Build()
    with pytest.raises(CacheError, match="its file system has no flock"):
        open_cache("made", {}, build)
    assert build.calls == 0


def test_a_file_system_that_grants_every_lock_is_found_out(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks.fcntl, "flock", lambda fd, operation: None)
    build = Build()
    with pytest.raises(CacheError, match="grants what another holds"):
        open_cache("made", {}, build)
    assert build.calls == 0


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda meta: "", "cannot be read"),
        (lambda meta: "[]", "is not one"),
        (lambda meta: json.dumps({**meta, "format": 2}), "has format 2, and this runners knows up to 1"),
        (lambda meta: json.dumps({**meta, "digest": "0" * 64}), "made of something else"),
    ],
)
def test_a_cache_that_does_not_say_what_it_is_is_not_used(there: Path, write: Any, said: str) -> None:
    open_cache("made", {}, Build())
    file = there / names(there)[0] / "meta.json"
    file.write_text(write(json.loads(file.read_text())))
    with pytest.raises(CacheError, match=said):
        open_cache("made", {}, Build())


def test_a_link_in_the_place_of_a_cache_is_not_followed(there: Path, tmp_path: Path) -> None:
    open_cache("made", {}, Build())
    [name] = names(there)
    (there / name).rename(tmp_path / "elsewhere")
    (there / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotFound):
        open_cache("made", {})
    with pytest.raises(OSError, match="Not a directory|exists"):
        open_cache("made", {}, Build())
    assert (tmp_path / "elsewhere" / "meta.json").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root can")
def test_in_a_shared_directory_everyone_builds_and_reads(there: Path, tmp_path: Path) -> None:
    """With the sticky bit, as /tmp has: a lock that a dead builder of another user has left is still used."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o111)
    there.mkdir()
    there.chmod(0o1777)
    open_cache("made", {}, Build(1))
    [name] = names(there)
    (there / f".lock-{name.replace('made', 'left')}").touch()
    left = os.open(there / f".lock-{name}", os.O_CREAT, 0o644)

    def as_nobody() -> None:
        os.setuid(65534)
        group = open_cache("made", {}, Build(2))
        assert group.attrs["value"] == 1
        assert (there / name / "lease").stat().st_mtime > 1e9
        assert open_cache("theirs", {}, Build(2)).attrs["value"] == 2
        with layout.opened(str(there)) as directory:
            ours = next(one for one in upkeep.entries(directory) if one.name == "made")
            with pytest.raises(NotAllowed, match="another user's"):
                upkeep.remove(directory, ours)
            lock = locks.take_build_lock(directory, name, wait=True)
            assert lock is not None
            lock.release()

    assert leased(there) == [False]  # and what that needs is loaded: they may not look where the interpreter lies
    os.utime(there / name / "lease", (1, 1))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            as_nobody()
            code = 0
        finally:
            if code:
                traceback.print_exc()
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    os.close(left)
    assert open_cache("theirs", {}).attrs["value"] == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts something, which only root can")
def test_a_directory_that_is_mounted_to_be_read_is_read(there: Path, tmp_path: Path) -> None:
    """As a container may have it: nothing can be noted, and nothing built."""
    open_cache("made", {}, Build(5)).store.close()
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    if subprocess.run(["mount", "--bind", "-o", "ro", there, mounted], capture_output=True).returncode:
        pytest.skip("this machine does not let us mount")
    try:
        group = open_cache("made", {}, Build(6), directory=mounted)
        assert group.attrs["value"] == 5
        assert leased(there) == [True]  # the lock is the same file's
        with pytest.raises(NotAllowed, match="you may not write there"):
            open_cache("made", {"a": 1}, Build(), directory=mounted)
        with pytest.raises(NotFound):
            open_cache("made", {"a": 1}, directory=mounted)
        group.store.close()
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_the_probe_of_locks_sees_a_real_one(tmp_path: Path) -> None:
    with layout.opened(str(tmp_path)) as directory:
        lock = locks.take_build_lock(directory, "made-0000000000000000", wait=False)
        assert lock is not None
        assert locks.take_build_lock(directory, "made-0000000000000000", wait=False) is None
        with open(tmp_path / ".lock-made-0000000000000000") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        lock.release()
    assert os.listdir(tmp_path) == []


def test_without_zarr_it_is_said_what_to_install(tmp_path: Path) -> None:
    """In a Python that sees this library and nothing else that was installed."""
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT / 'client')!r})\n"
        "from runners.cache import CacheError, open_cache\n"
        "try:\n"
        f"    open_cache('made', {{}}, print, directory={str(tmp_path / 'caches')!r})\n"
        "except CacheError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.startswith("cannot open a cache: zarr is not installed; `pip install")
    assert not (tmp_path / "caches").exists()
