"""The parent of everything an engine starts: when its standard input ends, however that comes, it leaves nothing behind.

Run as `keeper.py GROUP` by unshare, in a mount and a network namespace of its own, which die with the last process in
them. It takes orders as lines of JSON, {"argv": [], "env": {}, "log": ""}, and answers each with the process's number.
Whatever loses its parent below it, a container's shim for one, becomes its child. Then nothing is out of its reach: at
the end it kills all of them, and removes GROUP, the control group below which the engine makes its containers'.
"""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

SET_CHILD_SUBREAPER = 36  # of prctl(2)
#: What containerd and dockerd write outside the folders they are told. Ours goes into memory and is gone with us.
HIDDEN = ("/run/containerd", "/run/docker", "/etc/docker")
PATIENCE = 30.0  # seconds for the killed to be gone


def main(group: str) -> str | None:
    """Serve until the input ends, then clean up; what could not be."""
    if ctypes.CDLL(None, use_errno=True).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        return f"prctl: {os.strerror(ctypes.get_errno())}"
    for folder in HIDDEN:
        Path(folder).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", folder], check=True)
    answer({"ready": True})
    serve()
    return clean(group)


def answer(value: dict[str, object]) -> None:
    """One line, at once."""
    print(json.dumps(value), flush=True)


def serve() -> None:
    """Start what is ordered, and reap what ends."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    unread = b""
    while True:
        ready, _, _ = select.select([0, reader], [], [])
        if reader in ready:
            os.read(reader, 4096)
            reap()
        if 0 in ready:
            got = os.read(0, 1 << 16)
            if not got:
                return
            *orders, unread = (unread + got).split(b"\n")
            for order in orders:
                answer({"pid": start(**json.loads(order))})


def start(argv: list[str], env: dict[str, str], log: str) -> int:
    """A process in a session of its own, with its output added to ``log``."""
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(argv[0], argv, env, file_actions=files, setsid=True)


def reap() -> None:
    """Take note of every child that has ended."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


def clean(group: str) -> str | None:
    """Kill all that is below us, and remove the control group."""
    end = time.monotonic() + PATIENCE
    folders = [folder for base in hierarchies() if (folder := base / group).is_dir()]
    while living := below(os.getpid()):
        for folder in folders:  # what is frozen does not die
            for state in folder.rglob("freezer.state"):
                write(state, "THAWED")
            for state in folder.rglob("cgroup.freeze"):
                write(state, "0")
        for pid in living:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        reap()
        if time.monotonic() > end:
            return f"still alive {PATIENCE:g} s after SIGKILL: {living}"
        time.sleep(0.01)  # there is no event for "a grandchild is mine now"
    for folder in folders:
        for directory, _subfolders, _files in os.walk(folder, topdown=False):
            while (failed := remove(Path(directory))) is not None:
                if time.monotonic() > end:
                    return f"cannot remove {directory}: {failed}"
                time.sleep(0.01)  # a group is busy a little longer than its last process
    return None


def below(ancestor: int) -> list[int]:
    """Every descendant, by the parents in /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = list(children.get(ancestor, ()))
    for pid in found:  # grows while it is walked
        found += children.get(pid, ())
    return found


def hierarchies() -> list[Path]:
    """The roots of the control groups: one, or one a controller."""
    base = Path("/sys/fs/cgroup")
    return [base] if (base / "cgroup.procs").exists() else [folder for folder in base.iterdir() if folder.is_dir()]


def write(file: Path, text: str) -> None:
    """Into a file of a control group that may be gone."""
    try:
        file.write_text(text)
    except OSError:
        return


def remove(folder: Path) -> OSError | None:
    """One group; why not."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        return None
    except OSError as failed:
        return failed
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
