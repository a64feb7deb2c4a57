"""What is made of a launch is what the engine can do and the launch asks for, whoever began to make it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from engine import Engine, Hang, Proxy
from machine.worlds import DATABASE, DockerWorld, run_name
from runnersd.machine import LaunchFailed
from runnersd.machine.docker import body
from runnersd.machine.docker.launcher import DockerLauncher
from runnersd.machine.host import processes

RUN = run_name()


@pytest.fixture
def world(tmp_path: Path, docker_engine: Engine) -> DockerWorld:
    return DockerWorld(tmp_path, docker_engine, gated=False)


def seen(world: DockerWorld) -> Any:
    return world.engine.api("GET", f"/containers/{body.name_of(RUN)}/json").json


def made_before(world: DockerWorld, job: int) -> str:
    """A container of the attempt's name that was never started, labelled as one of ``job``, otherwise than asked."""
    labels = {body.DATABASE: DATABASE, body.JOB: str(job), body.ATTEMPT: "1", body.SPEC: "another"}
    asked = {"Image": world.image, "Cmd": ["true"], "Labels": labels, "HostConfig": {"NetworkMode": "none"}}
    return str(world.engine.api("POST", f"/containers/create?name={body.name_of(RUN)}", asked).json["Id"])


async def test_nothing_is_made_before_the_engine_has_said_what_it_can_do(world: DockerWorld, tmp_path: Path) -> None:
    """Neither its runtimes nor its own directories, which no job gets, are known until then."""
    with Proxy(tmp_path / "proxy.sock", world.engine.socket) as proxy:
        silence = proxy.fault("GET", "/info", Hang())
        world.last = launcher = DockerLauncher(
            world.state, str(proxy.socket), DATABASE, boot=processes.boot_id(), gated=False
        )
        await launcher.open()
        launch = asyncio.ensure_future(launcher.launch(world.order("serve")))
        async with asyncio.timeout(20):
            while not silence.hits:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)
        assert proxy.calls("POST", "/containers/create") == []
        silence.lift()
        await launch
        assert seen(world)["HostConfig"]["Runtime"] == "runc"
        world.finish(RUN, 3)
        assert (await launcher.wait(RUN)).exit_code == 3
        await launcher.close()


async def test_what_an_earlier_daemon_made_otherwise_is_made_anew(world: DockerWorld) -> None:
    before = made_before(world, job=1)
    launcher = await world.daemon()
    await launcher.launch(world.order("serve"))
    assert seen(world)["Id"] != before
    world.finish(RUN, 4)
    assert (await launcher.wait(RUN)).exit_code == 4
    assert world.starts(RUN) == 1


async def test_a_container_of_somebody_elses_that_has_the_name_is_left_alone(world: DockerWorld) -> None:
    before = made_before(world, job=2)
    launcher = await world.daemon()
    with pytest.raises(LaunchFailed, match="belongs to another one"):
        await launcher.launch(world.order("true"))
    assert seen(world)["Id"] == before
    world.engine.api("DELETE", f"/containers/{before}")
