"""`runners-client caches`: what there is, whether it is sound, and removing it; never what is used, or not ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from runners.cache import CacheError, deletion, layout, open_cache, write_items
from runners.cli import main
from runners.cli.completion import offers

from .conftest import Responder, job_view, response, status_view

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory, and no daemon."""
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "caches"))
    (tmp_path / "caches").mkdir()
    return tmp_path / "caches"


@pytest.fixture
def caches(cli: Cli) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `caches` where no daemon answers."""
    return lambda *words, **options: cli("--socket", "/nowhere/s", "caches", *words, **options)


def made(there: Path, name: str = "musdb", **params: Any) -> str:
    """A finished cache that nobody uses; its name."""

    def build(group: zarr.Group) -> None:
        write_items(group, [{"x": np.full(1000, n)} for n in range(5)], title="")

    group = open_cache(name, params, build, directory=there)
    group.store.close()
    return str(group.store.id)  # type: ignore[attr-defined]


def used(there: Path, id: str, days: float) -> None:
    """It was used so long ago."""
    at = (there / id / "lease").stat().st_mtime - days * 86400
    os.utime(there / id / "lease", (at, at))


def names(there: Path) -> list[str]:
    return sorted(os.listdir(there))


# -- looking -----------------------------------------------------------------------------------------------------------


def test_no_caches(there: Path, caches: Cli) -> None:
    done = caches()
    assert (done.returncode, done.stdout) == (0, f"0 caches, 0 B, in {there}\n")


def test_a_list(there: Path, caches: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNERS_JOB_ID", "12")
    one, other = made(there, "musdb", window=512), made(there, "fma")
    used(there, one, 3.5)
    done = caches("ls")
    lines = done.stdout.splitlines()
    assert lines[0].split("  ")[0] == "CACHE"
    assert [line.split()[0] for line in lines[1:3]] == [other, one]
    assert ", job 12" in lines[2] and " 3d ago " in lines[2] and " 5 " in lines[2]
    assert lines[3].startswith("2 caches, ")
    assert [line.split("  ")[0] for line in caches().stdout.splitlines()] == [line.split("  ")[0] for line in lines]


def test_as_json(there: Path, caches: Cli) -> None:
    id = made(there, window=512)
    [document] = json.loads(caches("--json").stdout)["caches"]
    assert document["id"] == id and document["name"] == "musdb" and document["params"] == {"window": 512}
    assert (document["items"], document["uid"], document["in_use"], document["used_by"]) == (5, os.geteuid(), False, [])
    data = sum(file.stat().st_size for file in (there / id / "data.zarr").rglob("*") if file.is_file())
    assert document["bytes"] == data and document["problem"] is None


def test_show(there: Path, caches: Cli) -> None:
    id = made(there, window=512)
    for word in (id, "musdb", id[:-3]):
        said = caches("show", word).stdout
        assert said.startswith(f"{id}\n  path        {there / id}\n")
        assert '  parameters  {"window": 512}\n' in said and "  used by     nobody\n" in said
    made(there, window=256)
    done = caches("show", "musdb")
    assert done.returncode == 2 and "cannot tell which cache musdb is: musdb-" in done.stderr
    done = caches("show", "mudsb")
    assert done.returncode == 5 and done.stdout == "" and "cannot find cache mudsb" in done.stderr


def test_words_that_are_wrong(there: Path, caches: Cli, tmp_path: Path) -> None:
    for words, said in (
        (["prun"], "did you mean prune?"),
        (["rm"], "say which cache"),
        (["show"], "say which cache"),
        (["prune", "musdb"], "it takes no cache's name"),
        (["prune", "--keep", "much"], "--keep 'much' is not a size"),
        (["prune", "--unused", "long"], "--unused 'long' is not a duration"),
        (["ls", "--keep", "1GiB"], "are for `caches prune`"),
    ):
        done = caches(*words)
        assert (done.returncode, done.stdout) == (2, ""), words
        assert said in done.stderr, done.stderr
    assert caches("--directory", str(tmp_path / "none")).returncode == 5


def test_who_has_it_open_is_named(there: Path, caches: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """This very process has it open; a job's processes are known by their environment."""
    id = made(there)
    group = open_cache("musdb", {}, directory=there)
    [document] = json.loads(caches("--json").stdout)["caches"]
    assert document["in_use"] and document["used_by"] == [{"job": None, "pid": os.getpid(), "state": None}]
    assert f"process {os.getpid()}" in caches().stdout
    done = caches("rm", id)
    assert done.returncode == 1
    assert done.stderr == f"runners-client: cannot remove {id}: it is used by process {os.getpid()}\n"
    group.store.close()
    assert caches("rm", id).returncode == 0
    assert names(there) == []


# -- verifying ---------------------------------------------------------------------------------------------------------


def damaged(folder: Path, how: str) -> None:
    chunk = folder / "data.zarr" / "x" / "c" / "0" / "0"
    if how == "a bit":
        data = bytearray(chunk.read_bytes())
        data[-1] ^= 1
        chunk.write_bytes(data)
    elif how == "cut":
        os.truncate(chunk, 3)
    elif how == "gone":
        next(file for file in (folder / "data.zarr").rglob("zarr.json")).unlink()
    elif how == "more":
        (folder / "data.zarr" / "more").touch()
    elif how == "link":
        (folder / "data.zarr" / "link").symlink_to("/etc/passwd")
    elif how == "sums":
        (folder / "SHA256SUMS").write_text("")
    elif how == "meta":
        (folder / "meta.json").write_text("{")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("a bit", "is not what was written"),
        ("cut", "is not what was written"),
        ("gone", "zarr.json is missing"),
        ("more", "data.zarr/more was not there when it was built"),
        ("link", "neither a file nor a folder"),
        ("sums", "SHA256SUMS is not the one"),
        ("meta", "meta.json cannot be read"),
    ],
)
def test_damage_is_found(there: Path, caches: Cli, how: str, said: str) -> None:
    sound, id = made(there, "a"), made(there, "b")
    assert caches("verify").returncode == 0
    before = (there / id / "lease").stat().st_mtime_ns
    damaged(there / id, how)
    done = caches("verify")
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and len(lines) == 2
    assert lines[0].startswith(f"{sound}: as it was built (")
    assert lines[1].startswith(f"{id}: ") and said in lines[1]
    document = json.loads(caches("verify", id, "--json").stdout)["caches"]
    assert [(one["id"], one["ok"], len(one["damage"])) for one in document] == [(id, False, 1)]
    assert (there / id / "lease").stat().st_mtime_ns == before  # to verify is not to use


# -- removing ----------------------------------------------------------------------------------------------------------


def test_prune_by_age_and_by_size(there: Path, caches: Cli) -> None:
    old, middle, new = (made(there, name) for name in ("old", "middle", "new"))
    used(there, old, 40)
    used(there, middle, 10)
    size = json.loads(caches("--json").stdout)["caches"][0]["bytes"]
    assert caches("prune").stdout.startswith("3 caches left")
    done = caches("prune", "--unused", "30d", "--keep", str(size + 50), "--dry-run")
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        f"would remove {old}", f"would remove {middle}", f"1 cache would be left, {done.stdout.split('left, ')[1].strip()}",
    ]  # fmt: skip
    assert len(names(there)) == 3
    assert caches("prune", "--unused", "30d").stdout.startswith(f"removed {old}: ")
    assert names(there) == sorted([middle, new])
    document = json.loads(caches("prune", "--keep", str(size), "--json").stdout)
    assert document["removed"] == [middle] and document["freed"] == document["left"] == size
    assert names(there) == [new]


def test_rm(there: Path, caches: Cli) -> None:
    one, other = made(there, "one"), made(there, "other")
    assert caches("rm", "one", "--dry-run").stdout.startswith(f"would remove {one}: ")
    assert json.loads(caches("rm", "one", "--json").stdout) == {"removed": [one], "kept": []}
    assert names(there) == [other]


def test_what_is_not_ours_stays(there: Path, caches: Cli, tmp_path: Path) -> None:
    """Folders without the mark, links to folders with it, files: whatever they are called."""
    real = made(there)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("years")
    (there / "mine-0123456789abcdef").mkdir()
    (there / "mine-0123456789abcdef" / "thesis.tex").write_text("years")
    (there / "link-0123456789abcdef").symlink_to(tmp_path / "precious")
    (there / "file-0123456789abcdef").write_text("years")
    (there / ".trash-mine-0123456789abcdef.00000000").symlink_to(tmp_path / "precious")
    (there / ".trash-mine-0123456789abcdef.11111111").mkdir()
    (there / ".trash-mine-0123456789abcdef.11111111" / "thesis.tex").write_text("years")
    (there / "plain").mkdir()
    before = [name for name in names(there) if name != real]
    done = caches("prune", "--keep", "0", "--unused", "0")
    assert done.returncode == 1 and "lacks the mark" in done.stderr  # of the one in the trash's name
    assert done.stdout.startswith(f"removed {real}")
    assert names(there) == before
    assert (tmp_path / "precious" / "thesis.tex").read_text() == "years"
    for id in ("mine-0123456789abcdef", "link-0123456789abcdef", "file-0123456789abcdef", "../precious", "plain"):
        assert caches("rm", id).returncode == 5
    assert names(there) == before


def test_links_in_a_cache_are_removed_and_what_they_point_to_stays(there: Path, caches: Cli, tmp_path: Path) -> None:
    id = made(there)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("years")
    for place in (there / id, there / id / "data.zarr", there / id / "data.zarr" / "x"):
        (place / "link").symlink_to(tmp_path / "precious")
        (place / "file").symlink_to(tmp_path / "precious" / "thesis.tex")
        os.link(tmp_path / "precious" / "thesis.tex", place / "hard")
    assert caches("rm", id).returncode == 0
    assert names(there) == []
    assert (tmp_path / "precious" / "thesis.tex").read_text() == "years"


def test_a_link_in_the_place_of_the_mark_or_the_lease_is_not_one(there: Path, caches: Cli, tmp_path: Path) -> None:
    (tmp_path / "mark").touch()
    id = made(there, "marked")
    (there / id / ".runners-cache").unlink()
    (there / id / ".runners-cache").symlink_to(tmp_path / "mark")
    leased = made(there, "leased")
    (there / leased / "lease").unlink()
    (there / leased / "lease").symlink_to(tmp_path / "mark")
    assert caches("rm", id).returncode == 5
    assert (there / id / "meta.json").exists()
    with pytest.raises(CacheError, match="its lease cannot be opened"):
        open_cache("leased", {}, directory=there)
    assert "it lacks its lease" in caches("verify").stdout
    assert caches("rm", leased).returncode == 0
    assert names(there) == [id] and (tmp_path / "mark").exists()


def test_what_one_user_puts_there_does_not_keep_others_from_looking(there: Path, caches: Cli) -> None:
    id = made(there)
    meta = json.loads((there / id / "meta.json").read_text())
    strange: dict[str, Any] = {
        "bytes": "many",
        "items": "\x1b[2J",
        "job": {},
        "built_at": [],
        "seconds": {},
        "user": 3,
        "source": {},
    }
    for number, (key, value) in enumerate(strange.items()):
        other = made(there, f"other{number}")
        (there / other / "meta.json").write_text(json.dumps({**meta, key: value}))
    fifo = made(there, "fifo")
    for name in ("meta.json", "lease", "SHA256SUMS"):
        (there / fifo / name).unlink()
        os.mkfifo(there / fifo / name)
    for words in (["ls"], ["ls", "--json"], *(["show", name] for name in names(there))):
        done = caches(*words, timeout=20)
        assert (done.returncode, done.stderr) == (0, "") and "\x1b" not in done.stdout
    assert caches("verify", timeout=20).returncode == 1
    assert caches("prune", "--unused", "0", timeout=20).returncode == 0
    assert names(there) == []


def test_a_folder_swapped_for_a_link_while_it_is_deleted_leads_nowhere(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at a folder and its opening somebody puts a link in its place."""
    id = made(there)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("years")
    real = os.open

    def swap(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if path == "data.zarr":
            (there / id / "data.zarr").rename(tmp_path / "away")
            (there / id / "data.zarr").symlink_to(tmp_path / "precious")
        return real(path, flags, *rest, **options)

    with layout.opened(str(there)) as directory:
        monkeypatch.setattr(os, "open", swap)
        with pytest.raises(CacheError, match="cannot delete"):
            deletion.delete(directory, id)
        monkeypatch.undo()
        assert (tmp_path / "precious" / "thesis.tex").read_text() == "years"
        assert (there / id / ".runners-cache").exists()  # still known to be ours
        deletion.delete(directory, id)
    assert names(there) == [] and (tmp_path / "precious" / "thesis.tex").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts something, which only root can")
def test_another_file_system_below_a_cache_is_left_alone(there: Path, caches: Cli) -> None:
    id = made(there)
    inside = there / id / "data.zarr" / "mounted"
    inside.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", inside], capture_output=True).returncode:
        pytest.skip("this machine does not let us mount")
    try:
        (inside / "thesis.tex").write_text("years")
        done = caches("rm", id)
        assert done.returncode == 1 and ("another file system" in done.stderr or "busy" in done.stderr)
        [left] = names(there)
        assert (there / left / "data.zarr" / "mounted" / "thesis.tex").read_text() == "years"
    finally:
        for place in there.rglob("mounted"):
            subprocess.run(["umount", place], check=True)
    assert caches("prune").stdout.startswith(f"deleted {left}")
    assert names(there) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root can")
def test_another_users_caches_are_theirs(there: Path, caches: Cli, tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o111)
    there.chmod(0o777)  # without the sticky bit the kernel would let them
    id = made(there)
    (there / ".trash-other-0123456789abcdef.00000000").mkdir()
    (there / "sealed-0123456789abcdef").mkdir(mode=0o700)
    for words in (["ls"], ["verify"], ["prune", "--keep", "1GiB", "--dry-run"], ["rm", id, "--dry-run"]):
        assert main.run(["--socket", "/nowhere/s", "caches", *words]) == 0  # and everything is loaded before the fork

    def as_nobody(*words: str) -> tuple[int, str, str]:
        """In a fork, as the interpreter may lie where nobody may go."""
        out, said = tmp_path / "out", tmp_path / "said"
        pid = os.fork()
        if pid == 0:
            code = 99
            try:
                for number, file in ((1, out), (2, said)):
                    os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
                sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
                os.setuid(65534)
                code = main.run(["--socket", "/nowhere/s", "caches", *words])
                sys.stderr.flush()
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), out.read_text(), said.read_text()

    assert as_nobody("prune", "--keep", "0") == (0, "0 caches left, 0 B\n", "")
    code, _out, said = as_nobody("rm", id)
    assert code == 4 and "another user's" in said
    assert len(names(there)) == 3
    code, out, _said = as_nobody("ls")
    assert code == 0 and out.splitlines()[1].startswith(id)
    assert as_nobody("verify")[0] == 0


# -- queued jobs -------------------------------------------------------------------------------------------------------


def test_what_a_queued_job_has_noted_is_kept(there: Path, cli: Cli, responder: Responder) -> None:
    by_name, by_id, free = made(there, "named"), made(there, "whole"), made(there, "free")
    jobs = [job_view(3, "queued", caches=["named", "absent"]), job_view(4, "running", caches=[by_id])]
    status = response({**status_view(jobs), "next": None})
    words = ("--socket", str(responder.path), "caches")
    responder.will(status)
    done = cli(*words, "prune", "--keep", "0", "--unused", "0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith(f"removed {free}")
    assert names(there) == sorted([by_name, by_id])
    done = cli(*words, "rm", by_name)
    assert done.returncode == 1
    assert done.stderr == f"runners-client: cannot remove {by_name}: it is used by queued job 3\n"
    shown = cli(*words).stdout.splitlines()
    assert shown[1].endswith("queued job 3") and shown[2].endswith(" job 4")
    assert any(b"state=queued" in request for request in responder.requests)


def test_a_daemon_that_cannot_say_stops_a_prune(there: Path, cli: Cli, responder: Responder) -> None:
    made(there)
    responder.will(response({"code": "unavailable", "detail": "cannot do that: no disk"}, "503 Service Unavailable"))
    done = cli("--socket", str(responder.path), "caches", "prune", "--keep", "0")
    assert done.returncode == 1 and "no disk" in done.stderr
    assert len(names(there)) == 1
    done = cli("--socket", str(responder.path), "caches")  # but to look is no harm
    assert done.returncode == 0 and "no disk" in done.stderr and done.stdout.splitlines()[-1].startswith("1 cache, ")


def test_the_daemons_cache_directory_is_used_where_the_environment_has_none(
    there: Path, cli: Cli, responder: Responder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CACHE_DIRECTORY")
    responder.will(response({**status_view([], directories={"CACHE_DIRECTORY": str(there)}), "next": None}))
    assert cli("--socket", str(responder.path), "caches").stdout == f"0 caches, 0 B, in {there}\n"
    done = cli("--socket", "/nowhere/s", "caches")
    assert done.returncode == 2 and "set CACHE_DIRECTORY" in done.stderr


# -- what it costs, and TAB ---------------------------------------------------------------------------------------------


def test_neither_zarr_nor_numpy_is_loaded(there: Path, caches: Cli) -> None:
    id = made(there)
    for words in (["ls"], ["show", id], ["verify"], ["prune"], ["rm", id]):
        done = caches(*words, env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"})
        loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "runners.cache.upkeep" in loaded
        assert not {one for one in loaded if one.split(".")[0] in ("zarr", "numpy", "asyncio", "rich", "yaml")}, words


def test_completion(there: Path) -> None:
    id = made(there)
    given = lambda line: [word for word, _about in offers(line.split(" "))]  # noqa: E731
    assert given("caches ") == ["ls", "show", "verify", "rm", "prune"]
    assert given("caches v") == ["verify"]
    assert given("caches rm ") == [id]
    assert given(f"caches rm {id} ") == []
    assert given("caches prune ") == []
    assert given("caches prune --k") == ["--keep"]
