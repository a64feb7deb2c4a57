"""Who waits at a container's gate: a shell of ours, whatever the image holds, or the image's own where there is none."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine import BARE, CARDS, PROGRAM, Engine
from machine.worlds import DockerWorld, run_name
from runnersd.machine import LaunchFailed
from runnersd.machine.docker import attempt, shells
from runnersd.model import Image, Launch, Outcome

#: Prints each word that it was started with, its own name first.
WORDS = [
    "sh",
    "-c",
    'printf "<%s>" "$0" "$@"; tr "\\0" "\\n" </proc/$$/cmdline | head -n1',
    "my name",
    "a b",
    "",
    "*",
    "$x",
]


@pytest.fixture(params=["ours", "the image's"])
def world(request: pytest.FixtureRequest, docker_engine: Engine, tmp_path: Path, monkeypatch: Any) -> DockerWorld:
    """Containers behind gates."""
    if request.param != "ours":
        monkeypatch.setattr(shells, "PLACES", ())
    return DockerWorld(tmp_path, docker_engine, gated=True)


async def run(world: DockerWorld, launch: Launch) -> tuple[Outcome, str]:
    """Its outcome, and what it wrote to stdout."""
    launcher = world.last or await world.daemon()
    await launcher.launch(launch)
    outcome = await launcher.wait(launch.run)
    out = launcher.logs(launch.run)[0]
    return outcome, out.read_text() if out.exists() else ""


def launch(world: DockerWorld, argv: Sequence[str], *, image: str | None = None, **changes: Any) -> Launch:
    made = world.launch(argv)
    assert made.container is not None
    if image is not None:
        id = world.engine.api("GET", f"/images/{image}/json").json["Id"]
        made = replace(made, container=replace(made.container, image=Image(id, image)))
    return replace(made, **changes)


async def test_words_arrive_as_they_are_and_the_name_stays(world: DockerWorld) -> None:
    outcome, out = await run(world, launch(world, WORDS))
    assert (outcome.exit_code, out) == (0, "<my name><a b><><*><$x>sh\n")


async def test_the_umask_and_the_directory_are_the_jobs(world: DockerWorld) -> None:
    (world.work / "deep er").mkdir()
    _, out = await run(world, launch(world, ["sh", "-c", "umask; pwd"], umask=0o027, cwd="/work/deep er"))
    assert out == "0027\n/work/deep er\n"


async def test_its_environment_is_what_was_given(world: DockerWorld) -> None:
    given = {"PATH": "/bin", "A": "b c", "word": "1", "d": "2", "p": "3"}
    _, out = await run(world, launch(world, ["env"], environment=given))
    found = dict(line.split("=", 1) for line in out.splitlines())
    for name in ("PWD", "SHLVL", "HOSTNAME"):
        found.pop(name, None)
    assert found == {**given, "NVIDIA_VISIBLE_DEVICES": "void", "NVIDIA_DRIVER_CAPABILITIES": ""} | (
        {"HOME": found["HOME"]} if "HOME" in found else {}
    )


async def test_a_directory_that_is_not_there_is_not_made(world: DockerWorld) -> None:
    await world.daemon()
    with pytest.raises(LaunchFailed, match="cannot run in /work/evil: it cannot be entered"):
        await run(world, launch(world, ["true"], cwd="/work/evil"))
    assert not (world.work / "evil").exists()


@pytest.mark.parametrize("program", ["missing", "./missing", "", "/bin", "/work/plain"])
async def test_a_program_that_is_not_there_fails_the_launch(world: DockerWorld, program: str) -> None:
    (world.work / "plain").write_text("no program")
    launcher = await world.daemon()
    if program in ("/bin", "/work/plain") and launcher._around.shell is None:
        assert (await run(world, launch(world, [program])))[
            0
        ].exit_code == 126  # a shell is content with its being there
        return
    with pytest.raises(LaunchFailed, match="cannot run"):
        await run(world, launch(world, [program]))


async def test_the_programs_are_the_images(world: DockerWorld) -> None:
    """Our shell has commands of the same names within itself: none of them may stand in for the image's."""
    launcher = await world.daemon()
    if launcher._around.shell is not None:
        world.engine.import_image("lab/own:1", files={"/bin/ls": "#!/bin/busybox sh\necho the image ls\n"})
        _, out = await run(world, launch(world, ["ls"], image="lab/own:1"))
        assert out == "the image ls\n"
        with pytest.raises(LaunchFailed, match="cannot run ls: no such program in the image"):
            await run(world, replace(launch(world, ["ls"], image=BARE), run=world.launch([], job=2).run))
        bare = replace(launch(world, [PROGRAM, "exit", "7"], image=BARE), run=world.launch([], job=3).run)
        assert (await run(world, bare))[0].exit_code == 7


async def test_a_shell_that_does_not_wait_does_not_run_a_job(world: DockerWorld, monkeypatch: Any) -> None:
    """An image's own may be any program. Ours waits in its place; where there is none, the job ends."""
    monkeypatch.setattr(attempt, "_DEAF", 1.0)
    world.engine.import_image(
        "lab/deaf:1", files={"/bin/sh": "#!/bin/busybox sh\nwhile :; do /bin/busybox sleep 1; done\n"}
    )
    order = launch(world, ["/bin/busybox", "echo", "ran"], image="lab/deaf:1")
    launcher = await world.daemon()
    if launcher._around.shell is not None:
        assert (await run(world, order))[1] == "ran\n"
        return
    with pytest.raises(LaunchFailed, match="the shell of its image does not wait at the gate"):
        await launcher.launch(order)
    await launcher.wait(order.run)
    assert world.engine.api("GET", "/containers/json").json == []


async def test_only_what_surely_waits_is_made_before_its_turn(world: DockerWorld) -> None:
    """It could use a card that is still another's."""
    launcher = await world.daemon()
    await asyncio.wait_for(reached(launcher), 20)
    card = next(iter(CARDS))
    order = launch(world, ["true"], gpus=(card,))
    assert order.container is not None
    order = replace(order, container=replace(order.container, minors=(CARDS[card],)))
    launcher.stage([order])
    worker = launcher._staging._worker
    assert worker is not None
    await asyncio.wait_for(worker, 20)
    ours = launcher._around.shell is not None
    assert len(world.engine.api("GET", "/containers/json").json) == (1 if ours else 0)
    launcher.stage([])
    worker = launcher._staging._worker
    assert worker is not None
    await asyncio.wait_for(worker, 20)


async def reached(launcher: Any) -> None:
    while launcher.state.problem is not None:
        await asyncio.sleep(0.01)


async def test_our_shell_is_linked_into_gates_and_not_to_be_changed_there(world: DockerWorld) -> None:
    launcher = await world.daemon()
    shell = launcher._around.shell
    if shell is None:
        assert not (world.state / "sh").exists()
        return
    order = launch(world, ["sh", "-c", "echo x > /.runners/sh; echo $?; trap 'exit 3' TERM; while :; do sleep 1; done"])
    await launcher.launch(order)
    (linked,) = world.state.glob("gates/*/sh")
    assert os.path.samefile(linked, shell)
    before = shell.read_bytes()
    await launcher.signal(order.run, signal.SIGTERM)
    assert (await launcher.wait(order.run)).exit_code == 3
    assert launcher.logs(order.run)[0].read_text() == "1\n"
    assert shell.read_bytes() == before
    await launcher.forget(order.run)
    assert shell.exists() and shell.stat().st_nlink == 1


async def test_a_sweep_that_the_machine_refuses_ends_nothing_else(
    world: DockerWorld, caplog: pytest.LogCaptureFixture
) -> None:
    launcher = await world.daemon()
    (world.state / "gates").write_text("no folder can be looked into here")
    async with asyncio.timeout(20):
        while "cannot clear away what containers left behind" not in caplog.text:
            await asyncio.sleep(0.01)
    (world.state / "gates").unlink()
    outcome, _ = await run(world, launch(world, ["sh", "-c", "exit 3"]))
    assert (outcome.exit_code, launcher.state.problem) == (3, None)


async def test_a_state_directory_that_was_moved_away_is_not_made_anew(world: DockerWorld) -> None:
    launcher = await world.daemon()
    await run(world, launch(world, ["true"]))
    away = world.state.rename(world.tmp / "away")
    begun = asyncio.ensure_future(launcher.launch(world.launch(["sh", "-c", "exit 3"], job=1000)))
    await asyncio.wait([begun], timeout=0.5)
    assert not begun.done() and not world.state.exists()
    away.rename(world.state)
    await begun
    assert (await launcher.wait(run_name(1000))).exit_code == 3
