"""The listening socket: whose it is, from its first moment on, and what it replaces."""

from __future__ import annotations

import grp
import logging
import os
import socket
import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from runners.errors import InvalidConfig, Unavailable
from runnersd.config import Config, Paths, SocketConfig
from runnersd.server.listen import BACKLOG, Listener, listeners

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file to another group")


def config_at(path: Path, *, system: bool = False, group: str | None = None) -> Config:
    paths = Paths(path.parent / "runnersd.yml", path, path.parent, path.parent)
    return replace(Config(), system=system, socket=SocketConfig(group=group), paths=paths)


def listen(path: Path, *, system: bool = False, group: str | None = None) -> Listener:
    [listener] = listeners(config_at(path, system=system, group=group), {})
    return listener


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> object:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_a_users_socket_and_its_folder_are_the_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "runners" / "d.sock"
    listener = listen(path)
    with listener.sock:
        assert (mode_of(path), mode_of(path.parent)) == (0o600, 0o700)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        assert sorted(entry.name for entry in path.parent.iterdir()) == ["d.sock"]
        listener.remove()
        assert not path.exists()


@needs_root
@pytest.mark.usefixtures("umask")
def test_roots_socket_is_its_groups_and_everybody_may_pass_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "runners" / "d.sock"
    listener = listen(path, system=True, group=grp.getgrgid(1).gr_name)
    with listener.sock:
        assert (mode_of(path), path.stat().st_gid, path.stat().st_uid) == (0o660, 1, 0)
        assert mode_of(path.parent) == 0o755


def test_a_group_that_does_not_exist_leaves_the_socket_to_its_owner(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        listener = listen(tmp_path / "d.sock", system=True, group="no-such-group")
    with listener.sock:
        assert mode_of(tmp_path / "d.sock") == 0o600
    assert "there is no group no-such-group: only root can connect" in caplog.text


def test_at_no_moment_can_somebody_else_connect(tmp_path: Path) -> None:
    """The file is watched by a busy thread while sockets come and go: whatever is seen is closed to others."""
    path = tmp_path / "d.sock"
    seen: set[int] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for entry in os.scandir(tmp_path):
                try:
                    seen.add(stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode))
                except FileNotFoundError:
                    continue

    before = os.umask(0)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(200):
            listen(path).sock.close()
    finally:
        done.set()
        watcher.join()
        os.umask(before)
    assert seen == {0o600}


def test_a_dead_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "d.sock"
    listen(path).sock.close()
    assert path.exists()
    with listen(path).sock, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_socket_that_somebody_answers_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "d.sock"
    with listen(path).sock:
        inode = path.stat().st_ino
        with pytest.raises(Unavailable, match="another daemon answers there"):
            listen(path)
        assert path.stat().st_ino == inode


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "d.sock"
    path.write_text("precious")
    with pytest.raises(InvalidConfig, match="something that is no socket is there"):
        listen(path)
    assert path.read_text() == "precious"


def test_another_daemons_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "d.sock"
    first = listen(path)
    first.sock.close()
    second = listen(path)
    with second.sock:
        first.remove()
        assert path.exists()


def test_a_path_that_linux_does_not_take_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / ("x" * (107 - len(os.fsencode(tmp_path)) - 1))
    with listen(path).sock, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    with pytest.raises(InvalidConfig, match=r"its 108 bytes are more than the 107 that Linux takes"):
        listen(path.with_name(path.name + "x"))


def test_a_folder_that_cannot_be_made_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidConfig, match=r"^cannot listen on .*: (Not a directory|File exists)"):
        listen(tmp_path / "file" / "runners" / "d.sock")


def test_systemds_sockets_are_served_and_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "systemd.sock"
    passed = socket.socket(socket.AF_UNIX)
    passed.bind(str(path))
    passed.listen(BACKLOG)
    [listener] = listeners(config_at(tmp_path / "own.sock"), {"runnersd.socket": passed.detach()})
    with listener.sock:
        assert listener.sock.getsockname() == str(path)
        listener.remove()
    assert path.exists() and not (tmp_path / "own.sock").exists()


def test_a_socket_of_the_wrong_kind_is_told_of() -> None:
    for kind, listening in ((socket.SOCK_STREAM, False), (socket.SOCK_DGRAM, False)):
        with socket.socket(socket.AF_UNIX, kind) as wrong:
            with pytest.raises(InvalidConfig, match="cannot listen on systemd's socket x"):
                listeners(Config(), {"x": wrong.fileno()})
            assert wrong.fileno() >= 0 and not listening
