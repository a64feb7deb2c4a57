"""Container jobs on an engine that tests break: daemons on it, payloads that leave evidence, and its checker.

The payload's word is in a file on the host, each line on disk before it goes on. What lives is asked of the kernel.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from engine import CARDS, PROGRAM, SHELL, Engine
from engine.keeper import hierarchies
from fake_nvml import FakeDriver
from harness.daemon import Daemon, eventually
from harness.oracle import Line, read

#: Where a payload finds the oracle: the pipeline's directory is its /workspace.
INSIDE = "/workspace/oracle"
#: What is on the command line of whoever waits at a gate, and of the init above.
GATE = b"/.runners/go"


def job(name: str, seconds: float, code: int = 0, **keys: Any) -> dict[str, Any]:
    """A container job that leaves evidence, after ``seconds``, and exits with ``code``."""
    command = [PROGRAM, "witness", INSIDE, str(seconds), str(code)]
    return {"name": name, "command": command, "run_in": "container", "image": SHELL, **keys}


def daemon_on(
    socket: Path,
    folder: Path,
    *,
    driver: FakeDriver | None = None,
    config: Mapping[str, Any] | None = None,
    personal: bool = False,
) -> Daemon:
    """A daemon for the engine at ``socket``, not started yet. A ``personal`` one has no gates."""
    containers = {"socket": str(socket), "network": "none"}
    env = driver.environment({}) if driver is not None else None
    return Daemon(folder, config={"containers": containers, **(config or {})}, env=env, personal=personal)


class Evidence:
    """What payloads of one daemon wrote."""

    def __init__(self, daemon: Daemon) -> None:
        self.file = daemon.folder / "oracle"

    def lines(self) -> list[Line]:
        """All of it."""
        return read(self.file)

    def started(self, job: int, attempt: int = 1) -> bool:
        """Whether that attempt's payload has begun."""
        return any((line.word, line.job, line.attempt) == ("start", job, attempt) for line in self.lines())

    def await_start(self, *jobs: int, attempt: int = 1) -> None:
        """Wait until the payload of each of these jobs has begun."""
        for one in jobs:
            eventually(f"the payload of job {one} has begun", lambda one=one: self.started(one, attempt))


class CardWatch:
    """Looks all the time which attempts' processes are alive on which card; a context manager.

    `shared` has what it must not see: a card with the processes of two attempts.
    """

    def __init__(self, engine: Engine) -> None:
        self.shared: list[str] = []
        self.looks = 0
        self._folder = next(base / engine.group for base in hierarchies() if (base / "cgroup.procs").exists())
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="card-watch")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        assert not self.shared, self.shared
        assert self.looks

    def _run(self) -> None:
        while not self._over.wait(0.01):
            self.look()

    def look(self) -> None:
        """Once."""
        self.looks += 1
        on_card: dict[str, tuple[str, int]] = {}
        for pid in living(self._folder):
            who, cards = claims(pid)
            for card in cards:
                other, before = on_card.setdefault(card, (who, pid))
                # The first one may have ended since it was seen: then they were not there together.
                if other != who and claims(before)[0] == other:
                    self.shared.append(f"card {card} has processes of {other} (pid {before}) and {who} (pid {pid})")


def living(folder: Path) -> list[int]:
    """The processes below a control group."""
    found: list[int] = []
    for directory, _folders, _files in os.walk(folder):
        with suppress(OSError):  # it is gone since
            found += map(int, (Path(directory) / "cgroup.procs").read_text().split())
    return found


def claims(pid: int) -> tuple[str, list[str]]:
    """Of which attempt a payload's process is, and on which cards, by the environment it was started with; empty when it
    is gone, or still waits at its gate."""
    with suppress(OSError):
        environ = Path(f"/proc/{pid}/environ").read_text(errors="replace")
        # Second: who is about to become the gate has no arguments for a moment, and has the environment right after it.
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
        env = dict(pair.partition("=")[::2] for pair in environ.split("\0"))
        if arguments and GATE not in arguments and "RUNNERS_JOB_ID" in env:
            cards = env.get("CUDA_VISIBLE_DEVICES", "")
            return f"{env['RUNNERS_JOB_ID']}.{env['RUNNERS_ATTEMPT']}", cards.split(",") if cards else []
    return "", []


def check(
    lines: Iterable[Line],
    jobs: Mapping[int, Any],
    codes: Mapping[int, int] | None = None,
    *,
    lost: Iterable[str] = ("container_lost",),
) -> None:
    """Assert what must be true of container jobs once everything is over. ``jobs`` are `show`'s objects, ``codes`` what
    they exit with (0 where not named), ``lost`` the reasons of attempts whose end could not be seen.

    No attempt starts twice. One that is said to have exited did so, with that code. One that is said never to have run
    left nothing. A card never has two attempts between their lines. Each attempt has one end, in the history too.
    """
    starts: dict[tuple[int, int], list[Line]] = defaultdict(list)
    ends: dict[tuple[int, int], Line] = {}
    for line in lines:
        key = (line.job, line.attempt)
        if line.word == "start":
            starts[key].append(line)
        else:
            ends[key] = line
    twice = {key: found for key, found in starts.items() if len(found) > 1}
    assert not twice, f"attempts that started twice: {twice}"
    assert not {job for job, _ in starts} - jobs.keys(), "jobs ran that the daemon does not know"
    for id, shown in jobs.items():
        assert [one["attempt"] for one in shown["attempts"]] == list(range(1, shown["attempt"] + 1))
        over = [event["type"] for event in shown["events"] if event["type"] in ENDS]
        assert over == [f"job.{shown['state']}"], f"job {id}: {shown['state']}, its history says {over}"
        for attempt in shown["attempts"]:
            key, why = (id, attempt["attempt"]), attempt["reason"]["code"]
            if why in ("ok", "exit_code"):
                assert key in ends, f"attempt {key} is said to have ended, and wrote no end"
                assert attempt["exit_code"] == (codes or {}).get(id, 0), f"attempt {key}: {attempt}"
            elif why == "launch_failed":
                assert key not in starts, f"attempt {key} is said never to have run"
            else:
                assert why in lost, f"attempt {key}: {attempt}"
            for line in starts.get(key, ()):
                assert list(line.cards) == attempt["gpus"], f"attempt {key} saw other cards than it reserved"
    by_card: dict[str, list[tuple[int, int, tuple[int, int]]]] = defaultdict(list)
    for key, found in starts.items():
        for card in found[0].cards:
            by_card[card].append((found[0].at, ends[key].at if key in ends else found[0].at, key))
    for card, intervals in by_card.items():
        intervals.sort()
        for (_, end, first), (start, _, second) in itertools.pairwise(intervals):
            assert end <= start, f"card {card} was held by attempts {first} and {second} at once"


ENDS = {f"job.{state}" for state in ("succeeded", "failed", "cancelled", "timed_out", "skipped")}


def nothing_left(engine: Engine, daemon: Daemon, *, records: bool = True) -> None:
    """Wait until the engine has no container and no process of a job, and the daemon no gate and no record.

    ``records`` is whether these count: a daemon that is killed just before it removes the last file of an attempt without
    a gate leaves that file.
    """
    folders = [base / engine.group for base in hierarchies()]
    gates = daemon.state / "gates"
    eventually("no container is left", lambda: not engine.api("GET", "/containers/json?all=1").json)
    eventually("no process is left", lambda: not any(living(folder) for folder in folders))
    eventually("no gate is left", lambda: not gates.exists() or not list(gates.iterdir()))
    if not records:
        return
    eventually(
        "no record is left", lambda: not [*daemon.state.glob("runs/*/*.run"), *daemon.state.glob("runs/*/*.pos")]
    )


__all__ = ["CARDS", "CardWatch", "Evidence", "check", "daemon_on", "job", "nothing_left"]
