"""One owner a card: what a lock file may be, who joins whom, and what survives a daemon."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runners.errors import InvalidConfig
from runnersd.machine.cards import CardLocks
from runnersd.model import CardOwner

CARD = "GPU-00000000-0000-4000-8000-000000000000"
OTHER = "GPU-00000001-0000-4000-8000-000000000000"
ME = CardOwner(pwd.getpwuid(os.geteuid()).pw_name, os.getpid())

Make = Callable[[str], CardLocks]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "locks"


@pytest.fixture
def daemon(folder: Path) -> Iterator[Make]:
    """Makes the card locks of a daemon of some state directory; all are closed in the end."""
    made: list[CardLocks] = []

    def make(state_id: str) -> CardLocks:
        made.append(CardLocks(folder, state_id))
        return made[-1]

    yield make
    for locks in made:
        locks.close()


def supervisor(locks: CardLocks, cards: list[str]) -> subprocess.Popen[bytes]:
    """A process that holds what a supervisor holds, and nothing else of ours."""
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=locks.descriptors(cards))


def open_to_all(folder: Path) -> None:
    """Let other users through to a folder of pytest's."""
    for parent in folder.parents:
        if parent.stat().st_uid == os.getuid() and not parent.stat().st_mode & stat.S_IXOTH:
            parent.chmod(parent.stat().st_mode | stat.S_IXGRP | stat.S_IXOTH)


def end(process: subprocess.Popen[bytes]) -> None:
    process.communicate(b"\n")


def test_the_first_daemon_owns_and_the_second_is_told_who(daemon: Make, folder: Path) -> None:
    first, second = daemon("a"), daemon("b")
    assert first.claim([CARD]) == {CARD: None}
    assert second.claim([CARD, OTHER]) == {CARD: ME, OTHER: None}
    assert first.claim([CARD, OTHER]) == {CARD: None, OTHER: ME}
    said = json.loads((folder / CARD).read_bytes())
    assert said == {
        "state": "a",
        "user": ME.user,
        "uid": os.geteuid(),
        "pid": os.getpid(),
        "host": os.uname().nodename,
    }


def test_the_folder_and_its_files_are_for_every_user_whatever_the_umask(daemon: Make, folder: Path) -> None:
    umask = os.umask(0o077)
    try:
        daemon("a").claim([CARD])
    finally:
        os.umask(umask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    assert stat.S_IMODE((folder / CARD).stat().st_mode) == 0o666
    assert [path.name for path in folder.parent.iterdir()] == ["locks"]


def test_a_card_that_is_let_go_is_free_for_anybody(daemon: Make) -> None:
    first, second = daemon("a"), daemon("b")
    first.claim([CARD])
    first.close()
    assert second.claim([CARD]) == {CARD: None}


def test_a_card_in_use_passes_on_to_the_next_daemon_of_its_state_directory_only(daemon: Make) -> None:
    dead, stranger, heir = daemon("a"), daemon("b"), daemon("a")
    dead.claim([CARD, OTHER])
    job = supervisor(dead, [CARD])
    dead.close()
    assert stranger.claim([CARD, OTHER]) == {CARD: ME, OTHER: None}
    assert heir.claim([CARD, OTHER]) == {CARD: None, OTHER: ME}
    end(job)
    assert stranger.claim([CARD]) == {CARD: ME}
    heir.close()
    assert stranger.claim([CARD]) == {CARD: None}


def test_the_heirs_jobs_keep_the_card_too(daemon: Make) -> None:
    dead, stranger, heir = daemon("a"), daemon("b"), daemon("a")
    dead.claim([CARD])
    old = supervisor(dead, [CARD])
    dead.close()
    heir.claim([CARD])
    new = supervisor(heir, [CARD])
    heir.close()
    end(old)
    assert stranger.claim([CARD]) != {CARD: None}
    end(new)
    assert stranger.claim([CARD]) == {CARD: None}


def test_the_heir_is_the_one_that_strangers_are_told_of(folder: Path, daemon: Make) -> None:
    """The pid in the file is the living daemon's, not that of the one whose jobs hold the lock."""
    program = (
        "import sys; from pathlib import Path; from runnersd.machine.cards import CardLocks; import subprocess\n"
        "locks = CardLocks(Path(sys.argv[1]), 'a'); locks.claim([sys.argv[2]])\n"
        "held = locks.descriptors([sys.argv[2]])\n"
        "print(subprocess.Popen(['sleep', '60'], pass_fds=held, stdout=subprocess.DEVNULL).pid, flush=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    dead = subprocess.Popen(
        [sys.executable, "-c", program, str(folder), CARD], env=environment, stdout=subprocess.PIPE, text=True
    )
    job = int(dead.communicate()[0])
    try:
        stranger = daemon("b")
        assert stranger.claim([CARD]) == {CARD: CardOwner(ME.user, dead.pid)}
        assert daemon("a").claim([CARD]) == {CARD: None}
        assert stranger.claim([CARD]) == {CARD: ME}
    finally:
        os.kill(job, 9)


def test_descriptors_are_those_of_cards_of_ours(daemon: Make) -> None:
    first, second = daemon("a"), daemon("b")
    first.claim([CARD])
    second.claim([CARD, OTHER])
    assert len(first.descriptors([CARD])) == 1
    with pytest.raises(KeyError):
        second.descriptors([OTHER, CARD])


def test_descriptors_are_not_inherited_by_accident(daemon: Make) -> None:
    locks = daemon("a")
    locks.claim([CARD])
    assert not os.get_inheritable(locks.descriptors([CARD])[0])


def test_claiming_again_opens_nothing(daemon: Make) -> None:
    locks = daemon("a")
    locks.claim([CARD, OTHER])
    before = os.listdir("/proc/self/fd")
    stranger = daemon("b")
    for _ in range(5):
        assert locks.claim([CARD, OTHER]) == {CARD: None, OTHER: None}
        stranger.claim([CARD, OTHER])
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 400, b"\xff" * 600, b'{"state": 1}\n', b"\0" * 512])
def test_an_owner_that_cannot_be_read_is_still_an_owner(daemon: Make, folder: Path, content: bytes) -> None:
    locks = daemon("a")
    folder.mkdir()
    (folder / CARD).write_bytes(content)
    with (folder / CARD).open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        assert locks.claim([CARD]) == {CARD: CardOwner(None, None)}
    assert locks.claim([CARD]) == {CARD: None}


def test_what_is_not_a_plain_file_is_somebody_elses(daemon: Make, folder: Path, tmp_path: Path) -> None:
    daemon("a").claim([OTHER])
    locks = daemon("b")
    target = tmp_path / "target"
    for make in (
        os.mkfifo,
        Path.mkdir,
        lambda path: path.symlink_to(target),
        lambda path: path.symlink_to(folder / OTHER),
    ):
        path = folder / CARD
        make(path)
        assert locks.claim([CARD]) == {CARD: CardOwner(ME.user, None)}
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    assert not target.exists()
    assert locks.claim([CARD]) == {CARD: None}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of other users, and be one of them")
def test_a_file_that_may_not_be_opened_is_its_owners(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o1777)
    (folder / CARD).touch(0o600)
    program = (
        "import os, sys; from pathlib import Path; from runnersd.machine.cards import CardLocks\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "locks = CardLocks(Path(sys.argv[1]), 'a'); print(locks.claim(sys.argv[2:]))\n"
    )
    open_to_all(folder)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run(
        [sys.executable, "-c", program, str(folder), CARD, OTHER],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert said.stdout.strip() == str({CARD: CardOwner("root", None), OTHER: None})
    assert f"cannot open the lock of card {CARD}" in said.stderr


def test_a_file_that_stays_unusable_is_told_of_once(
    daemon: Make, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir()
    (folder / CARD).mkdir()
    locks = daemon("a")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            locks.claim([CARD])
    assert len(caplog.records) == 1


def test_a_lock_file_that_is_removed_is_claimed_anew(
    daemon: Make, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = daemon("a"), daemon("b")
    first.claim([CARD])
    (folder / CARD).unlink()
    assert first.claim([CARD]) == {CARD: None}
    assert "was removed" in caplog.text
    assert second.claim([CARD]) == {CARD: ME}
    (folder / CARD).unlink()
    assert second.claim([CARD]) == {CARD: None}
    assert first.claim([CARD]) == {CARD: ME}


def test_no_cards_need_no_folder(daemon: Make, folder: Path) -> None:
    assert daemon("a").claim([]) == {}
    assert not folder.exists()


@pytest.mark.parametrize("kind", ["file", "below a file"])
def test_a_folder_that_cannot_be_one_is_an_error_that_says_what_to_do(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" if kind == "file" else tmp_path / "file" / "locks"
    with pytest.raises(InvalidConfig, match=rf"cannot own cards in {folder}: [A-Z][a-z ]+; set RUNNERS_LOCK_DIR"):
        CardLocks(folder, "a").claim([CARD])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make folders of other users, and be one of them")
def test_a_folder_of_somebody_else_is_an_error_too(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    open_to_all(folder)
    program = (
        "import os, sys; from pathlib import Path; from runnersd.machine.cards import CardLocks\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "CardLocks(Path(sys.argv[1]), 'a').claim(['GPU-0'])\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run([sys.executable, "-c", program, folder], env=environment, capture_output=True, text=True)
    assert "InvalidConfig" in said.stderr
    assert "no permission to make files in it; set RUNNERS_LOCK_DIR" in said.stderr


def test_slashes_of_old_mig_uuids_stay_in_the_folder(daemon: Make, folder: Path) -> None:
    assert daemon("a").claim(["MIG-GPU-1/7/0", "../x"]) == {"MIG-GPU-1/7/0": None, "../x": None}
    assert sorted(path.name for path in folder.iterdir()) == [".._x", "MIG-GPU-1_7_0"]


def test_nobody_slips_in_while_the_lock_changes_its_kind(
    daemon: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel drops LOCK_EX before it gives LOCK_SH. A rival that claims in between owns; the first finds out."""
    first, rival = daemon("a"), daemon("b")
    real = fcntl.flock
    said: list[object] = []

    def flock(descriptor: int, kind: int) -> None:
        if kind & fcntl.LOCK_SH and not said:
            real(descriptor, fcntl.LOCK_UN)
            said.append("rival is at it")
            said.append(rival.claim([CARD]))
        real(descriptor, kind)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", flock)
        assert first.claim([CARD]) == {CARD: ME}
    assert said[1] == {CARD: None}
    assert rival.claim([CARD]) == {CARD: None}
    rival.close()
    assert first.claim([CARD]) == {CARD: None}


def test_a_stranger_leaves_the_lock_alone(daemon: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even for an instant: somebody else's attempt at the same time would fail for it."""
    daemon("a").claim([CARD])
    tried: list[int] = []
    real = fcntl.flock

    def flock(descriptor: int, kind: int) -> None:
        tried.append(kind)
        real(descriptor, kind)

    stranger = daemon("b")
    monkeypatch.setattr(fcntl, "flock", flock)
    assert stranger.claim([CARD]) == {CARD: ME}
    assert tried == [fcntl.LOCK_EX | fcntl.LOCK_NB]


def test_a_file_removed_before_it_was_locked_is_no_lock(
    daemon: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks = daemon("a")
    real = fcntl.flock

    def flock(descriptor: int, kind: int) -> None:
        if kind & fcntl.LOCK_EX:
            (folder / CARD).unlink()
        real(descriptor, kind)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", flock)
        assert locks.claim([CARD]) == {CARD: CardOwner(None, None)}
    assert locks.claim([CARD]) == {CARD: None}


def test_an_heir_that_read_an_old_name_finds_out(daemon: Make, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name was its own when it looked, and is another's when it has the lock."""
    old, heir, rival = daemon("a"), daemon("a"), daemon("b")
    old.claim([CARD])
    job = supervisor(old, [CARD])
    old.close()
    real = fcntl.flock
    said: list[object] = []

    def flock(descriptor: int, kind: int) -> None:
        if kind & fcntl.LOCK_SH and not said:
            end(job)
            said.append("rival is at it")
            said.append(rival.claim([CARD]))
        real(descriptor, kind)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", flock)
        assert heir.claim([CARD]) == {CARD: ME}
    assert said[1] == {CARD: None}
