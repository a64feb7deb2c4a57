"""Whoever dies, an attempt runs once and its end is known, and no stranger is touched."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import runners
import runnersd
from machine.test_launcher_tree import LEAVERS, alive, pids
from machine.worlds import HostWorld, run_name
from runners.api import Code
from runnersd.machine import LaunchFailed
from runnersd.machine.host import processes, record
from runnersd.model import CardOwner, Outcome

RUN = run_name()


def failure(outcome: Outcome) -> Code | None:
    return outcome.failure.code if outcome.failure is not None else None


async def test_a_killed_supervisor_takes_its_attempt_with_it(world: HostWorld, tmp_path: Path) -> None:
    launcher = await world.daemon()
    note = tmp_path / "pids"
    note.touch()
    # all but the one that has neither our environment nor our session: nothing proves that it is ours
    script = LEAVERS.replace('"env", "-i", ', "")
    await launcher.launch(world.launch([sys.executable, "-c", script, str(note), "deaf"], grace=0.3))
    await world.until(lambda: world.out(RUN) == "ready\n")
    os.kill(launcher.supervisor(RUN) or 0, signal.SIGKILL)
    outcome = await launcher.wait(RUN)
    assert failure(outcome) is Code.SUPERVISOR_LOST
    assert outcome.exit_code is None and outcome.started_at is not None
    assert not any(map(alive, pids(note)))


async def test_a_killed_supervisor_is_noticed_by_the_next_daemon(world: HostWorld) -> None:
    launcher = await world.daemon()
    await launcher.launch(world.shell("sleep 1000"))
    supervisor = launcher.supervisor(RUN) or 0
    child = int(Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text())
    await launcher.close()
    os.kill(supervisor, signal.SIGKILL)
    launcher = await world.daemon()
    assert failure(await launcher.wait(RUN)) is Code.SUPERVISOR_LOST
    assert not alive(child)


def test_a_signal_reaches_only_the_process_that_was_meant() -> None:
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as decoy:
        meant = processes.look(decoy.pid)
        assert meant is not None
        meant.start -= 1
        assert not processes.send(meant, signal.SIGKILL)
        assert alive(decoy.pid)
        meant.start += 1
        assert processes.send(meant, signal.SIGKILL)
        assert decoy.wait() == -signal.SIGKILL
        assert not processes.send(meant, signal.SIGKILL)


def test_only_what_is_proven_is_a_stray() -> None:
    name = str(RUN)
    like = {"RUNNERS_RUN": name + "1", "ANOTHER": f"RUNNERS_RUN={name}", "A": "b"}
    ours = subprocess.Popen(["sleep", "1000"], start_new_session=True, env={"A": "b", "RUNNERS_RUN": name})
    theirs = subprocess.Popen(["sleep", "1000"], start_new_session=True, env=like)
    member = subprocess.Popen(["sh", "-c", "sleep 1000 & wait"], start_new_session=True, env={})
    try:
        leader = processes.look(member.pid)
        assert leader is not None
        found = {process.pid for process in processes.strays(name, member.pid, leader.start + 1)}
        assert found == {ours.pid}
        found = {process.pid for process in processes.strays(name, member.pid, leader.start)}
        assert {ours.pid, member.pid} <= found
        assert theirs.pid not in found
    finally:
        for process in (ours, theirs, member):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


async def test_a_pid_that_was_used_again_is_left_alone(world: HostWorld) -> None:
    launcher = await world.daemon()
    await launcher.launch(world.order("serve"))
    os.kill(launcher.supervisor(RUN) or 0, signal.SIGKILL)
    await launcher.wait(RUN)
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as decoy:
        path = world.record(RUN)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines[0]["pid"] = lines[1]["main"] = decoy.pid  # with other start times
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        launcher = await world.daemon()
        await launcher.stop(RUN, at_once=True)
        await launcher.signal(RUN, signal.SIGKILL)
        assert launcher.supervisor(RUN) is None
        assert failure(await launcher.wait(RUN)) is Code.SUPERVISOR_LOST
        assert alive(decoy.pid)
        decoy.kill()


async def test_after_a_restart_of_the_machine_nobody_is_touched(world: HostWorld) -> None:
    launcher = await world.daemon()
    await launcher.launch(world.order("serve"))
    await launcher.stop(RUN, at_once=True)
    await launcher.wait(RUN)
    with subprocess.Popen(["sleep", "1000"], start_new_session=True, env={"RUNNERS_RUN": str(RUN)}) as decoy:
        lines = world.record(RUN).read_text().splitlines()[:2]
        there = processes.look(decoy.pid)
        assert there is not None  # the same pid at the same moment, counted from another boot
        first = json.loads(lines[0]) | {"boot": "another", "pid": decoy.pid, "start": there.start}
        world.record(RUN).write_text(json.dumps(first) + "\n" + lines[1] + "\n")
        launcher = await world.daemon()
        await launcher.stop(RUN, at_once=True)
        assert failure(await launcher.wait(RUN)) is Code.MACHINE_RESTARTED
        assert await launcher.launch(world.order("serve")) > 0
        assert alive(decoy.pid)
        decoy.kill()


async def test_a_torn_last_line_is_no_line(world: HostWorld) -> None:
    launcher = await world.daemon()
    await launcher.launch(world.order("exit 3"))
    await launcher.wait(RUN)
    data = world.record(RUN).read_bytes().rstrip(b"\n")
    world.record(RUN).write_bytes(data)
    launcher = await world.daemon()
    assert failure(await launcher.wait(RUN)) is Code.SUPERVISOR_LOST


@pytest.mark.parametrize("content", [b"", b'{"run":"x","bo', b"\xff\x00\n[1]\nnull\n3\n"])
async def test_a_record_whose_maker_died_never_runs(world: HostWorld, content: bytes) -> None:
    launcher = await world.daemon()
    world.record(RUN).parent.mkdir(parents=True)
    world.record(RUN).write_bytes(content)
    with pytest.raises(LaunchFailed, match="its supervisor died"):
        await launcher.launch(world.order("true"))
    assert failure(await launcher.wait(RUN)) is Code.LAUNCH_FAILED
    launcher = await world.daemon()
    assert failure(await launcher.wait(RUN)) is Code.LAUNCH_FAILED
    assert world.starts(RUN) == 0


async def test_a_record_that_is_just_being_made_is_waited_for(world: HostWorld) -> None:
    """Its maker holds the lock: not dead, only slow."""
    launcher = await world.daemon()
    path = world.record(RUN)
    path.parent.mkdir(parents=True)
    made = record.create(str(path))
    assert made is not None
    launch = asyncio.ensure_future(launcher.launch(world.order("true")))
    await asyncio.sleep(0.05)
    assert not launch.done()
    record.write(made, record.line(failed="cannot run it: for a reason"))
    os.close(made)
    with pytest.raises(LaunchFailed, match="for a reason"):
        await launch


DAEMON = """
import asyncio, json, sys
from pathlib import Path
import uvloop
from runnersd.machine.host.launcher import HostLauncher
from runnersd.model import Launch, RunName

async def main():
    launcher = HostLauncher(Path(sys.argv[1]))
    await launcher.open()
    for job, command in enumerate(sys.argv[3:], 1):
        run, environment = RunName(sys.argv[2], job, 1), {"PATH": "/usr/bin:/bin"}
        await launcher.launch(Launch(run, ("sh", "-c", command), environment, "/", 0o22, None, (), 5.0, 1 << 20))
    print("launched", flush=True)
    await asyncio.sleep(1000)

uvloop.run(main())
"""


async def test_jobs_outlive_a_daemon_that_is_killed(world: HostWorld, tmp_path: Path) -> None:
    paths = os.pathsep.join(str(Path(package.__path__[0]).parent) for package in (runners, runnersd))
    serve = f"while [ ! -e {tmp_path}/end ]; do sleep 0.02; done; echo ended; exit 9"
    commands = [serve, "exit 4", "kill -6 $$"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DAEMON, str(world.state), RUN.database, *commands,
        stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths}, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert await process.stdout.readline() == b"launched\n"
    os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    launcher = await world.daemon()
    assert launcher.supervisor(RUN) is not None
    (tmp_path / "end").touch()
    outcomes = [await launcher.wait(run_name(job)) for job in (1, 2, 3)]
    assert [(outcome.exit_code, outcome.signal) for outcome in outcomes] == [(9, None), (4, None), (134, 6)]
    assert world.out(RUN) == "ended\n"


async def test_a_killed_spawner_is_replaced(world: HostWorld, caplog: pytest.LogCaptureFixture) -> None:
    launcher = await world.daemon()
    await launcher.launch(world.order("serve"))
    for job in range(2, 5):
        os.kill(await spawner(world), signal.SIGKILL)
        launches = [launcher.launch(world.order(f"exit {job + n}", job=job * 10 + n)) for n in range(5)]
        await asyncio.gather(*launches)
        outcomes = [await launcher.wait(run_name(job * 10 + n)) for n in range(5)]
        assert [outcome.exit_code for outcome in outcomes] == [job + n for n in range(5)]
        assert [world.starts(run_name(job * 10 + n)) for n in range(5)] == [1] * 5
    world.finish(RUN, 7)
    assert (await launcher.wait(RUN)).exit_code == 7
    # Supervisors that were idle may have run the last ones before the death was seen.
    await world.until(lambda: caplog.text.count("died: starting another") == 3)


async def test_a_spawner_killed_at_any_moment_starts_nothing_twice(world: HostWorld) -> None:
    launcher = await world.daemon()
    for turn in range(8):
        names = [run_name(100 * (turn + 1) + n) for n in range(6)]
        launches = [asyncio.ensure_future(launcher.launch(world.order("exit 0", job=name.job))) for name in names]
        await asyncio.sleep(0.001 * turn)
        os.kill(await spawner(world), signal.SIGKILL)
        await asyncio.gather(*launches, return_exceptions=True)
        for name in names:
            outcome = await launcher.wait(name)
            assert outcome.exit_code == 0 or failure(outcome) in (Code.LAUNCH_FAILED, Code.SUPERVISOR_LOST)
            assert world.starts(name) == (1 if outcome.exit_code == 0 else world.starts(name) & 1)


async def test_a_supervisor_that_dies_before_the_start_is_reported(world: HostWorld) -> None:
    launcher = await world.daemon()
    resource.prlimit(await spawner(world), resource.RLIMIT_NOFILE, (5, 5))  # no room for a supervisor's descriptors
    with pytest.raises(LaunchFailed, match="its supervisor died before it was started"):
        await launcher.launch(world.order("true"))
    launcher = await world.daemon()
    with pytest.raises(LaunchFailed, match="its supervisor died before it was started"):
        await launcher.launch(world.order("true"))
    assert world.starts(RUN) == 0


async def test_what_there_is_no_process_for_waits_and_does_not_fail(world: HostWorld) -> None:
    """Else one job that takes all there are would fail the whole queue, one after the other."""
    launcher = await world.daemon()
    other = run_name(2)
    with no_more_processes(await spawner(world)):
        launch = asyncio.ensure_future(launcher.launch(world.order("exit 3")))
        stopped = asyncio.ensure_future(launcher.launch(world.order("true", job=2)))
        await world.until(lambda: len(launcher._supervisors._waiting) == 2)
        await launcher.stop(other)
        with pytest.raises(LaunchFailed):
            await stopped
        assert not launch.done()
    await launch
    assert (await launcher.wait(RUN)).exit_code == 3
    assert (world.starts(RUN), world.starts(other)) == (1, 0)


async def test_what_there_is_no_descriptor_for_waits_and_does_not_fail(world: HostWorld) -> None:
    launcher = await world.daemon()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        launch = asyncio.ensure_future(launcher.launch(world.order("exit 3")))
        await world.until(lambda: len(launcher._supervisors._waiting) == 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await launch
    assert (await launcher.wait(RUN)).exit_code == 3
    assert world.starts(RUN) == 1


@pytest.mark.parametrize("stop", [False, True])
async def test_a_supervisor_without_a_process_for_its_job_waits_for_one(world: HostWorld, stop: bool) -> None:
    launcher = await world.daemon()
    with no_more_processes(await spawner(world), besides=1):
        launch = asyncio.ensure_future(launcher.launch(world.order("exit 3")))
        path = Path(launcher._names(RUN)[0])
        await world.until(lambda: path.exists() and path.stat().st_size > 0)
        await asyncio.sleep(0.15)
        assert not launch.done()
        room = time.time()
        if stop:
            await launcher.stop(RUN)
            with pytest.raises(LaunchFailed, match="Resource temporarily unavailable"):
                await launch
    if not stop:
        assert await launch >= room, "what it waited is none of its time"
        assert (await launcher.wait(RUN)).exit_code == 3
    assert world.starts(RUN) == (0 if stop else 1)


@contextmanager
def no_more_processes(pid: int, besides: int = 0) -> Iterator[None]:
    """The process can make no other, ``besides`` so many, until the end."""
    group = Path(f"/sys/fs/cgroup/pids/runners-test-{os.getpid()}")
    try:
        group.mkdir()
    except OSError:
        pytest.skip("no control group that limits processes can be made here")
    try:
        (group / "pids.max").write_text(str(1 + besides))
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        for one in (group / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                (group.parent / "cgroup.procs").write_text(one)
        group.rmdir()


async def test_the_next_daemon_waits_for_launches_in_flight(world: HostWorld) -> None:
    first = await world.daemon()
    slow = await spawner(world)
    os.kill(slow, signal.SIGSTOP)
    lost = asyncio.ensure_future(first.launch(world.order("serve")))
    await asyncio.sleep(0.05)
    coming = asyncio.ensure_future(world.daemon())
    try:
        await asyncio.sleep(0.3)
        assert not coming.done()
    finally:
        os.kill(slow, signal.SIGCONT)
    second = await coming
    with pytest.raises(asyncio.CancelledError):
        await lost
    assert world.record(RUN).exists()
    await second.launch(world.order("serve"))
    world.finish(RUN, 0)
    await second.wait(RUN)
    assert world.starts(RUN) == 1


async def test_the_spawner_goes_with_its_daemon(world: HostWorld) -> None:
    launcher = await world.daemon()
    pid = await spawner(world)
    await launcher.close()
    await world.until(lambda: not alive(pid))


class OneCard:
    """A lock for one card."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)

    def claim(self, uuids: object) -> dict[str, CardOwner | None]:
        return {}

    def descriptors(self, uuids: tuple[str, ...]) -> list[int]:
        return [self.fd] * len(uuids)

    def close(self) -> None:
        os.close(self.fd)


async def test_a_card_s_lock_is_held_while_its_job_lives_and_never_by_the_job(world: HostWorld, tmp_path: Path) -> None:
    path = tmp_path / "GPU-0"
    card = OneCard(path)
    launcher = await world.daemon(cards=card)
    os.mkfifo(tmp_path / "pipe")
    await launcher.launch(world.launch(["sh", "-c", "ls -l /proc/self/fd; read x < pipe"], gpus=("GPU-0",)))
    await launcher.launch(world.order("serve", job=2))
    supervisors = {run: launcher.supervisor(run_name(run)) for run in (1, 2)}
    card.close()
    assert holders(path) == [supervisors[1]]
    await world.until(lambda: world.out(RUN))
    assert "GPU-0" not in world.out(RUN)
    await launcher.stop(RUN)
    await launcher.wait(RUN)
    assert holders(path) == []


def holders(path: Path) -> list[int]:
    """Who has it open."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                links = [os.readlink(f"/proc/{name}/fd/{fd}") for fd in os.listdir(f"/proc/{name}/fd")]
            except OSError:
                continue
            if str(path) in links:
                found.append(int(name))
    return found


async def spawner(world: HostWorld) -> int:
    """The pid of the last daemon's spawner, when it has one again."""

    def pid() -> int | None:
        return world.last._supervisors.spawner if world.last is not None else None

    await world.until(pid)
    found = pid()
    assert found is not None
    return found
