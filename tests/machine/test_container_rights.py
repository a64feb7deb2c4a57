"""Whose rights a container's processes are to have, and whether its first one has them."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.daemon import eventually
from runnersd.environment import PRIVILEGED_GROUPS
from runnersd.machine.docker.rights import NOBODY, difference, sifted

EVE, TEAM = 61001, 61003
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for a moment")
HERE = [name for name in PRIVILEGED_GROUPS if name in {group.gr_name for group in grp.getgrall()}]


@pytest.mark.parametrize("name", HERE)
def test_no_group_stays_that_could_have_the_machine(name: str) -> None:
    number = grp.getgrnam(name).gr_gid
    assert sifted(EVE, EVE, (TEAM, number, EVE, TEAM, 0)) == (EVE, (TEAM,))
    # As after `newgrp docker`; eve has no account, so that no group of her own is known.
    assert sifted(EVE, number, (TEAM,)) == (NOBODY, (TEAM,))
    assert sifted(0, 0, (number,)) == (0, ())


def test_whoever_has_an_account_falls_back_to_its_group() -> None:
    account = next(user for user in pwd.getpwall() if user.pw_uid and user.pw_gid not in (0, 4))
    assert sifted(account.pw_uid, 0, ()) == (account.pw_gid, ())


@contextmanager
def process(*options: str) -> Iterator[int]:
    """One that has dropped what a container's does, but for these options."""
    everything = [
        "--reuid=61001", "--regid=61001", "--groups=61003", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs",
    ]  # fmt: skip
    kept = [one for one in everything if one.partition("=")[0] not in {option.partition("=")[0] for option in options}]
    extra = [option for option in options if option.partition("=")[2] != "as-it-is"]
    child = subprocess.Popen(["setpriv", *kept, *extra, "sleep", "60"])
    try:
        eventually("it sleeps", lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n")
        yield child.pid
    finally:
        child.kill()
        child.wait()


@needs_root
@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--reuid=61002", "its uid is 61002"),
        ("--regid=61002", "its gid is 61002"),
        ("--groups=61003,42", "its groups are"),
        ("--groups=42", "its groups are 42"),
        ("--bounding-set=as-it-is", "it has capabilities (CapBnd"),
        ("--no-new-privs=as-it-is", "it may gain privileges"),
    ],
)
def test_every_right_too_many_is_noticed(option: str, words: str) -> None:
    with process(option) as pid:
        said = difference(pid, EVE, EVE, (TEAM,))
    assert said is not None and words in said


@needs_root
def test_the_right_ones_are_right() -> None:
    with process() as pid:
        assert difference(pid, EVE, EVE, (TEAM,)) is None
        assert difference(pid, EVE, EVE, (TEAM, EVE)) is None
        assert difference(pid, EVE, EVE, ()) is not None
    with process("--groups=61003,61001") as pid:
        assert difference(pid, EVE, EVE, (TEAM,)) is None
    with pytest.raises(OSError):
        difference(pid, EVE, EVE, (TEAM,))
