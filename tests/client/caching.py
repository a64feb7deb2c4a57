"""What the tests of caches do in processes of their own: to be many at once, to be killed, to be somebody else.

    python -m client.caching MODE DIRECTORY WORDS...

Each process that builds writes a line to `built` beside the cache directory: the evidence is kept outside of it.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from runners.cache import Items, layout, open_cache, upkeep, write_items
from runners.cli import main as cli

ITEMS = 300
#: What an audit hook is told of, among the rest, when something on the disk is about to change or be looked at.
_STEPS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.utime", "os.scandir", "fcntl.flock")


def evidence(directory: str) -> Path:
    """Where builders say that they have begun."""
    return Path(directory).parent / "built"


def item(number: int, seed: int) -> dict[str, Any]:
    """The same item whenever it is made."""
    return {"x": np.arange(64, dtype=np.float32) * number + seed, "y": number}


def waiting(directory: str) -> int:
    """How many processes wait for the lock of the one cache that is being built, as the kernel says."""
    [lock] = Path(directory).glob(".lock-*")
    inode = f":{lock.stat().st_ino}"
    with open("/proc/locks") as table:
        return sum("->" in line and "FLOCK" in line and line.split()[6].endswith(inode) for line in table)


def builder(directory: str, seed: int, pause: float = 0.0, others: int = 0) -> Callable[[zarr.Group], None]:
    """A build that says so, and takes its time: ``pause`` seconds, and until so many ``others`` wait for it."""

    def build(group: zarr.Group) -> None:
        with evidence(directory).open("a") as file:
            file.write(f"{os.getpid()}\n")
        write_items(group, (item(number, seed) for number in range(ITEMS)), batch=50, title="")
        time.sleep(pause)
        while others and waiting(directory) < others:
            time.sleep(0.01)
        group.attrs["whole"] = True

    return build


def read(directory: str, seed: int, pause: float = 0.0, others: int = 0) -> str:
    """Open the cache of a seed, building it if need be, and give the digest of all that is in it."""
    group = open_cache("made", {"seed": seed}, builder(directory, seed, pause, others), directory=directory)
    try:
        return content(group)
    finally:
        group.store.close()


def content(group: zarr.Group) -> str:
    """The digest of a cache's items, after a look at whether it is whole."""
    assert group.attrs["whole"] is True
    digest = hashlib.sha256()
    for batch in Items(group).batches(70):
        digest.update(batch["x"].tobytes())
        digest.update(batch["y"].tobytes())
    return digest.hexdigest()


def expected(seed: int) -> str:
    """What :func:`read` gives for a whole cache."""
    digest = hashlib.sha256()
    for start in range(0, ITEMS, 70):
        items = [item(number, seed) for number in range(start, min(start + 70, ITEMS))]
        digest.update(np.stack([one["x"] for one in items]).tobytes())
        digest.update(np.array([one["y"] for one in items]).tobytes())
    return digest.hexdigest()


def unsound(directory: str) -> list[str]:
    """What is wrong with caches that look finished; none may be."""
    found = []
    if os.path.isdir(directory):
        with layout.opened(directory) as opened:
            for one in upkeep.entries(opened):
                found += [f"{one.id}: {problem}" for problem in upkeep.verify(opened, one)]
    return found


def forked(does: Callable[[], object]) -> int:
    """Do it in a new process; its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            does()
            code = 0
        finally:
            if code:
                traceback.print_exc()
            os._exit(code)
    return pid


def dies_at(step: int) -> None:
    """From now on, kill this process just before its ``step``-th call that has to do with the disk."""
    left = step

    def hook(event: str, _arguments: object) -> None:
        nonlocal left
        if event in _STEPS:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


# -- modes -------------------------------------------------------------------------------------------------------------


def many(directory: str, count: str) -> None:
    """So many processes that open the same new cache at the same moment; prints what each has read."""
    gate, opening = os.pipe()
    out, into = os.pipe()

    def one() -> None:
        os.close(opening)
        os.read(gate, 1)
        os.write(into, f"{read(directory, 1, others=int(count) - 1)}\n".encode())

    pids = [forked(one) for _ in range(int(count))]
    os.close(opening)
    os.close(into)
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
    with open(out) as file:
        print(file.read(), end="")


def killed_builds(directory: str, start: str, most: str, step: str) -> None:
    """Kill a builder before its every ``step``-th step from ``start`` on, until one lives; prints how many died."""
    deaths, finished, number = 0, 0, int(start)
    while number < int(most):
        seed = number

        def build(number: int = number, seed: int = seed) -> None:
            dies_at(number)
            read(directory, seed)

        _pid, status = os.waitpid(forked(build), 0)
        assert not unsound(directory), unsound(directory)
        before = os.listdir(directory) if os.path.isdir(directory) else []
        whole = any(not name.startswith(".") for name in before)
        finished += whole
        assert read(directory, seed) == expected(seed)  # the next one builds it, or reads it
        left = [name for name in os.listdir(directory) if name.startswith(".")]
        # Of one that was killed after its last step but one, the lock is left: nobody needs it, and `prune` takes it.
        assert not [name for name in left if not (whole and name.startswith(".lock-"))], (number, before, left)
        with layout.opened(directory) as opened:
            assert list(upkeep.sweep(opened)) == []
            assert [upkeep.remove(opened, one) for one in upkeep.entries(opened)] == [True]
        assert os.listdir(directory) == []
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        deaths += 1
        number += int(step)
    print(deaths, finished, number)


def killed_prunes(directory: str, start: str, most: str, step: str) -> None:
    """Kill `caches prune` before its every ``step``-th step, until one lives; the next one finishes what it began."""
    os.environ["CACHE_DIRECTORY"] = directory
    os.environ["RUNNERS_SOCKET"] = "/nowhere/s"
    deaths, number = 0, int(start)
    while number < int(most):
        seed = 1
        read(directory, seed)

        def prune(number: int = number) -> None:
            dies_at(number)
            assert cli.run(["caches", "prune", "--keep", "0", "--json"]) == 0

        _pid, status = os.waitpid(forked(prune), 0)
        assert not unsound(directory), unsound(directory)
        [*names] = os.listdir(directory)
        assert len(names) <= 1, names  # there, or on its way out, or gone
        assert os.waitpid(forked(lambda: cli.run(["caches", "prune", "--keep", "0", "--json"])), 0)[1] == 0
        assert os.listdir(directory) == [], (number, names, os.listdir(directory))
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        deaths += 1
        number += int(step)
    print(deaths, number, file=sys.stderr)


def build(directory: str, seed: str, pause: str) -> None:
    """Build one cache, or wait for it; prints what is in it."""
    print(read(directory, int(seed), float(pause)), flush=True)


def hold(directory: str, seed: str) -> None:
    """Open a cache and say so; then read it again and again until standard input ends."""
    group = open_cache("made", {"seed": int(seed)}, directory=directory)
    print(content(group), flush=True)
    os.set_blocking(0, False)
    while True:
        assert content(group) == expected(int(seed))
        try:
            if os.read(0, 1) == b"":
                return
        except BlockingIOError:
            continue


MODES = {
    "many": many,
    "killed_builds": killed_builds,
    "killed_prunes": killed_prunes,
    "build": build,
    "hold": hold,
}

if __name__ == "__main__":
    MODES[sys.argv[1]](*sys.argv[2:])
