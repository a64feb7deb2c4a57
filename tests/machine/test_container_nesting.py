"""Mounts within one another: nothing is made on the host that the submitter could not have made."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runnersd.machine import LaunchFailed
from runnersd.machine.docker.asuser import as_user
from runnersd.machine.docker.nesting import INIT, arranged, astray, landed
from runnersd.machine.docker.paths import resolve
from runnersd.model import Mount

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for a moment")
EVE = 61001


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that every user can reach."""
    with tempfile.TemporaryDirectory(prefix="nest-") as made:
        path = Path(made)
        path.chmod(0o755)
        for name in ("code", "data", "big"):
            (path / name).mkdir()
            (path / name).chmod(0o755)
        yield path


def laid(*pairs: tuple[object, str], uid: int | None = None, read_only: bool = False) -> dict[str, str]:
    """Where what comes to lie, by target."""
    mounts = [Mount(str(source), target, read_only and place > 0) for place, (source, target) in enumerate(pairs)]

    def work() -> dict[str, str]:
        return {one.mount.target: one.mount.source for one in arranged(resolve(mounts, allowed=(), private=()))}

    return as_user(work, uid, uid or 0)


def test_mounts_beside_one_another_stay_as_they_are(folder: Path) -> None:
    code, data = str(folder / "code"), str(folder / "data")
    assert laid((code, "/workspace"), (data, "/data"), (data, "/datas")) == {
        "/workspace": code, "/data": data, "/datas": data,
    }  # fmt: skip


def test_what_another_shows_at_its_place_anyway_is_left_out(folder: Path) -> None:
    (folder / "data" / "a" / "cache").mkdir(parents=True)
    data, cache = folder / "data", folder / "data" / "a" / "cache"
    assert laid((cache, str(cache)), (data, str(data))) == {str(data): str(data)}
    # Read-only is another thing.
    assert set(laid((data, str(data)), (cache, str(cache)), read_only=True)) == {str(data), str(cache)}


def test_a_missing_place_is_made_by_the_submitter_and_as_theirs(folder: Path) -> None:
    uid = EVE if os.geteuid() == 0 else None
    if uid is not None:
        os.chown(folder / "code", uid, uid)
    (folder / "big" / "file").write_text("x")
    (folder / "big" / "file").chmod(0o644)

    mounts = laid((folder / "code", "/workspace"), (folder / "data", "/workspace/a/b"),
                  (folder / "big" / "file", "/workspace/c/d"), uid=uid)  # fmt: skip

    assert set(mounts) == {"/workspace", "/workspace/a/b", "/workspace/c/d"}
    assert (folder / "code" / "a" / "b").is_dir() and (folder / "code" / "c" / "d").read_text() == ""
    for made in ("a", "a/b", "c", "c/d"):
        assert (folder / "code" / made).stat().st_uid == (os.geteuid() if uid is None else uid)


@needs_root
def test_in_a_directory_that_they_only_read_nothing_is_made(folder: Path) -> None:
    with pytest.raises(LaunchFailed, match="its place in .*/code cannot be made by the submitter: Permission denied"):
        laid((folder / "code", "/workspace"), (folder / "data", "/workspace/evil"), uid=EVE)
    hidden = folder / "code" / "hidden"
    hidden.mkdir(mode=0o700)
    with pytest.raises(LaunchFailed, match="cannot be made by the submitter"):
        laid((folder / "code", "/workspace"), (folder / "data", "/workspace/hidden/evil"), uid=EVE)
    assert not (folder / "code" / "evil").exists() and not list(hidden.iterdir())


def test_a_place_of_another_kind_is_refused(folder: Path) -> None:
    (folder / "code" / "file").write_text("")
    os.mkfifo(folder / "code" / "pipe")
    for name in ("file", "pipe"):
        with pytest.raises(LaunchFailed, match="something else has its place"):
            laid((folder / "code", "/workspace"), (folder / "data", f"/workspace/{name}"))
    (folder / "code" / "folder").mkdir()
    with pytest.raises(LaunchFailed, match="something else has its place"):
        laid((folder / "code", "/workspace"), (folder / "code" / "file", "/workspace/folder"))


def test_what_is_behind_a_link_within_another_is_put_where_the_link_leads(folder: Path) -> None:
    (folder / "data" / "link").symlink_to(folder / "big")
    data, big = str(folder / "data"), str(folder / "big")
    assert laid((data, data), (f"{data}/link", f"{data}/link")) == {data: data, big: big}
    assert laid((data, data), (f"{data}/link", f"{data}/link"), (big, big)) == {data: data, big: big}
    (folder / "data" / "usr").symlink_to("/usr")
    with pytest.raises(LaunchFailed, match="a link leads to it there; name the directory itself"):
        laid((data, data), ("/usr", f"{data}/usr"))
    with pytest.raises(LaunchFailed, match=f"{folder}/code is there|{big} is there"):
        laid((data, data), (f"{data}/link", f"{data}/link"), (folder / "code", big))


def test_no_link_leads_a_place_into_what_is_the_systems(folder: Path) -> None:
    for target in ("/etc", "/proc/self/cwd", "../../../etc", "/nowhere"):
        link = folder / "code" / "out"
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        mounts = laid((folder / "code", "/workspace"), (folder / "data", "/workspace/out/evil"))
        # It is put where it itself is: whatever the link says, nothing is made there.
        assert mounts == {"/workspace": str(folder / "code"), str(folder / "data"): str(folder / "data")}


# -- links in an image ---------------------------------------------------------------------------------------------------


def of_image(*targets: str, links: dict[str, str] | None = None, volumes: tuple[str, ...] = ()) -> str | None:
    home = "/home/eve"
    paths = ["/.runners", INIT, home, *targets, *volumes]
    leads = {path: (links or {}).get(path, path) for path in paths}
    return astray(leads, targets, home, volumes)


def test_an_image_without_links_is_right() -> None:
    assert of_image("/workspace", "/storage/data", "/data", "/home/eve/data") is None
    assert of_image("/workspace", "/workspace/sub") is None


@pytest.mark.parametrize(
    ("links", "volumes", "words"),
    [
        ({"/storage/data": "/workspace/evil"}, (), "/storage/data leads to /workspace/evil in it"),
        ({"/storage/data": "/workspace"}, (), "/storage/data leads to /workspace in it, where it meets /workspace"),
        ({"/home/eve": "/workspace/eve"}, (), "/home/eve leads to /workspace/eve"),
        ({"/workspace": "/data/x"}, (), "/workspace leads to /data/x in it, where it meets /data"),
        ({"/.runners": "/foo"}, (), "a link at /.runners"),
        ({"/storage/data": "/.runners"}, (), "would cover /.runners"),
        ({"/storage/data": "/"}, (), "would cover /.runners"),
        ({"/storage/data": "/.runners/go"}, (), "where the gate is"),
        ({"/storage/data": "/sbin"}, (), "would cover /sbin/docker-init"),
        ({INIT: "/usr/sbin/docker-init"}, ("/usr",), "/usr would cover /sbin/docker-init"),
        ({INIT: "/opt/x/docker-init", "/v": "/opt"}, ("/v",), "/v would cover /sbin/docker-init"),
        ({}, ("/sbin",), "/sbin would cover /sbin/docker-init"),
        ({}, (INIT,), "would cover /sbin/docker-init"),
        ({}, ("/.runners/go",), "/.runners/go leads to"),
        ({}, ("/workspace/cache",), "a volume at /workspace/cache, which lies in /workspace"),
        ({"/v": "/workspace/evil"}, ("/v",), "/v leads to /workspace/evil"),
        ({"/v": "/home/eve/x"}, ("/v",), "/v leads to /home/eve/x"),
    ],
)
def test_every_link_and_volume_that_leads_astray_is_refused(
    links: dict[str, str], volumes: tuple[str, ...], words: str
) -> None:
    said = of_image("/workspace", "/storage/data", "/data", links=links, volumes=volumes)
    assert said is not None and words in said, said


@pytest.mark.parametrize(
    ("links", "volumes"),
    [
        ({"/storage/data": "/mnt/data"}, ()),
        ({INIT: "/usr/sbin/docker-init"}, ()),
        ({"/home/eve": "/var/home/eve"}, ()),
        ({}, ("/workspace", "/data", "/home/eve")),
        ({}, ("/var/lib/postgresql", "/home", "/storage")),
        ({"/v": "/mnt/v"}, ("/v", "/home/eve/x")),
    ],
)
def test_links_and_volumes_that_lead_nowhere_of_ours_are_let_be(
    links: dict[str, str], volumes: tuple[str, ...]
) -> None:
    assert of_image("/workspace", "/storage/data", "/data", links=links, volumes=volumes) is None


def test_within_a_mount_the_images_links_are_hidden() -> None:
    leads = {"/workspace": "/code", "/workspace/a": "/etc", "/data": "/data"}
    assert landed(leads, list(leads)) == {"/workspace": "/code", "/workspace/a": "/code/a", "/data": "/data"}
