"""A booted systemd in a container: a PID 1 of its own, no network, its disk in memory, gone with whoever made it."""

from __future__ import annotations

import os
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self, TypeVar

T = TypeVar("T")

#: Runs as the first process of a mount and a pid namespace, so that no mount and no process outlives it. $1: a scratch
#: directory, $2: the tree to boot, $3: the Python packages; the rest: control groups of its own, or one container's
#: systemd would clean up another's.
BOOT = """
scratch=$1 tree=$2 packages=$3
shift 3
for group in "$@"; do echo 0 >"$group/cgroup.procs"; done
mount -t tmpfs -o size=8G,mode=0755 tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
mount -t overlay -o "lowerdir=$tree,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$scratch/root"
mkdir -p /run/systemd/nspawn
mount -t tmpfs tmpfs /run/systemd/nspawn
exec systemd-nspawn --quiet --directory="$scratch/root" --boot --register=no --keep-unit --private-network \
    --console=pipe --machine=runners-test --bind-ro="$packages:/opt/runners/packages"
"""
#: What a login gives everybody.
ENVIRONMENT = {"PATH": "/opt/runners/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


def until(what: str, attempt: Callable[[], T | None], *, timeout: float = 20.0, evidence: Callable[[], str] = str) -> T:
    """Call ``attempt`` until what it returns is true, and return that.

    Raises:
        AssertionError: it was not within ``timeout`` seconds; the message has ``what`` and the ``evidence``.
    """
    deadline = time.monotonic() + timeout
    while not (found := attempt()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what}\n{evidence()}")
        time.sleep(0.05)
    return found


class Container:
    """One booted system: a context manager that boots on entry and leaves nothing behind.

    ``root`` is its file system as this machine sees it; ``init`` its first process, by this machine's number.
    """

    def __init__(self, tree: Path, scratch: Path) -> None:
        """``tree`` is booted without being written to; ``scratch``, an empty directory, is what it is mounted on."""
        self._tree = tree
        self._scratch = scratch
        self._log = scratch.with_name(scratch.name + ".log")
        self._groups = [group / f"runners-test-{os.getpid()}-{id(self)}" for group in _own_groups()]
        self._started: list[subprocess.Popen[str]] = []
        self.init = 0

    @property
    def root(self) -> Path:
        """Its file system, with all that is mounted in it."""
        return Path(f"/proc/{self.init}/root")

    def __enter__(self) -> Self:
        for group in self._groups:
            group.mkdir()
        arguments = [str(self._scratch), str(self._tree), sysconfig.get_path("purelib"), *map(str, self._groups)]
        # The kernel ends unshare when this process dies in whatever way, then its child, and so the whole namespace.
        isolated = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "unshare",
            "--kill-child",
            "--fork",
            "--pid",
            "--mount-proc",
            "--",
        ]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*isolated, "sh", "-euc", BOOT, "sh", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self.init = until("a first process", self._first_process, evidence=self._log.read_text)
            until("systemd has booted", self._booted, timeout=60, evidence=self._log.read_text)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for first in _children(self._process.pid) or [self._process.pid]:
            os.kill(first, signal.SIGKILL)  # the whole namespace goes with its first process
        self._process.wait(timeout=30)
        for client in self._started:
            client.communicate(timeout=30)
        for group in self._groups:
            for directory, _subdirectories, _files in os.walk(group, topdown=False):
                Path(directory).rmdir()

    def command(
        self, *argv: str, user: str = "root", cwd: str = "/", environment: Mapping[str, str] | None = None
    ) -> list[str]:
        """The argument vector that runs ``argv`` inside, as ``user`` with all the groups of that user."""
        home = "/root" if user == "root" else f"/home/{user}"
        variables = {**ENVIRONMENT, "HOME": home, "USER": user, "LOGNAME": user, **(environment or {})}
        enter = ["nsenter", f"--target={self.init}", "-m", "-u", "-i", "-n", "-p", "-C"]
        environ = ["env", "-i", f"--chdir={cwd}", *(f"{name}={value}" for name, value in variables.items())]
        become = [] if user == "root" else ["runuser", "-u", user, "--"]
        return [*enter, *environ, *become, *argv]

    def run(
        self,
        *argv: str,
        user: str = "root",
        cwd: str = "/",
        environment: Mapping[str, str] | None = None,
        check: bool = True,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``argv`` inside and wait for it.

        Raises:
            AssertionError: with ``check``, it did not exit 0; the message has all that it said.
        """
        done = subprocess.run(
            self.command(*argv, user=user, cwd=cwd, environment=environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{argv} exited {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def start(self, *argv: str, user: str = "root", cwd: str = "/") -> subprocess.Popen[str]:
        """Start ``argv`` inside, its output in pipes, and do not wait."""
        started = subprocess.Popen(
            self.command(*argv, user=user, cwd=cwd),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(started)
        return started

    def properties(self, unit: str, *names: str) -> dict[str, str]:
        """What `systemctl show` says of a unit."""
        shown = self.run("systemctl", "show", unit, f"--property={','.join(names)}").stdout
        return dict(line.split("=", 1) for line in shown.splitlines())

    def journal(self, unit: str, lines: int = 60) -> str:
        """The end of what a unit, and systemd about it, logged."""
        return self.run(
            "journalctl", f"--unit={unit}", f"--lines={lines}", "--no-pager", "--output=short-precise"
        ).stdout

    def _first_process(self) -> int | None:
        """The descendant that is number 1 in its own namespace and runs systemd."""
        self._check_up()
        below = _children(self._process.pid)
        for pid in below:  # grows while it is walked
            below += _children(pid)
            status = _status(pid)
            if status.get("Name", "").strip() == "systemd" and status["NSpid"].split()[-1] == "1":
                return pid
        return None

    def _booted(self) -> bool:
        self._check_up()
        return self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded")

    def _check_up(self) -> None:
        code = self._process.poll()
        assert code is None, f"systemd-nspawn exited {code}: {self._log.read_text()}"


def _children(pid: int) -> list[int]:
    return [int(child) for child in _read(f"/proc/{pid}/task/{pid}/children").split()]


def _status(pid: int) -> dict[str, str]:
    """/proc/PID/status; empty once the process is gone."""
    return dict(line.split(":", 1) for line in _read(f"/proc/{pid}/status").splitlines())


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""  # it ended meanwhile


def _own_groups() -> list[Path]:
    """This process's control groups that a systemd below it would manage: version 2's, or both of a hybrid set-up."""
    groups = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if controllers == "name=systemd":
            groups.append(Path("/sys/fs/cgroup/systemd") / path.lstrip("/"))
        elif number == "0":
            unified = Path("/sys/fs/cgroup/unified")
            groups.append((unified if unified.is_dir() else Path("/sys/fs/cgroup")) / path.lstrip("/"))
    return [group for group in groups if (group / "cgroup.procs").exists()]
