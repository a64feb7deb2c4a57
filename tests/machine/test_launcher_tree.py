"""An attempt is over when none of its processes is left, wherever they went."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from machine.worlds import HostWorld, run_name

RUN = run_name()

#: Children that leave: a new session, a new group, a daemon (two forks), one with no environment, one below a thread.
LEAVERS = """
import os, signal, subprocess, sys, threading, time
note = open(sys.argv[1], "a")
def be_deaf():
    if "deaf" in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)
def stay():
    be_deaf()
    note.write(f"{os.getpid()}\\n"); note.flush()
    while True: time.sleep(100)
def child(*steps):
    if os.fork() == 0:
        for step in steps: step()
        stay()
def again():
    if os.fork(): os._exit(0)
child()
child(os.setsid)
child(lambda: os.setpgid(0, 0))
child(again, os.setsid, again)
subprocess.Popen(["env", "-i", "setsid", sys.executable, "-c",
    "import os,sys,time,signal; signal.signal(15, signal.SIG_IGN if 'deaf' in sys.argv else signal.SIG_DFL);"
    "open(sys.argv[1],'a').write(f'{os.getpid()}\\\\n'); time.sleep(1000)", *sys.argv[1:]])
threading.Thread(target=child).start()
while len(open(sys.argv[1]).read().splitlines()) < 6: time.sleep(0.01)
be_deaf()
print("ready", flush=True)
if "leave" in sys.argv: os._exit(3)
stay()
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def pids(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()]


@pytest.mark.parametrize("deaf", [False, True])
@pytest.mark.parametrize("leave", [False, True])
async def test_nothing_of_an_attempt_outlives_it(world: HostWorld, tmp_path: Path, deaf: bool, leave: bool) -> None:
    launcher = await world.daemon()
    words = ["deaf"] * deaf + ["leave"] * leave
    note = tmp_path / "pids"
    note.touch()
    await launcher.launch(world.launch([sys.executable, "-c", LEAVERS, str(note), *words], grace=0.5))
    await world.until(lambda: world.out(RUN) == "ready\n")
    began = time.monotonic()
    if not leave:
        assert all(map(alive, pids(note)))
        await launcher.stop(RUN)
    outcome = await launcher.wait(RUN)
    took = time.monotonic() - began
    assert not any(map(alive, pids(note)))
    if leave:
        assert outcome.exit_code == 3
    else:
        assert outcome.signal == (9 if deaf else 15)
    assert took > 0.4 if deaf else took < 5


async def test_the_attempt_lives_while_a_child_of_it_does(world: HostWorld, tmp_path: Path) -> None:
    launcher = await world.daemon()
    script = "trap 'sleep 0.3; touch done; exit' TERM; echo ready; while :; do sleep 0.05; done"
    await launcher.launch(world.shell(f'(setsid sh -c "{script}" &); while [ ! -e go ]; do sleep 0.02; done'))
    await world.until(lambda: world.out(RUN) == "ready\n")
    (tmp_path / "go").touch()
    outcome = await launcher.wait(RUN)
    assert outcome.exit_code == 0
    assert (tmp_path / "done").exists(), "it was not given its grace, or not waited for"


async def test_a_stopped_job_can_still_be_ended(world: HostWorld) -> None:
    launcher = await world.daemon()
    await launcher.launch(world.order("serve"))
    await launcher.signal(RUN, signal.SIGSTOP)
    await asyncio.sleep(0.05)
    await launcher.stop(RUN)
    assert (await launcher.wait(RUN)).signal == signal.SIGTERM


async def test_processes_that_hop_are_caught(world: HostWorld) -> None:
    """Each lives for a millisecond, in a session of its own, and leaves a child: a walk of /proc never meets it."""
    hop = (
        "import os,signal\nsignal.signal(15, signal.SIG_IGN)\nprint('ready', flush=True)\n"
        "while True:\n if os.fork(): os._exit(0)\n os.setsid()\n"
    )
    launcher = await world.daemon()
    await launcher.launch(world.launch([sys.executable, "-c", hop], grace=0.1))
    await asyncio.wait_for(launcher.wait(RUN), 20)


async def test_processes_that_multiply_are_caught(world: HostWorld) -> None:
    bomb = (
        "import os,signal,time\nsignal.signal(15, signal.SIG_IGN)\nprint('ready', flush=True)\n"
        "for n in range(5):\n os.fork()\n"
        "while True:\n pid = os.fork()\n if pid: os.waitpid(pid, 0)\n else: time.sleep(0.001); os._exit(0)\n"
    )
    launcher = await world.daemon()
    await launcher.launch(world.launch([sys.executable, "-c", bomb], grace=0.1))
    await world.until(lambda: world.out(RUN))
    await launcher.stop(RUN)
    await asyncio.wait_for(launcher.wait(RUN), 20)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCONT])
async def test_signals_reach_the_group_both_ways(world: HostWorld, number: signal.Signals) -> None:
    launcher = await world.daemon()
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo {name}' {name}; echo ready; while [ ! -e end ]; do sleep 0.02; done; exit 0"
    await launcher.launch(world.shell(script))
    await world.until(lambda: world.out(RUN) == "ready\n")
    await launcher.signal(RUN, number)
    await world.until(lambda: world.out(RUN).count(name) == 1)
    os.kill(launcher.supervisor(RUN) or 0, number)  # by hand
    await world.until(lambda: world.out(RUN).count(name) == 2)
    (world.tmp / "end").touch()
    assert (await launcher.wait(RUN)).exit_code == 0


async def test_the_whole_group_gets_the_signal(world: HostWorld) -> None:
    launcher = await world.daemon()
    child = "trap 'echo child; exit 0' USR1; echo ready; while :; do sleep 0.02; done"
    await launcher.launch(world.shell(f"trap ':' USR1; sh -c \"{child}\" & wait; wait; exit 4"))
    await world.until(lambda: world.out(RUN) == "ready\n")
    await launcher.signal(RUN, signal.SIGUSR1)
    assert (await launcher.wait(RUN)).exit_code == 4
    assert world.out(RUN) == "ready\nchild\n"


@pytest.mark.parametrize("number", [0, 31, 64])
async def test_only_ordinary_signals_are_passed_on(world: HostWorld, number: int) -> None:
    launcher = await world.daemon()
    with pytest.raises(ValueError, match="cannot pass signal"):
        await launcher.signal(RUN, number)


async def test_output_given_to_a_stranger_does_not_hold_up_the_end(world: HostWorld, tmp_path: Path) -> None:
    """Somebody outside the attempt keeps its stdout open."""
    launcher = await world.daemon()
    await launcher.launch(world.shell("echo before; while [ ! -e end ]; do sleep 0.02; done"))
    await world.until(lambda: world.out(RUN) == "before\n")
    main = next(iter(Path(f"/proc/{launcher.supervisor(RUN)}/task").glob("*/children"))).read_text().split()[0]
    with open(f"/proc/{main}/fd/1", "w") as kept:
        (tmp_path / "end").touch()
        assert (await launcher.wait(RUN)).exit_code == 0
        assert not kept.closed
