"""A Docker engine of the tests' own: its own containerd, its own namespaces, its own folder, and nothing left behind."""

from __future__ import annotations

import http.client
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from engine import images
from engine.api import Answer, call
from engine.requirements import search_path
from harness.daemon import eventually

KEEPER = Path(__file__).with_name("keeper.py")
GPU_HOOK = Path(__file__).with_name("gpu_hook.py")
HOOK_NAME = "nvidia-container-runtime-hook"
LONGEST_SOCKET = 107  # bytes, of the kernel
#: As many fake cards as a machine of `FakeDriver.add_cards(4)`: their UUIDs, and the N of /dev/nvidiaN.
CARDS = {f"GPU-{place:08x}-0000-4000-8000-000000000000": place for place in range(4)}
CONTAINERD_CONFIG = """\
version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
"""


class Failed(AssertionError):
    """The engine did not do what was asked; the message has the end of its log."""


class Process:
    """One process by its number and a descriptor of it, so that no other can be hit."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    def alive(self) -> bool:
        """It has not ended."""
        return not select.select([self._descriptor], [], [], 0)[0]

    def end(self, number: int, patience: float) -> None:
        """Send it a signal, and wait until it is gone.

        Raises:
            Failed: it is still there after ``patience`` seconds.
        """
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)
        if not select.select([self._descriptor], [], [], patience)[0]:
            raise Failed(f"process {self.pid} is alive {patience:g} s after signal {number}")
        os.close(self._descriptor)


class Engine:
    """An engine in ``directory``: a context manager that starts it and, at the end, kills all that is left.

    With it go its containers, running or frozen, its mounts, namespaces and control groups, even when this process is
    killed. Its network leads nowhere. Without a ``bridge`` a container that asks for one has a loopback device only.
    """

    def __init__(
        self,
        directory: Path,
        *,
        config: Mapping[str, Any] | None = None,
        cards: Mapping[str, int] | None = None,
        bridge: bool = False,
    ) -> None:
        """``config`` is the engine's daemon.json; ``cards`` a GPU hook with these fake cards, uuid to minor."""
        self.directory = directory
        self.socket = directory / "docker.sock"
        self.config = dict(config or {})
        self.group = f"runners-test-{uuid.uuid4().hex[:12]}"
        self._hook = cards is not None
        self._bridge = bridge
        self._keeper: subprocess.Popen[str] | None = None
        self._containerd: Process | None = None
        self._dockerd: Process | None = None
        longest = len(os.fsencode(directory / "exec/libnetwork/0123456789ab.sock"))
        if longest > LONGEST_SOCKET:
            raise ValueError(f"{directory} is {longest - LONGEST_SOCKET} bytes too long for a socket in it")
        directory.mkdir(parents=True, exist_ok=True)
        if cards is not None:
            self.set_cards(cards)
            self._write_hook()

    # -- life

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start what does not run of containerd and dockerd, and wait until the engine answers."""
        if self._keeper is None:
            self._keeper = self._start_keeper()
        if self._containerd is None or not self._containerd.alive():
            self._start_containerd()
        if self._dockerd is None or not self._dockerd.alive():
            self._start_dockerd()
        self.wait_ready()

    def stop(self, patience: float = 60.0) -> None:
        """End dockerd as a service manager does, by SIGTERM. Containers end too unless `live-restore` is on."""
        self._running_dockerd().end(signal.SIGTERM, patience)
        self._dockerd = None

    def kill(self) -> None:
        """End dockerd, and only it, by SIGKILL. Its containers live on."""
        self._running_dockerd().end(signal.SIGKILL, 10.0)
        self._dockerd = None

    def restart(self) -> None:
        """`stop`, then `start`."""
        self.stop()
        self.start()

    def kill_containerd(self) -> None:
        """End containerd, and only it, by SIGKILL. `start` starts it again."""
        assert self._containerd is not None, "start it first"
        self._containerd.end(signal.SIGKILL, 10.0)
        self._containerd = None

    def close(self) -> None:
        """End everything at once. What it wrote into its directory stays."""
        if self._keeper is None:
            return
        keeper, self._keeper = self._keeper, None
        self._containerd = self._dockerd = None
        _, complaint = keeper.communicate(timeout=60)  # closes its input, which tells it
        if keeper.returncode != 0:
            raise Failed(f"the keeper left something behind: {complaint}")

    def wait_ready(self, patience: float = 60.0) -> None:
        """Wait until the engine answers.

        Raises:
            Failed: dockerd ended first.
        """

        def ready() -> bool:
            if not self._running_dockerd().alive():
                raise Failed(f"dockerd ended:\n{self.log()}")
            try:
                return call(self.socket, "GET", "/_ping").status == 200
            except (OSError, http.client.HTTPException):
                return False

        eventually("the Docker engine answers", ready, patience)

    # -- looks

    @property
    def pid(self) -> int:
        """dockerd's."""
        return self._running_dockerd().pid

    @property
    def containerd_pid(self) -> int:
        """containerd's."""
        assert self._containerd is not None, "start it first"
        return self._containerd.pid

    def pids(self, container: str) -> list[int]:
        """The processes of a container, by full id, as the kernel has them: whatever the engine believes."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(FileNotFoundError, ProcessLookupError):
                    if container in (entry / "cgroup").read_text():
                        found.append(int(entry.name))
        return sorted(found)

    def shim(self, container: str) -> int:
        """The process that holds a running container for containerd."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(FileNotFoundError, ProcessLookupError):
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    if b"containerd-shim" in words[0] and container.encode() in words:
                        return int(entry.name)
        raise AssertionError(f"no shim of {container}")

    def log(self, lines: int = 30) -> str:
        """The end of what dockerd and containerd logged."""
        logs = [self.directory / name for name in ("containerd.log", "dockerd.log")]
        return "".join(
            f"-- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) + "\n"
            for log in logs
            if log.exists()
        )

    # -- asks

    def api(self, method: str, path: str, body: Any = None, *, timeout: float = 60.0) -> Answer:
        """One request of Docker's API; ``path`` without a version."""
        return call(self.socket, method, path, body, timeout=timeout)

    def docker(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `docker` against this engine.

        Raises:
            Failed: with ``check``, it did not exit 0; the message has all that it said.
        """
        done = subprocess.run(
            ["docker", "-H", f"unix://{self.socket}", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": search_path(), "HOME": str(self.directory)},
        )
        if check and done.returncode != 0:
            raise Failed(f"docker {arguments} exited {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def import_image(
        self,
        name: str,
        changes: Sequence[str] = (),
        *,
        files: Mapping[str, bytes | str] | None = None,
        links: Mapping[str, str] | None = None,
        nodes: Mapping[str, tuple[int, int, str]] | None = None,
        shell: bool = True,
    ) -> str:
        """Make an image ``name:tag``, and return its id.

        ``changes`` are Dockerfile lines (ENV, USER, WORKDIR, ENTRYPOINT, CMD, LABEL...), ``files`` more executable
        files by path, ``links`` symbolic links, ``nodes`` devices; without a ``shell`` it has only the program of `images.PROGRAM`.
        """
        repository, _, tag = name.partition(":")
        query = [("fromSrc", "-"), ("repo", repository), ("tag", tag or "latest"), *(("changes", c) for c in changes)]
        archive = images.root(files, shell=shell, links=links, nodes=nodes)
        made = self.api("POST", f"/images/create?{urlencode(query)}", archive)
        if made.status != 200 or b'"error"' in made.body:
            raise Failed(f"cannot import {name}: {made.status} {made.body.decode()}")
        return str(self.api("GET", f"/images/{name}/json").json["Id"])

    def import_standard_images(self) -> None:
        """`images.SHELL` and `images.BARE`."""
        self.import_image(images.SHELL)
        self.import_image(images.BARE, shell=False)

    def remove_containers(self) -> None:
        """Every container, whatever it does.

        Raises:
            Failed: the engine cannot remove one.
        """
        for container in self.api("GET", "/containers/json?all=1").json:
            gone = self.api("DELETE", f"/containers/{container['Id']}?force=1&v=1")
            if gone.status not in (204, 404, 409):  # 409: its removal is already under way
                raise Failed(f"cannot remove {container['Names']}: {gone.status} {gone.body.decode()}")

    @contextmanager
    def leaving_no_containers(self) -> Iterator[Self]:
        """For a test on an engine that others use after it."""
        try:
            yield self
        finally:
            self.remove_containers()

    # -- the GPU hook

    def set_cards(self, cards: Mapping[str, int]) -> None:
        """Other fake cards, from the next start of a container on."""
        scratch = self.directory / "cards.new"
        scratch.write_text(json.dumps(dict(cards)))
        scratch.replace(self.directory / "cards.json")

    def hook_calls(self, container: str | None = None) -> list[dict[str, Any]]:
        """What the hook noted at each start (of a container): id, visible, capabilities, granted, unknown."""
        log = self.directory / "hook.log"
        notes = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [note for note in notes if container in (None, note["id"])]

    def _write_hook(self) -> None:
        hook = self.directory / "hook" / HOOK_NAME
        hook.parent.mkdir(exist_ok=True)
        log, cards = self.directory / "hook.log", self.directory / "cards.json"
        hook.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{GPU_HOOK}" "{cards}" "{log}" "$@"\n')
        hook.chmod(0o755)

    # -- processes

    def _running_dockerd(self) -> Process:
        assert self._dockerd is not None, "start it first"
        return self._dockerd

    def _start_keeper(self) -> subprocess.Popen[str]:
        isolated = ["unshare", "--mount", "--propagation", "slave", "--net", "--"]
        keeper = subprocess.Popen(
            [*isolated, sys.executable, "-I", str(KEEPER), self.group],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the tests, which then end it
        )
        assert keeper.stdout is not None
        if not keeper.stdout.readline():
            _, complaint = keeper.communicate()
            raise Failed(f"the engine's keeper exited {keeper.returncode}: {complaint}")
        return keeper

    def _start_containerd(self) -> None:
        base = self.directory
        (base / "containerd.toml").write_text(CONTAINERD_CONFIG)
        (base / "containerd.sock").unlink(missing_ok=True)
        self._containerd = self._run(
            "containerd",
            *("--config", base / "containerd.toml", "--address", base / "containerd.sock"),
            *("--root", base / "containerd", "--state", base / "containerd-state"),
        )
        containerd = self._containerd

        def listens() -> bool:
            if not containerd.alive():
                raise Failed(f"containerd ended:\n{self.log()}")
            return (base / "containerd.sock").exists()

        eventually("containerd listens", listens)

    def _start_dockerd(self) -> None:
        base = self.directory
        (base / "daemon.json").write_text(json.dumps(self.config))
        for stale in ("docker.pid", "docker.sock"):  # a killed engine's; its number may be somebody else's now
            (base / stale).unlink(missing_ok=True)
        self._dockerd = self._run(
            "dockerd",
            *("--config-file", base / "daemon.json", "--host", f"unix://{self.socket}"),
            *("--containerd", base / "containerd.sock", "--pidfile", base / "docker.pid"),
            *("--data-root", base / "data", "--exec-root", base / "exec"),
            *("--iptables=false", "--ip-forward=false", "--ip-masq=false"),
            *(() if self._bridge else ("--bridge", "none")),
            *("--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", f"/{self.group}"),
        )

    def _run(self, program: str, *arguments: object) -> Process:
        assert self._keeper is not None and self._keeper.stdin is not None and self._keeper.stdout is not None
        path = search_path()
        found = shutil.which(program, path=path)
        assert found is not None, f"{program} is not installed"
        folders = [str(self.directory / "hook"), path] if self._hook else [path]
        order = {
            "argv": [found, *map(str, arguments)],
            "env": {"PATH": os.pathsep.join(folders)},
            "log": str(self.directory / f"{program}.log"),
        }
        self._keeper.stdin.write(json.dumps(order) + "\n")
        self._keeper.stdin.flush()
        return Process(json.loads(self._keeper.stdout.readline())["pid"])
