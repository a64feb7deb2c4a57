"""What a host job is given, and what it is not."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pwd
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from machine.worlds import HostWorld, run_name
from runners.api import Code
from runnersd.machine import LaunchFailed
from runnersd.model import Submitter

RUN = run_name()
ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="only root can start jobs as somebody else")

#: Prints what a process sees of itself, as JSON.
LOOK = """
import json, os, signal, sys
mask = os.umask(0)
print(json.dumps({
    "environment": {os.fsdecode(k): os.fsdecode(v) for k, v in os.environb.items()},
    "descriptors": {n: os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
                    if os.path.lexists(f"/proc/self/fd/{n}")},
    "umask": mask, "cwd": os.getcwd(), "oom": open("/proc/self/oom_score_adj").read().strip(),
    "session": os.getsid(0), "group": os.getpgid(0), "pid": os.getpid(), "parent": os.getppid(),
    "ids": [list(os.getresuid()), list(os.getresgid()), sorted(os.getgroups())],
}))
"""


async def look(world: HostWorld, **options: object) -> dict[str, object]:
    """What a job sees of itself."""
    outcome = await world.run(world.launch([sys.executable, "-I", "-S", "-c", LOOK], **options))  # type: ignore[arg-type]
    assert outcome.exit_code == 0, world.err(RUN) or outcome
    found: dict[str, object] = json.loads(world.out(RUN))
    return found


async def test_its_environment_is_what_was_ordered_and_its_run_name(world: HostWorld) -> None:
    await world.daemon()
    odd = {"EMPTY": "", "A": "1=2", "NON_ASCII": "é\udcff", "LINES": "a\nb"}
    seen = (await look(world, environment=odd))["environment"]
    assert isinstance(seen, dict)
    seen.pop("LC_CTYPE", None)  # the interpreter's own doing
    assert seen == {**odd, "RUNNERS_RUN": str(RUN)}


async def test_it_inherits_no_descriptor(world: HostWorld) -> None:
    await world.daemon()
    seen = (await look(world))["descriptors"]
    assert isinstance(seen, dict)
    assert seen.pop("0") == "/dev/null"
    assert seen.pop("1").startswith("pipe:")
    assert seen.pop("2").startswith("pipe:")
    assert not seen


@pytest.mark.parametrize("somebody", [False, pytest.param(True, marks=needs_root)])
async def test_signals_are_as_at_birth(world: HostWorld, somebody: bool) -> None:
    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # a daemon under nohup ignores some
    try:
        await world.daemon()
    finally:
        signal.signal(signal.SIGUSR2, before)
    submitter = Submitter(0, 0) if somebody else None
    outcome = await world.run(world.launch(["cat", "/proc/self/status"], submitter=submitter))
    assert outcome.exit_code == 0
    internal = 0b11 << 31  # 32 and 33 are the C library's own: its posix_spawn ignores them
    lines = [line.split() for line in world.out(RUN).splitlines() if line[:6] in ("SigIgn", "SigBlk", "SigCgt")]
    masks = [int(mask, 16) for _, mask in lines]
    assert [mask & ~internal for mask in masks] == [0, 0, 0]


@needs_root
async def test_what_the_c_library_ignores_is_not_inherited(world: HostWorld) -> None:
    """Signals 32 and 33, which posix_spawn leaves ignored in whatever it starts: here, the daemon."""
    with ignored(32, 33):
        await world.daemon()
    nobody = pwd.getpwnam("nobody")
    who = Submitter(nobody.pw_uid, nobody.pw_gid)
    assert (await world.run(world.launch(["cat", "/proc/self/status"], submitter=who, cwd="/"))).exit_code == 0
    (mask,) = (line.split()[1] for line in world.out(RUN).splitlines() if line.startswith("SigIgn"))
    assert int(mask, 16) == 0


@contextlib.contextmanager
def ignored(*numbers: int) -> Iterator[None]:
    """Have this process ignore signals whose sigaction the C library refuses."""
    libc, ignore, before = ctypes.CDLL(None, use_errno=True), (ctypes.c_ulong * 8)(signal.SIG_IGN), {}
    call = {"x86_64": 13}.get(os.uname().machine, 134)
    for number in numbers:
        before[number] = (ctypes.c_ulong * 8)()
        assert libc.syscall(call, number, ignore, before[number], 8) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        for number in numbers:
            assert libc.syscall(call, number, before[number], None, 8) == 0


async def test_it_leads_its_own_session_and_group(world: HostWorld) -> None:
    launcher = await world.daemon()
    seen = await look(world)
    assert seen["session"] == seen["group"] == seen["pid"]
    assert launcher.supervisor(RUN) is None


@pytest.mark.parametrize("umask", [0o022, 0o077, 0])
async def test_its_umask_and_directory_are_the_submitter_s(world: HostWorld, umask: int, tmp_path: Path) -> None:
    await world.daemon()
    (tmp_path / "sub").mkdir()
    seen = await look(world, umask=umask, cwd=tmp_path / "sub")
    assert (seen["umask"], seen["cwd"]) == (umask, str(tmp_path / "sub"))


@pytest.mark.parametrize("ours", ["-900", "100"])
async def test_it_is_as_anybody_to_the_out_of_memory_killer(world: HostWorld, ours: str) -> None:
    score = Path("/proc/self/oom_score_adj")
    before = score.read_text()
    try:
        score.write_text(ours)
    except PermissionError:
        pytest.skip("exempting a process needs CAP_SYS_RESOURCE")
    try:
        await world.daemon()
    finally:
        score.write_text(before)
    assert (await look(world))["oom"] == "0"


async def test_its_supervisor_keeps_nothing_of_that(world: HostWorld, tmp_path: Path) -> None:
    launcher = await world.daemon()
    await launcher.launch(world.shell("echo ready; sleep 1000", umask=0o777))
    await world.until(lambda: world.out(RUN))
    assert os.readlink(f"/proc/{launcher.supervisor(RUN)}/cwd") == "/"
    assert stat.S_IMODE(launcher.logs(RUN)[0].stat().st_mode) == 0o600


async def test_no_supervisor_is_below_the_daemon(world: HostWorld) -> None:
    launcher = await world.daemon()
    await launcher.launch(world.order("serve"))
    pid = launcher.supervisor(RUN)
    while pid is not None and pid > 1:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pid = int(fields[1])
        assert pid != os.getpid()


async def test_the_program_is_looked_up_on_the_job_s_path_in_its_directory(world: HostWorld, tmp_path: Path) -> None:
    await world.daemon()
    for name in ("bin", "first"):
        (tmp_path / name).mkdir()
    (tmp_path / "first" / "tool").mkdir()  # not a program
    tool = tmp_path / "bin" / "tool"
    tool.write_text("#!/bin/sh\necho found\n")
    tool.chmod(0o755)
    assert (await world.run(world.launch(["tool"], environment={"PATH": "/nowhere:first:bin"}))).exit_code == 0
    assert world.out(RUN) == "found\n"
    assert (await world.run(world.launch(["bin/tool"], job=2))).exit_code == 0


@pytest.mark.parametrize("somebody", [False, pytest.param(True, marks=needs_root)])
async def test_what_cannot_start_is_told_why(world: HostWorld, tmp_path: Path, somebody: bool) -> None:
    launcher = await world.daemon()
    (tmp_path / "text").write_text("no program")
    (tmp_path / "text").chmod(0o755)
    (tmp_path / "plain").touch()
    submitter = Submitter(0, 0, (0,)) if somebody else None
    for job, (argv, cwd, why) in enumerate(
        [
            (["nothing"], tmp_path, "cannot run 'nothing': No such program on its PATH"),
            (["./nothing"], tmp_path, "cannot run './nothing': No such file or directory"),
            (["./plain"], tmp_path, "cannot run './plain': Permission denied"),
            (["./text"], tmp_path, "cannot run './text': Exec format error"),
            (["true"], tmp_path / "gone", f"cannot run 'true' in '{tmp_path}/gone': No such file or directory"),
            (["true", "x" * 3_000_000], tmp_path, "cannot run 'true': Argument list too long"),
            (["a\0b"], tmp_path, "embedded null byte"),
            ([""], tmp_path, "its first word is empty"),
        ],
        start=1,
    ):
        with pytest.raises(LaunchFailed) as caught:
            await launcher.launch(world.launch(argv, cwd=cwd, job=job, submitter=submitter))
        assert why in str(caught.value)
        outcome = await launcher.wait(run_name(job))
        assert outcome.failure is not None and outcome.failure.code is Code.LAUNCH_FAILED


async def test_an_environment_of_megabytes_arrives(world: HostWorld) -> None:
    await world.daemon()
    large = {f"V{n}": "x" * 100_000 for n in range(15)} | {"PATH": os.defpath}
    outcome = await world.run(world.shell('echo "${#V14}"', environment=large))
    assert (outcome.exit_code, world.out(RUN)) == (0, "100000\n")


async def test_each_stream_has_its_log_and_silence_has_none(world: HostWorld) -> None:
    launcher = await world.daemon()
    await world.run(world.shell("echo out; echo err >&2; printf more"))
    out, err = launcher.logs(RUN)
    assert (out.read_text(), err.read_text()) == ("out\nmore", "err\n")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert stat.S_IMODE(out.parent.stat().st_mode) == stat.S_IMODE(out.parent.parent.stat().st_mode) == 0o700
    await world.run(world.order("true", job=2))
    assert not any(path.exists() for path in launcher.logs(run_name(2)))


async def test_a_log_stays_when_its_attempt_is_forgotten(world: HostWorld) -> None:
    launcher = await world.daemon()
    await world.run(world.shell("echo kept"))
    await launcher.forget(RUN)
    assert launcher.logs(RUN)[0].read_text() == "kept\n"
    assert sorted(path.name for path in launcher.logs(RUN)[0].parent.iterdir()) == ["1.1.out"]


async def test_output_stops_at_its_limit_and_the_job_does_not(world: HostWorld) -> None:
    await world.daemon()
    outcome = await world.run(world.shell("head -c 300000 /dev/zero; echo fine >&2; exit 3", log_max=100_000))
    assert (outcome.exit_code, outcome.truncated) == (3, True)
    assert world.out(RUN) == "\0" * 100_000 + "\n[runners: cut here, at 100000 bytes]\n"
    assert world.err(RUN) == "fine\n"


async def test_output_of_exactly_its_limit_is_whole(world: HostWorld) -> None:
    await world.daemon()
    outcome = await world.run(world.shell("head -c 100000 /dev/zero", log_max=100_000))
    assert not outcome.truncated
    assert world.out(RUN) == "\0" * 100_000


async def test_a_log_that_cannot_be_written_does_not_hold_the_job_up(world: HostWorld) -> None:
    launcher = await world.daemon()
    launcher.logs(RUN)[0].parent.mkdir(parents=True)
    launcher.logs(RUN)[0].symlink_to("/dev/full")  # never followed, never overwritten
    outcome = await world.run(world.shell("head -c 1000000 /dev/zero; exit 3"))
    assert (outcome.exit_code, outcome.truncated) == (3, True)


async def test_a_full_disk_does_not_hold_the_job_up(world: HostWorld) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))  # a write past it fails: EFBIG, as ENOSPC would
    try:
        await world.daemon()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    outcome = await world.run(world.shell("head -c 1000000 /dev/zero; exit 3"))
    assert (outcome.exit_code, outcome.truncated) == (3, True)
    assert len(world.out(RUN)) == 50_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    path = tmp_path / "small"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(path)]
    if not ROOT or subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("mounting a small file system needs root and CAP_SYS_ADMIN")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


async def test_an_end_is_recorded_on_a_full_disk_and_nothing_starts(world: HostWorld, small_disk: Path) -> None:
    world.state = small_disk / "state"
    launcher = await world.daemon()
    script = "echo first; while [ ! -e end ]; do sleep 0.02; done; head -c 90000 /dev/zero"
    await launcher.launch(world.shell(script))
    await world.until(lambda: world.out(RUN))
    with contextlib.suppress(OSError), open(small_disk / "filling", "wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    with pytest.raises(LaunchFailed, match="No space left"):
        await launcher.launch(world.order("true", job=2))
    (world.tmp / "end").touch()
    outcome = await launcher.wait(RUN)
    assert (outcome.exit_code, outcome.truncated) == (0, True)
    assert world.starts(run_name(2)) == 0
    (small_disk / "filling").unlink()
    with pytest.raises(LaunchFailed, match="No space left"):
        await launcher.launch(world.order("true", job=2))


async def test_a_job_may_close_its_output(world: HostWorld) -> None:
    await world.daemon()
    outcome = await world.run(world.shell("exec >&- 2>&-; sleep 0.1; exit 3"))
    assert outcome.exit_code == 3


async def test_a_hundred_megabytes_go_through_quickly(world: HostWorld) -> None:
    await world.daemon()
    began = time.monotonic()
    outcome = await world.run(world.shell("head -c 100000000 /dev/zero"))
    took = time.monotonic() - began
    assert outcome.exit_code == 0
    assert (world.state / "runs/0/1.1.out").stat().st_size == 100_000_000
    assert took < 10, f"100 MB took {took:.1f} s"


@needs_root
async def test_root_starts_it_as_its_submitter(world: HostWorld, tmp_path: Path) -> None:
    await world.daemon()
    nobody = pwd.getpwnam("nobody")
    who = Submitter(nobody.pw_uid, nobody.pw_gid, (nobody.pw_gid, 12345))
    launch = world.shell("id -u; id -g; id -G; umask; cat /etc/shadow", submitter=who, umask=0o027, cwd="/")
    outcome = await world.run(launch)
    assert outcome.exit_code != 0
    assert "Permission denied" in world.err(RUN)
    uid, gid, groups, umask = world.out(RUN).splitlines()
    assert (uid, gid, umask) == (str(nobody.pw_uid), str(nobody.pw_gid), "0027")
    assert set(groups.split()) == {str(nobody.pw_gid), "12345"}


@needs_root
async def test_its_directory_is_entered_as_its_submitter(world: HostWorld, tmp_path: Path) -> None:
    launcher = await world.daemon()
    secret = tmp_path / "secret"
    secret.mkdir(mode=0o700)
    nobody = pwd.getpwnam("nobody")
    with pytest.raises(LaunchFailed, match=f"cannot run 'true' in '{secret}': Permission denied"):
        await launcher.launch(world.launch(["true"], submitter=Submitter(nobody.pw_uid, nobody.pw_gid), cwd=secret))


@needs_root
async def test_a_submitter_cannot_signal_their_supervisor(world: HostWorld) -> None:
    await world.daemon()
    nobody = pwd.getpwnam("nobody")
    launch = world.shell("kill -9 $PPID", submitter=Submitter(nobody.pw_uid, nobody.pw_gid), cwd="/")
    assert (await world.run(launch)).exit_code == 1
