"""What processes have: real ones, and cgroups of either version as their files say it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.daemon import eventually
from runnersd.machine import Metered
from runnersd.machine.meter import KernelMeter, container_cgroup

MIB = 1 << 20
KEY, OTHER = (1, 1), (2, 1)

#: Does what stdin says, for ever: `hold N` keeps MiB, `burn N` uses seconds of CPU, `child` starts another below it that
#: then hears everything in its place, `leave` ends the lowest.
PROGRAM = """
import subprocess, sys, time
held, below = [], []
for line in sys.stdin:
    if below:
        below[0].stdin.write(line); below[0].stdin.flush()
        said = below[0].stdout.readline().strip()
        if said == "left":
            below.pop().wait()
        print("ok", flush=True)
        continue
    word, _, number = line.strip().partition(" ")
    if word == "hold":
        held.append(bytearray(int(number) << 20))
    elif word == "burn":
        until = time.process_time() + float(number)
        while time.process_time() < until:
            pass
    elif word == "child":
        below.append(subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[1]], text=True,
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    elif word == "leave":
        print("left", flush=True)
        break
    print("ok", flush=True)
"""


class Puppet:
    """Stands for a supervisor, with an attempt's processes below it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid

    def do(self, *lines: str) -> None:
        """Have its lowest process do these things; done when this returns."""
        assert self.process.stdin is not None and self.process.stdout is not None
        for line in lines:
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()
            assert self.process.stdout.readline() == "ok\n"


@contextmanager
def puppet() -> Iterator[Puppet]:
    command = [sys.executable, "-c", PROGRAM, PROGRAM]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield Puppet(process)
        finally:
            process.kill()


def test_all_that_is_below_an_attempts_supervisor_counts_and_nothing_else() -> None:
    meter = KernelMeter()
    with puppet() as one, puppet() as two:
        attempts = {KEY: Metered(one.pid, False), OTHER: Metered(two.pid, False)}
        assert meter.look(attempts, 0.0)[KEY].memory == 0, "the supervisor itself is not the job's"
        one.do("hold 50", "child", "hold 30")
        first = meter.look(attempts, 1.0)
        assert first[OTHER].memory == 0 and 30 * MIB < (first[KEY].memory or 0) < 50 * MIB
        one.do("child", "hold 20")
        more = meter.look(attempts, 2.0)
        assert (more[KEY].memory or 0) - (first[KEY].memory or 0) > 20 * MIB
        one.do("leave")
        after = meter.look(attempts, 3.0)
        assert abs((after[KEY].memory or 0) - (first[KEY].memory or 0)) < 5 * MIB


def test_cpu_is_in_cores_since_the_look_before_and_that_of_the_dead_counts() -> None:
    meter = KernelMeter()
    with puppet() as one:
        attempts = {KEY: Metered(one.pid, False)}
        one.do("burn 0.3", "child")
        assert meter.look(attempts, 10.0)[KEY].cpu is None, "there is no look before"
        one.do("burn 0.5")
        assert meter.look(attempts, 12.0)[KEY].cpu == pytest.approx(0.25, abs=0.06)
        one.do("child", "burn 0.4", "leave")
        assert meter.look(attempts, 14.0)[KEY].cpu == pytest.approx(0.2, abs=0.06)
        idle = meter.look(attempts, 16.0)[KEY].cpu
        assert idle is not None and idle < 0.03
        assert meter.look({(1, 2): Metered(one.pid, False)}, 18.0)[1, 2].cpu is None, "the next attempt begins anew"


def test_an_attempt_that_is_gone_is_not_told() -> None:
    meter = KernelMeter()
    with puppet() as one:
        attempts = {KEY: Metered(one.pid, False)}
        assert KEY in meter.look(attempts, 0.0)
    eventually("it is gone", lambda: not os.path.exists(f"/proc/{one.pid}"))
    assert meter.look(attempts, 1.0) == {}


def test_a_container_whose_cgroup_cannot_be_seen_is_measured_by_its_first_process() -> None:
    meter = KernelMeter()
    with puppet() as one:
        one.do("hold 40")
        memory = meter.look({KEY: Metered(one.pid, True)}, 0.0)[KEY].memory
        assert memory is not None and memory > 40 * MIB


ID = "0123456789abcdef" * 4


def written(folder: Path, **files: str) -> Path:
    """A cgroup's folder; `_` in a name stands for its dot, `__` for `_`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", "%").replace("_", ".").replace("%", "_")).write_text(text)
    return folder


def test_a_cgroup_of_version_2_says_what_its_container_has(tmp_path: Path) -> None:
    stat = "anon 5\nfile 9\ninactive_anon 1\ninactive_file 3000\nactive_file 1\n"
    cpu = "usage_usec 2500000\nuser_usec 2000000\n"
    written(tmp_path / f"system.slice/docker-{ID}.scope", memory_current="10000\n", memory_stat=stat, cpu_stat=cpu)
    group = container_cgroup(f"0::/system.slice/docker-{ID}.scope/init\n", tmp_path)
    assert group is not None and (group.read().memory, group.read().cpu) == (7000, 2.5)


def test_cgroups_of_version_1_say_it_each_their_part(tmp_path: Path) -> None:
    stat = "inactive_file 1\ntotal_inactive_file 3000\n"
    written(tmp_path / f"memory/docker/{ID}", memory_usage__in__bytes="10000\n", memory_stat=stat)
    written(tmp_path / f"cpu,cpuacct/docker/{ID}", cpuacct_usage="2500000000\n")
    (tmp_path / "pids/docker" / ID).mkdir(parents=True)
    text = (
        f"12:pids:/docker/{ID}\n5:memory:/docker/{ID}\n4:cpu,cpuacct:/docker/{ID}\n1:name=systemd:/docker/{ID}\n0::/x\n"
    )
    group = container_cgroup(text, tmp_path)
    assert group is not None and (group.read().memory, group.read().cpu) == (7000, 2.5)


def test_a_cgroup_that_is_gone_says_nothing(tmp_path: Path) -> None:
    folder = written(tmp_path / ID, memory_current="1\n")
    group = container_cgroup(f"0::/{ID}\n", tmp_path)
    (folder / "memory.current").unlink()
    assert group is not None and (group.read().memory, group.read().cpu) == (None, None)
    assert container_cgroup("0::/user.slice/session-1.scope\n", tmp_path) is None
    assert container_cgroup(f"0::/docker/{'f' * 64}\n", tmp_path) is None


def test_from_the_second_look_on_only_what_is_new_or_an_attempts_own_is_read() -> None:
    meter = KernelMeter()
    reads: list[str] = []
    real = os.open

    def noted(path: str, *rest: int) -> int:
        reads.append(str(path))
        return real(path, *rest)

    with puppet() as one, pytest.MonkeyPatch.context() as patch:
        one.do("child")
        attempts = {KEY: Metered(one.pid, False)}
        meter.look(attempts, time.monotonic())
        patch.setattr(os, "open", noted)
        meter.look(attempts, time.monotonic())
    ours = [path for path in reads if path.endswith("/stat")]
    assert f"/proc/{one.pid}/stat" in ours and "/proc/1/stat" not in ours and len(set(ours)) == len(ours)
