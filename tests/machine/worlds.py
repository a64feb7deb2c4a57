"""Machines for the launcher's tests: the simulated one, and this one. Both understand the same few commands."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from runnersd.machine import Launcher, LaunchFailed
from runnersd.machine.host import record
from runnersd.machine.host.launcher import HostLauncher
from runnersd.machine.simulated import SimulatedLauncher, SimulatedMachine
from runnersd.model import Launch, Outcome, RunName, Submitter

DATABASE = f"test{os.getpid()}"  # tests side by side must not take each other's processes for strays


def run_name(job: int = 1, attempt: int = 1) -> RunName:
    return RunName(DATABASE, job, attempt)


class World(Protocol):
    """What a contract test needs of a machine."""

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


class HostWorld:
    """Real processes of this machine; everything below `tmp`."""

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
        name, *words = command.split()
        if name == "missing":
            return self.launch(["missing"], job=job)
        if name == "serve":
            with contextlib.suppress(FileExistsError):
                os.mkfifo(self._pipe(run_name(job)))
        script = {
            "true": "true",
            "exit": f"exit {' '.join(words)}",
            "raise": f"kill -{' '.join(words)} $$",
            "stubborn": "trap '' TERM INT USR1; echo ready; while :; do sleep 1; done",
            "serve": f"read code < {self._pipe(run_name(job))}; exit $code",
        }[name]
        return self.shell(f"echo >> {self.tmp}/starts.{job}; {script}", job=job, grace=grace)

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
        path = self.tmp / f"starts.{run.job}"
        return len(path.read_text()) if path.exists() else 0

    def finish(self, run: RunName, code: int) -> None:
        self._pipe(run).write_text(f"{code}\n")

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

    def _pipe(self, run: RunName) -> Path:
        return self.tmp / f"pipe.{run.job}"

    def _log(self, run: RunName, which: int) -> str:
        path = Path(record.names(str(self.state / "runs"), run.job, run.attempt)[which])
        return path.read_text() if path.exists() else ""
