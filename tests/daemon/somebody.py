"""Another user of a daemon: a process of theirs that does what the test says, and nothing but the kernel knows who it is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from harness.daemon import Daemon

#: Serves calls of the client's methods, one JSON line each. What it needs is loaded first: that user may not be able to
#: read this installation.
PROGRAM = """
import os, sys
uid, gid, groups, socket = sys.argv[1:]
import grp, json, runners.client, runners.refusals, runners.transport, runners.events, http.client
os.setgroups([int(group) for group in groups.split(",") if group])
os.setresgid(int(gid), int(gid), int(gid))
os.setresuid(int(uid), int(uid), int(uid))
client = runners.client.Client(socket)
for line in sys.stdin:
    name, args, keys = json.loads(line)
    try:
        value = getattr(client, name)(*args, **keys)
        value = value.read().decode(errors="replace") if hasattr(value, "read") else value
        value = list(value) if hasattr(value, "__next__") else value
        print(json.dumps([True, value], default=repr), flush=True)
    except Exception as error:
        print(json.dumps([False, [type(error).__name__, getattr(error, "status", 0), str(error)]]), flush=True)
"""


class Refused(Exception):
    """The daemon said no, as ``kind`` of :mod:`runners.errors` with ``status``."""

    def __init__(self, kind: str, status: int, message: str) -> None:
        super().__init__(f"{kind} ({status}): {message}")
        self.kind, self.status = kind, status


class Somebody:
    """A user by number, with groups, at the daemon's socket. A context manager."""

    def __init__(self, daemon: Daemon, uid: int, *, gid: int | None = None, groups: Sequence[int] = ()) -> None:
        words = [str(uid), str(uid if gid is None else gid), ",".join(map(str, groups)), str(daemon.socket)]
        self.uid = uid
        self._daemon = daemon
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words],
            env=daemon.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def call(self, method: str, *arguments: Any, **keys: Any) -> Any:
        """What that method of `runners.client.Client` gives them.

        Raises:
            Refused: what the daemon refuses them.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([method, arguments, keys]) + "\n")
        self._process.stdin.flush()
        ended_well, value = json.loads(self._process.stdout.readline())
        if not ended_well:
            raise Refused(*value)
        return value

    def submit(self, *jobs: Mapping[str, Any], cwd: object, **keys: Any) -> list[int]:
        """Queue a pipeline; its jobs' ids."""
        document = {"name": "test", "jobs": list(jobs), "cwd": str(cwd), "env": {}, **keys}
        return [job["id"] for job in self.call("submit", [document])[0]["jobs"]]


def at_a_shell(uid: int, command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """What a shell command of theirs on the host comes to."""
    words = [
        "setpriv",
        f"--reuid={uid}",
        f"--regid={uid}",
        "--clear-groups",
        "sh",
        "-c",
        command,
        "sh",
        *map(str, arguments),
    ]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
