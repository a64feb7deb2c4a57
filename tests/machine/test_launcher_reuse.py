"""A supervisor has one attempt after another, and nothing of one reaches the next."""

from __future__ import annotations

import asyncio
import itertools
import os
import pwd
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from machine.test_launcher_process import needs_root
from machine.test_launcher_recovery import DAEMON, OneCard, failure, holders, spawner
from machine.test_launcher_tree import alive
from machine.worlds import HostWorld, run_name
from runners.api import Code
from runnersd.machine.host import supervisors
from runnersd.model import Outcome, Submitter

RUN, NEXT = run_name(1), run_name(2)


async def serve(world: HostWorld, job: int, **options: float) -> int:
    """Run a job that ends when it is told to; its supervisor's pid."""
    assert world.last is not None
    await world.last.launch(world.order("serve", job=job, **options))
    pid = world.last.supervisor(run_name(job))
    assert pid is not None
    return pid


async def end(world: HostWorld, job: int, code: int = 0) -> Outcome:
    """Tell it to."""
    assert world.last is not None
    world.finish(run_name(job), code)
    return await world.last.wait(run_name(job))


async def idle(world: HostWorld) -> int:
    """The pid of a supervisor that has had job 1 and has nothing now."""
    pid = await serve(world, 1)
    await end(world, 1)
    return pid


async def test_an_idle_supervisor_gets_the_next_attempt(world: HostWorld) -> None:
    await world.daemon()
    first = await idle(world)
    assert Path(f"/proc/{first}/comm").read_text() == "runners-job\n"
    assert await serve(world, 2) == first
    other = await serve(world, 3)
    assert other != first, "a busy one gets none"
    assert [(await end(world, job, job)).exit_code for job in (2, 3)] == [2, 3]
    assert {await serve(world, job) for job in (4, 5)} == {first, other}
    assert [(await end(world, job, job)).exit_code for job in (4, 5)] == [4, 5]
    assert [world.starts(run_name(job)) for job in range(1, 6)] == [1] * 5


async def test_what_cannot_start_leaves_its_supervisor_fit(world: HostWorld) -> None:
    launcher = await world.daemon()
    pid = await idle(world)
    for job in (2, 3):
        assert failure(await world.run_or_fail(world.order("missing", job=job))) is Code.LAUNCH_FAILED
    await launcher.stop(run_name(4))
    assert await serve(world, 5) == pid
    await end(world, 5)
    assert failure(await world.run_or_fail(world.order("missing", job=6))) is Code.LAUNCH_FAILED
    os.kill(pid, signal.SIGTERM)
    await world.until(lambda: not alive(pid), limit=5)


async def test_each_attempt_has_its_own_output_record_and_limits(world: HostWorld, tmp_path: Path) -> None:
    launcher = await world.daemon()
    await world.run(world.shell("echo first; umask; pwd", umask=0o027, log_max=3))
    (tmp_path / "sub").mkdir()
    await world.run(world.shell("echo second; umask; pwd; echo bad >&2", job=2, umask=0o002, cwd=tmp_path / "sub"))
    assert world.out(RUN).startswith("fir\n[runners: cut here")
    assert (world.out(NEXT), world.err(NEXT)) == (f"second\n0002\n{tmp_path}/sub\n", "bad\n")
    outcomes = [await launcher.wait(run) for run in (RUN, NEXT)]
    assert [outcome.truncated for outcome in outcomes] == [True, False]
    launcher = await world.daemon()
    assert [await launcher.wait(run) for run in (RUN, NEXT)] == outcomes, "the records say the same"


@pytest.mark.parametrize("somebody", [False, pytest.param(True, marks=needs_root)])
async def test_a_later_attempt_begins_as_the_first(world: HostWorld, somebody: bool) -> None:
    await world.daemon()
    submitter = Submitter(0, 0) if somebody else None
    looks = []
    for job in range(1, 4):
        script = (
            "grep -E '^Sig(Blk|Ign|Cgt)|^Uid|^Gid|^Groups|^Umask' /proc/self/status; ls /proc/self/fd; pwd; ulimit -a"
        )
        await world.run(world.shell(script, job=job, submitter=submitter))
        looks.append(world.out(run_name(job)))
    assert looks[0].count("\n") > 20
    assert looks[1] == looks[2] == looks[0]


@needs_root
async def test_attempts_of_several_submitters_have_one_supervisor_and_their_own_rights(world: HostWorld) -> None:
    launcher = await world.daemon()
    nobody = pwd.getpwnam("nobody")
    who = [Submitter(0, 0), Submitter(nobody.pw_uid, nobody.pw_gid, (12345,)), Submitter(0, 0, (0, 4)), None]
    seen = []
    for job, submitter in enumerate(who, 1):
        launch = world.shell("echo $PPID; id -u; id -g; id -G; umask", job=job, submitter=submitter, cwd="/")
        assert (await world.run(launch)).exit_code == 0
        seen.append(world.out(run_name(job)).split("\n", 1))
    assert len({above for above, _ in seen}) == 1
    assert [ids.split()[0] for _, ids in seen] == ["0", str(nobody.pw_uid), "0", str(os.getuid())]
    assert "12345" in seen[1][1] and "12345" not in seen[2][1] + seen[3][1]
    assert launcher.supervisor(RUN) is None


async def test_memory_of_one_attempt_is_not_the_next_one_s_peak(world: HostWorld) -> None:
    await world.daemon()
    script = "x = bytearray(200_000_000)"
    large = await world.run(world.launch([sys.executable, "-I", "-S", "-c", script]))
    small = await world.run(world.launch(["true"], job=2))
    assert (large.peak_memory or 0) > 190 << 20
    assert (small.peak_memory or 0) < 40 << 20


async def test_a_supervisor_that_took_a_large_order_is_not_used_again(world: HostWorld) -> None:
    await world.daemon()
    first = await idle(world)
    await world.run(world.launch(["true", "x" * 100_000], job=2))
    assert await serve(world, 3) != first
    await world.until(lambda: not alive(first))


def descriptors(pid: int) -> dict[str, str]:
    """What a process has open; what it closes meanwhile is not."""
    found = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found[fd] = os.readlink(f"/proc/{pid}/fd/{fd}")
    return found


def open_records(pid: int) -> list[str]:
    """Those among it that are records."""
    return sorted(Path(path).name for path in descriptors(pid).values() if ".run" in path)


async def test_no_descriptor_is_left_open(world: HostWorld) -> None:
    await world.daemon()
    pid = await idle(world)
    await world.until(lambda: not open_records(pid))
    before = descriptors(pid)
    for job in range(2, 12):
        await world.run_or_fail(world.order("missing" if job % 3 == 0 else "exit 3", job=job))
    await world.run(world.shell("echo out; echo err >&2", job=12))
    await world.until(lambda: descriptors(pid) == before)


async def test_an_end_is_brought_to_the_disk_though_the_next_attempt_runs(world: HostWorld) -> None:
    """A record is open until it is there: a moment after the end, or when the daemon has removed it."""
    launcher = await world.daemon()
    pid = await idle(world)
    assert await serve(world, 2) == pid
    await world.until(lambda: open_records(pid) == ["2.1.run"])
    await end(world, 2)
    await launcher.forget(NEXT)
    assert await serve(world, 3) == pid
    await world.until(lambda: open_records(pid) == ["3.1.run"])
    await end(world, 3)
    await launcher.close()
    await world.until(lambda: not alive(pid))


async def test_a_card_is_let_go_though_its_supervisor_lives_on(world: HostWorld, tmp_path: Path) -> None:
    path = tmp_path / "GPU-0"
    card = OneCard(path)
    launcher = await world.daemon(cards=card)
    os.mkfifo(tmp_path / "pipe")
    script = "ls -l /proc/self/fd; read x < pipe"
    pid = await idle(world)
    for job in (2, 4):
        await launcher.launch(world.launch(["sh", "-c", script], job=job, gpus=("GPU-0",)))
        assert launcher.supervisor(run_name(job)) == pid
        assert holders(path) == [pid]
        await world.until(lambda job=job: world.out(run_name(job)))  # type: ignore[misc]
        assert "GPU-0" not in world.out(run_name(job))
        (tmp_path / "pipe").write_text("go\n")
        await launcher.wait(run_name(job))
        assert holders(path) == [], "it is idle"
        assert await serve(world, job + 1) == pid
        assert holders(path) == [], "it has a job without a card"
        await end(world, job + 1)
    card.close()


@pytest.mark.parametrize("ask", [("stop", True), ("stop", False), ("signal", int(signal.SIGKILL))])
async def test_what_comes_too_late_for_one_attempt_does_not_reach_the_next(
    world: HostWorld, ask: tuple[str, int]
) -> None:
    launcher = await world.daemon()
    pid = await serve(world, 1)
    tell = launcher._attempts[RUN].tell
    assert tell is not None
    what, how = ask
    await end(world, 1)
    tell((what, str(RUN), how))  # it is idle
    assert await serve(world, 2) == pid
    tell((what, str(RUN), how))
    assert (await end(world, 2, 4)).exit_code == 4
    assert await serve(world, 3) == pid
    tell((what, str(run_name(3)), how))
    assert (await launcher.wait(run_name(3))).signal in (signal.SIGKILL, signal.SIGTERM)


async def test_stops_that_race_with_ends_reach_nobody_else(world: HostWorld) -> None:
    launcher = await world.daemon()
    for job in range(1, 61, 2):
        await launcher.launch(world.launch(["true"], job=job))
        await asyncio.sleep(0.0003 * (job % 7))
        stopping = asyncio.ensure_future(launcher.stop(run_name(job), at_once=job % 3 == 0))
        outcome = await launcher.wait(run_name(job))
        await stopping
        assert outcome.exit_code == 0 or outcome.signal in (signal.SIGTERM, signal.SIGKILL)
        assert (await world.run(world.order("exit 3", job=job + 1))).exit_code == 3


async def test_a_stop_is_heard_while_the_attempt_is_handed_over(world: HostWorld) -> None:
    launcher = await world.daemon()
    pid = await idle(world)
    os.kill(pid, signal.SIGSTOP)
    launch = asyncio.ensure_future(launcher.launch(world.order("serve", job=2)))
    await asyncio.sleep(0)
    await launcher.stop(NEXT)
    os.kill(pid, signal.SIGCONT)
    assert (await launcher.wait(NEXT)).signal == signal.SIGTERM
    await launch


async def test_a_killed_supervisor_takes_only_the_attempt_it_has(world: HostWorld) -> None:
    launcher = await world.daemon()
    pid = await idle(world)
    assert await serve(world, 2) == pid
    other = await serve(world, 3)
    os.kill(pid, signal.SIGKILL)
    assert failure(await launcher.wait(NEXT)) is Code.SUPERVISOR_LOST
    assert (await launcher.wait(RUN)).exit_code == 0
    assert launcher.supervisor(run_name(3)) == other
    assert (await end(world, 3, 6)).exit_code == 6
    launcher = await world.daemon()
    outcomes = [await launcher.wait(run_name(job)) for job in (1, 2, 3)]
    assert [outcome.exit_code for outcome in outcomes] == [0, None, 6]


async def test_each_kill_costs_one_attempt_at_most(world: HostWorld) -> None:
    """Supervisors are killed at random, busy or idle, while attempts follow each other, until enough were."""
    await world.daemon()
    above = await spawner(world)
    children = Path(f"/proc/{above}/task/{above}/children")
    dice = random.Random(1)
    numbers = itertools.count(1)
    outcomes: dict[int, Outcome] = {}
    kills = 0

    async def run() -> None:
        while kills <= 10 or len(outcomes) < 120:
            job = next(numbers)
            outcomes[job] = await world.run_or_fail(world.order(f"exit {job % 200}", job=job))

    async def kill() -> None:
        nonlocal kills
        while True:
            await asyncio.sleep(dice.uniform(0.0, 0.03))
            living = children.read_text().split()
            if living:
                kills += 1
                os.kill(int(dice.choice(living)), signal.SIGKILL)

    killing = asyncio.ensure_future(kill())
    await asyncio.gather(*(run() for _ in range(6)))
    killing.cancel()
    ended = {job: one.exit_code for job, one in outcomes.items() if one.failure is None}
    assert ended == {job: job % 200 for job in ended}
    assert {failure(one) for one in outcomes.values()} <= {None, Code.SUPERVISOR_LOST, Code.LAUNCH_FAILED}
    assert len(outcomes) - len(ended) <= kills
    assert all(world.starts(run_name(job)) == 1 for job in ended)
    assert max(world.starts(run_name(job)) for job in outcomes) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_an_idle_supervisor_that_is_ended_costs_nobody_anything(world: HostWorld, number: signal.Signals) -> None:
    await world.daemon()
    pid = await idle(world)
    os.kill(pid, number)
    assert (await world.run(world.order("exit 3", job=2))).exit_code == 3
    await world.until(lambda: not alive(pid), limit=5)
    assert (await world.run(world.order("exit 4", job=3))).exit_code == 4
    assert [world.starts(run_name(job)) for job in (2, 3)] == [1, 1]


async def test_signals_to_an_idle_supervisor_are_not_for_the_next_attempt(world: HostWorld) -> None:
    await world.daemon()
    pid = await idle(world)
    os.kill(pid, signal.SIGUSR1)
    await world.until(lambda: "S" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
    assert await serve(world, 2) == pid
    assert (await end(world, 2, 3)).exit_code == 3


async def test_an_order_that_dies_with_an_idle_supervisor_is_given_to_another(world: HostWorld) -> None:
    launcher = await world.daemon()
    pid = await idle(world)
    os.kill(pid, signal.SIGSTOP)
    launch = asyncio.ensure_future(launcher.launch(world.order("exit 5", job=2)))
    await asyncio.sleep(0.05)
    assert not launch.done()
    os.kill(pid, signal.SIGKILL)
    await launch
    assert (await launcher.wait(NEXT)).exit_code == 5
    assert world.starts(NEXT) == 1


async def test_a_stop_is_not_lost_with_a_supervisor(world: HostWorld) -> None:
    launcher = await world.daemon()
    pid = await idle(world)
    os.kill(pid, signal.SIGSTOP)
    launch = asyncio.ensure_future(launcher.launch(world.order("serve", job=2)))
    await asyncio.sleep(0)
    await launcher.stop(NEXT)
    os.kill(pid, signal.SIGKILL)
    assert (await launcher.wait(NEXT)).signal == signal.SIGTERM
    await launch


async def test_the_next_daemon_waits_for_an_order_to_an_idle_supervisor(world: HostWorld) -> None:
    first = await world.daemon()
    pid = await idle(world)
    os.kill(pid, signal.SIGSTOP)
    lost = asyncio.ensure_future(first.launch(world.order("serve", job=2)))
    await asyncio.sleep(0.05)
    coming = asyncio.ensure_future(world.daemon())
    try:
        await asyncio.sleep(0.3)
        assert not coming.done()
    finally:
        os.kill(pid, signal.SIGCONT)
    second = await coming
    with pytest.raises(asyncio.CancelledError):
        await lost
    assert world.record(NEXT).exists()
    await second.launch(world.order("serve", job=2))
    assert second.supervisor(NEXT) == pid
    world.finish(NEXT, 0)
    await second.wait(NEXT)
    assert world.starts(NEXT) == 1


async def test_the_next_daemon_takes_back_the_later_attempt_and_knows_the_end_of_the_earlier(world: HostWorld) -> None:
    await world.daemon()
    pid = await idle(world)
    assert await serve(world, 2) == pid
    launcher = await world.daemon()
    assert launcher.supervisor(RUN) is None
    assert launcher.supervisor(NEXT) == pid
    await launcher.stop(RUN, at_once=True)
    await launcher.signal(RUN, signal.SIGKILL)
    assert (await launcher.wait(RUN)).exit_code == 0
    assert await serve(world, 3) != pid, "it belongs to no daemon any more"
    assert (await end(world, 2, 7)).exit_code == 7
    await world.until(lambda: not alive(pid))


async def test_idle_supervisors_go_with_their_daemon(world: HostWorld) -> None:
    launcher = await world.daemon()
    pid = await idle(world)
    await launcher.close()
    await world.until(lambda: not alive(pid))


async def test_idle_supervisors_go_with_a_daemon_that_is_killed(world: HostWorld, tmp_path: Path) -> None:
    commands = ["echo $PPID", f"echo $PPID; while [ ! -e {tmp_path}/end ]; do sleep 0.02; done; exit 9"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DAEMON, str(world.state), RUN.database, *commands,
        stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert await process.stdout.readline() == b"launched\n"
    await world.until(lambda: world.out(NEXT) and world.record(RUN).read_text().count("code"))
    supervisor, busy = int(world.out(RUN)), int(world.out(NEXT))
    os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    await world.until(lambda: supervisor == busy or not alive(supervisor))
    launcher = await world.daemon()
    assert launcher.supervisor(NEXT) == busy
    (tmp_path / "end").touch()
    assert (await launcher.wait(NEXT)).exit_code == 9
    await world.until(lambda: not alive(busy))


async def test_supervisors_outlive_their_spawner_and_serve_on(world: HostWorld) -> None:
    launcher = await world.daemon()
    pid = await serve(world, 1)
    former = await spawner(world)
    os.kill(former, signal.SIGKILL)
    await world.until(lambda: launcher._supervisors.spawner not in (None, former))
    assert (await end(world, 1, 3)).exit_code == 3
    assert await serve(world, 2) == pid


@contextmanager
def limits(**named: float) -> Iterator[None]:
    """Other limits on supervisors, for a while."""
    before = {name: getattr(supervisors, name) for name in named}
    for name, value in named.items():
        setattr(supervisors, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(supervisors, name, value)


async def test_a_supervisor_is_let_go_when_it_has_been_idle_for_long(world: HostWorld) -> None:
    with limits(KEPT_FOR=0.3):
        await world.daemon()
        pid = await idle(world)
        await world.until(lambda: not alive(pid))
        other = await serve(world, 2)
        await asyncio.sleep(0.4)
        assert alive(other), "a busy one is not idle"
        await end(world, 2)
        await world.until(lambda: not alive(other))


async def test_only_a_few_idle_supervisors_are_kept(world: HostWorld) -> None:
    with limits(KEPT=2):
        await world.daemon()
        pids = [await serve(world, job) for job in range(1, 6)]
        for job in range(1, 6):
            await end(world, job)
        await world.until(lambda: sum(map(alive, pids)) == 2)
        assert {await serve(world, job) for job in (6, 7)} <= set(pids)


async def test_a_supervisor_is_replaced_after_many_attempts(world: HostWorld) -> None:
    with limits(ATTEMPTS=3):
        await world.daemon()
        pids = []
        for job in range(1, 8):
            pids.append(await serve(world, job))
            await end(world, job)
        assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 1]
