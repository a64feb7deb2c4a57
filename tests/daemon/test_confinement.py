"""A host job of another user cannot open cards that it has not got, whatever it believes of CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from daemon.somebody import Somebody
from fake_nvml import FakeDriver
from harness.daemon import Daemon, eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root's daemon runs jobs of other users")

SOMEBODY = 4321
#: A node that is denied opens with EPERM. One of a card that is not there does not open either, and says something else.
FREE, DENIED = 0, errno.EPERM
#: Nobody else's cards, not even those of this test running beside itself.
MINORS = tuple(20 + 3 * (os.getpid() % 70) + place for place in range(3))
OPEN = """
import errno, os, sys
for node in sys.argv[1:]:
    try:
        os.open(node, os.O_RDWR)
    except OSError as error:
        print(error.errno if error.errno == errno.EPERM else 0)
    else:
        print(0)
"""
#: Has the daemon see control groups as a machine with version 2 alone has them, or none at all.
MOUNTED = {
    "as it is": "true",
    "version 2": "umount -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup",
    "none": "umount -l /sys/fs/cgroup",
}


@pytest.fixture(autouse=True)
def groups_removed() -> Iterator[None]:
    """None is there that an earlier daemon has made, and none stays."""
    _remove_groups()
    yield
    _remove_groups()


def _remove_groups() -> None:
    names = " -o ".join(f"-name 'runners-without-*{minor}*'" for minor in MINORS)
    remove = f"find /sys/fs/cgroup -depth -type d '(' {names} ')' -exec rmdir '{{}}' ';'"
    for mounted in ("as it is", "version 2"):
        script = f"{MOUNTED[mounted]} && {remove}"
        subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-c", script], check=True)


@pytest.fixture
def driver(fake_nvml: Callable[[int], FakeDriver]) -> FakeDriver:
    driver = fake_nvml(len(MINORS))
    for card, minor in zip(driver.cards, MINORS, strict=True):
        card.minor = minor
    driver.write()
    return driver


@pytest.fixture
def nodes() -> Iterator[list[str]]:
    """The cards' nodes, and nvidiactl's."""
    folder = Path(tempfile.mkdtemp(prefix="nodes-"))
    folder.chmod(0o755)
    made = []
    for minor in (*MINORS, 255):
        node = folder / f"nvidia{minor}"
        os.mknod(node, 0o666 | 0o020000, os.makedev(195, minor))
        node.chmod(0o666)
        made.append(str(node))
    yield made
    shutil.rmtree(folder)


@contextmanager
def daemon_where(mounted: str, folder: Path, driver: FakeDriver, **gpus: Any) -> Iterator[Daemon]:
    """A daemon that sees control groups so, and has seen the cards; others may connect."""
    daemon = Daemon(folder, config={"gpus": {"poll": 0.1, **gpus}}, env=driver.environment({}))
    script = f'{MOUNTED[mounted]} && exec "{daemon.python}" -m runnersd "$@"'
    daemon.python, daemon.program = "unshare", ["--mount", "--propagation", "private", "sh", "-c", script, "sh"]
    with daemon:
        daemon.socket.chmod(0o666)
        daemon.socket.parent.chmod(0o711)
        eventually("the cards are seen", lambda: len(daemon.client().gpus()) == len(MINORS))
        yield daemon


def opened(daemon: Daemon, id: int) -> list[int]:
    """By node: what opening it came to in the job."""
    (job,) = daemon.wait(id)
    said = daemon.run("logs", str(id))
    assert job["state"] == "succeeded", (job["reason"], said.stderr)
    return [int(line) for line in said.stdout.split()]


def job(nodes: Sequence[str], **keys: Any) -> dict[str, Any]:
    return {"name": "opens", "command": ["/usr/bin/python3", "-IS", "-c", OPEN, *nodes], **keys}


@pytest.mark.parametrize("mounted", ["as it is", "version 2"])
def test_it_can_open_its_own_cards_alone(mounted: str, tmp_path: Path, driver: FakeDriver, nodes: list[str]) -> None:
    with daemon_where(mounted, tmp_path / "d", driver) as daemon, Somebody(daemon, SOMEBODY) as somebody:
        ids = [
            somebody.submit(job(nodes, **keys), cwd="/")[0]
            for keys in ({}, {"num_gpus": 1, "gpus": ["1"]}, {"num_gpus": 2, "gpus": ["0", "2"]}, {"num_gpus": 3}, {})
        ]
        assert [opened(daemon, id) for id in ids] == [
            [DENIED, DENIED, DENIED, FREE],
            [DENIED, FREE, DENIED, FREE],
            [FREE, DENIED, FREE, FREE],
            [FREE, FREE, FREE, FREE],
            [DENIED, DENIED, DENIED, FREE],
        ]
        (ours,) = daemon.submit(job(nodes))
        assert opened(daemon, ours) == [FREE] * 4, "root's own jobs are not kept from anything"
        assert "are not kept from cards" not in daemon.log.read_text()


def test_root_is_not_kept_from_any_with_other_groups_than_the_daemon(
    tmp_path: Path, driver: FakeDriver, nodes: list[str]
) -> None:
    """A service of systemd's has none, root's shell has one."""
    groups = sorted({*os.getgroups(), 7})
    with daemon_where("as it is", tmp_path / "d", driver) as daemon, Somebody(daemon, 0, groups=groups) as root:
        (id,) = root.submit(job(nodes), cwd="/")
        assert opened(daemon, id) == [FREE] * 4


def test_what_it_leaves_running_cannot_open_them_either(tmp_path: Path, driver: FakeDriver, nodes: list[str]) -> None:
    with daemon_where("as it is", tmp_path / "d", driver) as daemon, Somebody(daemon, SOMEBODY) as somebody:
        command = ["setsid", "--wait", *job(nodes)["command"]]
        (id,) = somebody.submit({"name": "child", "command": command, "num_gpus": 1, "gpus": ["2"]}, cwd="/")
        assert opened(daemon, id) == [DENIED, DENIED, FREE, FREE]


def test_where_it_cannot_be_done_the_log_says_so_and_jobs_run(
    tmp_path: Path, driver: FakeDriver, nodes: list[str]
) -> None:
    with daemon_where("none", tmp_path / "d", driver) as daemon, Somebody(daemon, SOMEBODY) as somebody:
        ids = [somebody.submit(job(nodes), cwd="/")[0] for _ in range(2)]
        assert [opened(daemon, id) for id in ids] == [[FREE] * 4] * 2
        said = [line for line in daemon.log.read_text().splitlines() if "are not kept from cards" in line]
        assert len(said) == 1 and "no control group for devices" in said[0]


def test_it_is_not_done_where_the_configuration_says_so(tmp_path: Path, driver: FakeDriver, nodes: list[str]) -> None:
    where = daemon_where("as it is", tmp_path / "d", driver, confine=False)
    with where as daemon, Somebody(daemon, SOMEBODY) as somebody:
        (id,) = somebody.submit(job(nodes), cwd="/")
        assert opened(daemon, id) == [FREE] * 4
