"""A real server over a real engine and store, on a socket in a temporary folder; only the machine is simulated."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from runnersd.config import Config, Paths
from runnersd.engine import Engine, Machine
from runnersd.machine.simulated import SimulatedCards, SimulatedGpus, SimulatedLauncher, SimulatedMachine
from runnersd.model import RunName
from runnersd.server import Server, serve
from runnersd.store import Store
from runnersd.telemetry.recording import Recorder

DEFAULTS = Config()


@dataclass
class Answer:
    """What the daemon said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Served:
    """A server that listens, and a client of it."""

    config: Config
    machine: SimulatedMachine
    store: Store
    engine: Engine
    server: Server
    session: aiohttp.ClientSession
    folder: Path

    @property
    def socket(self) -> Path:
        assert self.config.paths is not None
        return self.config.paths.socket

    async def ask(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request. ``body`` is bytes as they are, anything else as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        async with self.session.request(method, f"http://d{path}", data=data, headers=headers) as response:
            return Answer(response.status, response.headers, await response.read())

    async def submit(self, *commands: str, **keys: Any) -> list[int]:
        """Queue a pipeline with these commands; the ids of its jobs."""
        answer = await self.ask("POST", "/v1/pipelines", submission(*commands, **keys))
        assert answer.status == 201, answer.body
        return [job["id"] for job in answer.json["jobs"]]

    def run(self, job: int, attempt: int = 1) -> RunName:
        """What the machine knows a job's attempt by."""
        return RunName(self.store.database, job, attempt)

    async def until(self, what: Callable[[], bool], longest: float = 10.0) -> None:
        """Wait for a condition of this process."""
        async with asyncio.timeout(longest):
            while not what():
                await asyncio.sleep(0.005)

    async def until_state(self, job: int, *states: str) -> None:
        """Wait until the daemon says that a job is in one of these states."""
        async with asyncio.timeout(10.0):
            while (await self.ask("GET", f"/v1/jobs/{job}")).json["state"] not in states:
                await asyncio.sleep(0.005)

    def write_log(self, job: int, content: bytes, *, stream: str = "out", attempt: int = 1) -> Path:
        """Add to a job's output, as its supervisor would."""
        folder = self.folder / "logs"
        folder.mkdir(exist_ok=True)
        path = folder / f"{job}.{attempt}.{stream}"
        with path.open("ab") as file:
            file.write(content)
        return path


def submission(
    *commands: str, env: Mapping[str, str] | None = None, job: Mapping[str, Any] | None = None, **keys: Any
) -> Any:
    """A submission as it travels: one job for each command, named a to z and from there on j26, j27..."""
    jobs = [
        {"name": chr(ord("a") + number) if number < 26 else f"j{number}", "command": command, **(job or {})}
        for number, command in enumerate(commands)
    ]
    return {"name": "test", "jobs": jobs, "cwd": "/", "env": dict(env or {}), **keys}


@asynccontextmanager
async def served(
    folder: Path, config: Config = DEFAULTS, *, gpus: int = 2, recorder: Recorder | None = None
) -> AsyncIterator[Served]:
    """A server in ``folder``, until the context ends."""
    paths = Paths(folder / "runnersd.yml", folder / "d.sock", folder / "state", folder / "locks")
    config = replace(config, paths=config.paths or paths)
    machine = SimulatedMachine(gpus)
    store = await Store.open(folder / "runnersd.db", clock=time.time, boot="a boot")
    engine = Engine(
        config,
        store,
        SimulatedGpus(machine),
        SimulatedCards(machine),
        SimulatedLauncher(machine, folder / "logs"),
        machine=Machine(cpus=8.0, memory=64 << 30),
        clock=time.time,
        ticks=time.monotonic,
        free_disk=lambda: 1 << 50,
        change_user=False,
        recorder=recorder,
    )
    await engine.start()
    server = await serve(engine, config, sockets={})
    assert config.paths is not None
    connector = aiohttp.UnixConnector(str(config.paths.socket))
    try:
        async with aiohttp.ClientSession(connector=connector) as session:
            yield Served(config, machine, store, engine, server, session, folder)
    finally:
        await server.close()
        await engine.close()
        await store.close()


Story = Callable[[Served], Coroutine[Any, Any, None]]


def served_test(config: Config = DEFAULTS, *, gpus: int = 2) -> Callable[[Story], Callable[[], None]]:
    """Makes a test of a coroutine function that takes a :class:`Served`; it runs under uvloop, as the daemon does."""

    def decorate(story: Story) -> Callable[[], None]:
        async def run(folder: Path) -> None:
            async with served(folder, config, gpus=gpus) as daemon:
                await story(daemon)

        def test() -> None:
            # Not pytest's folder, which nobody else can enter; and a socket's path has to be short.
            with (
                tempfile.TemporaryDirectory(prefix="runners-") as folder,
                asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
            ):
                runner.run(run(Path(folder)))

        test.__name__ = story.__name__
        test.__doc__ = story.__doc__
        return test

    return decorate
