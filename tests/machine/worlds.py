"""Machines for the launcher's tests: the simulated one, this one, and a container engine. All understand the same few
commands."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from engine import SHELL, Engine
from harness.daemon import eventually
from runners.api import Code
from runnersd.machine import Launcher, LaunchFailed
from runnersd.machine.docker.launcher import DockerLauncher
from runnersd.machine.host import processes, record
from runnersd.machine.host.launcher import HostLauncher
from runnersd.machine.simulated import SimulatedLauncher, SimulatedMachine
from runnersd.model import ContainerSpec, Image, Launch, Mount, Outcome, RunName, Submitter

DATABASE = f"test{os.getpid()}"  # tests side by side must not take each other's processes for strays


def run_name(job: int = 1, attempt: int = 1) -> RunName:
    return RunName(DATABASE, job, attempt)


class World(Protocol):
    """What a contract test needs of a machine, and what its launcher says that others say otherwise."""

    lost: Code  #: how an attempt ended of which nothing is known
    missing: str  #: what is said of a command that is not there
    measures: bool  #: whether even the shortest attempt's peak memory is known at its end
    many: int  #: attempts at once that it takes in its stride
    moment: float  #: a small part of the time that a launch takes, in seconds

    async def daemon(self) -> Launcher:
        """A new daemon's launcher; the one before is gone, as after a crash."""

    def order(self, command: str, *, job: int = 1, grace: float = 5.0) -> Launch:
        """An attempt of one of the simulated machine's commands."""

    async def ready(self, run: RunName) -> None:
        """When a stubborn attempt has become so."""

    def starts(self, run: RunName) -> int:
        """How often its command was started."""

    def finish(self, run: RunName, code: int) -> None:
        """Have a `serve` end."""

    async def close(self) -> None:
        """Leave nothing behind."""


class SimulatedWorld:
    lost, missing, measures = Code.SUPERVISOR_LOST, "cannot run 'missing': No such program", True
    many, moment = 20, 0.0002

    def __init__(self, seed: int) -> None:
        self.machine = SimulatedMachine(4, seed=seed, latency=6)
        self.last: SimulatedLauncher | None = None

    async def daemon(self) -> SimulatedLauncher:
        await self.close()
        self.last = SimulatedLauncher(self.machine)
        await self.last.open()
        return self.last

    def order(self, command: str, *, job: int = 1, grace: float = 5.0) -> Launch:
        return Launch(run_name(job), tuple(command.split()), {}, "/", 0o022, None, (), grace, 1 << 20)

    async def ready(self, run: RunName) -> None:
        """It is, at once."""

    def starts(self, run: RunName) -> int:
        return self.machine.starts[run]

    def finish(self, run: RunName, code: int) -> None:
        self.machine.finish(run, code)

    async def close(self) -> None:
        if self.last is not None:
            await self.last.close()


def script_of(command: str, folder: Path, inside: str, job: int) -> str:
    """One of the simulated machine's commands for a shell, which finds ``folder`` at ``inside``."""
    name, *words = command.split()
    if name == "serve":
        with contextlib.suppress(FileExistsError):
            os.mkfifo(folder / f"pipe.{job}")
    script = {
        "true": "true",
        "exit": f"exit {' '.join(words)}",
        "raise": f"kill -{' '.join(words)} $$",
        "stubborn": "trap '' TERM INT USR1; echo ready; while :; do sleep 1; done",
        "serve": f"read code < {inside}/pipe.{job}; exit $code",
    }[name]
    return f"echo >> {inside}/starts.{job}; {script}"


def starts_in(folder: Path, run: RunName) -> int:
    """How often such a script was started."""
    path = folder / f"starts.{run.job}"
    return len(path.read_text()) if path.exists() else 0


class HostWorld:
    """Real processes of this machine; everything below `tmp`."""

    lost, missing, measures = Code.SUPERVISOR_LOST, "cannot run 'missing': No such program", True
    many, moment = 20, 0.0002

    def __init__(self, tmp: Path) -> None:
        self.tmp = tmp
        self.state = tmp / "state"
        self.last: HostLauncher | None = None

    async def daemon(self, **options: Any) -> HostLauncher:
        if self.last is not None:
            await self.last.close()
        self.last = HostLauncher(self.state, **options)
        await self.last.open()
        return self.last

    def order(self, command: str, *, job: int = 1, grace: float = 5.0) -> Launch:
        if command == "missing":
            return self.launch(["missing"], job=job)
        return self.shell(script_of(command, self.tmp, str(self.tmp), job), job=job, grace=grace)

    def shell(self, script: str, **options: Any) -> Launch:
        return self.launch(["sh", "-c", script], **options)

    def launch(
        self, argv: Sequence[str], *, job: int = 1, attempt: int = 1, grace: float = 5.0, log_max: int = 1 << 30,
        environment: dict[str, str] | None = None, cwd: Path | str | None = None, umask: int = 0o022,
        submitter: Submitter | None = None, gpus: tuple[str, ...] = (),
    ) -> Launch:  # fmt: skip
        environment = {"PATH": os.defpath} if environment is None else environment
        where = str(cwd or self.tmp)
        return Launch(run_name(job, attempt), tuple(argv), environment, where, umask, submitter, gpus, grace, log_max)

    async def ready(self, run: RunName) -> None:
        await self.until(lambda: self.out(run).endswith("ready\n"))

    def starts(self, run: RunName) -> int:
        return starts_in(self.tmp, run)

    def finish(self, run: RunName, code: int) -> None:
        (self.tmp / f"pipe.{run.job}").write_text(f"{code}\n")

    def out(self, run: RunName) -> str:
        return self._log(run, 1)

    def err(self, run: RunName) -> str:
        return self._log(run, 2)

    def record(self, run: RunName) -> Path:
        return Path(record.names(str(self.state / "runs"), run.job, run.attempt)[0])

    async def until(self, condition: Callable[[], object], limit: float = 20.0) -> None:
        end = time.monotonic() + limit
        while not condition():
            assert time.monotonic() < end, "it did not come true"
            await asyncio.sleep(0.005)

    async def run(self, launch: Launch) -> Outcome:
        """Launch it on the last daemon, and its outcome."""
        assert self.last is not None
        await self.last.launch(launch)
        return await self.last.wait(launch.run)

    async def run_or_fail(self, launch: Launch) -> Outcome:
        """Its outcome, also if it cannot be launched."""
        assert self.last is not None
        with contextlib.suppress(LaunchFailed):
            await self.last.launch(launch)
        return await self.last.wait(launch.run)

    async def close(self) -> None:
        """Kill whatever a test left running, by its record."""
        launcher = await self.daemon()
        for path in (self.state / "runs").glob("*/*.run"):
            job, attempt, _ = path.name.split(".")
            await launcher.stop(run_name(int(job), int(attempt)), at_once=True)
            await asyncio.wait_for(launcher.wait(run_name(int(job), int(attempt))), 20)
        await launcher.close()

    def _log(self, run: RunName, which: int) -> str:
        path = Path(record.names(str(self.state / "runs"), run.job, run.attempt)[which])
        return path.read_text() if path.exists() else ""


class DockerWorld:
    """Containers of a real engine, behind gates or not; the scripts' files are in `tmp`."""

    lost, measures = Code.CONTAINER_LOST, False
    many, moment = 6, 0.03

    def __init__(self, tmp: Path, engine: Engine, *, gated: bool) -> None:
        self.tmp, self.engine, self.gated = tmp, engine, gated
        self.missing = "cannot run missing: no such program" if gated else "cannot run missing: No such file"
        self.state = tmp / "state"
        self.work = tmp / "work"
        self.work.mkdir()
        self.image = str(engine.api("GET", f"/images/{SHELL}/json").json["Id"])
        self.last: DockerLauncher | None = None

    async def daemon(self) -> DockerLauncher:
        if self.last is not None:
            await self.last.close()
        self.last = DockerLauncher(
            self.state, str(self.engine.socket), DATABASE, boot=processes.boot_id(), gated=self.gated
        )
        await self.last.open()
        return self.last

    def order(self, command: str, *, job: int = 1, grace: float = 5.0) -> Launch:
        argv = ["missing"] if command == "missing" else ["sh", "-c", script_of(command, self.work, "/work", job)]
        return self.launch(argv, job=job, grace=grace)

    def launch(self, argv: Sequence[str], *, job: int = 1, grace: float = 5.0, **spec: Any) -> Launch:
        mounts = (Mount(str(self.work), "/work"),)
        container = ContainerSpec(Image(self.image, SHELL), 0, 0, mounts=mounts, network="none", **spec)
        return Launch(
            run_name(job), tuple(argv), {"PATH": "/bin"}, "/work", 0o022, None, (), grace, 1 << 20, container
        )  # fmt: skip

    async def ready(self, run: RunName) -> None:
        out = Path(record.names(str(self.state / "runs"), run.job, run.attempt)[1])
        end = time.monotonic() + 20
        while not (out.exists() and out.read_text().endswith("ready\n")):
            assert time.monotonic() < end, "it did not become ready"
            await asyncio.sleep(0.005)

    def starts(self, run: RunName) -> int:
        return starts_in(self.work, run)

    def finish(self, run: RunName, code: int) -> None:
        (self.work / f"pipe.{run.job}").write_text(f"{code}\n")

    async def close(self) -> None:
        """End what a test left running, by its record, and see that the engine has nothing of it any more."""
        launcher = await self.daemon()
        async with asyncio.timeout(20):  # what is forgotten before the engine was reached is removed by a later sweep
            while launcher.state.problem is not None:
                await asyncio.sleep(0.005)
        for path in (self.state / "runs").glob("*/*.run"):
            job, attempt, _ = path.name.split(".")
            run = run_name(int(job), int(attempt))
            await launcher.stop(run, at_once=True)
            await asyncio.wait_for(launcher.wait(run), 20)
            await launcher.forget(run)
        await launcher.close()
        # A removal that the launcher's own sweep had begun goes on in the engine.
        await asyncio.to_thread(eventually, "no container is left", self._none_left, 10)
        assert not list(self.state.glob("gates/*")), "gates are left"

    def _none_left(self) -> bool:
        return not self.engine.api("GET", "/containers/json?all=1").json
