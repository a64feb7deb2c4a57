"""A real `runnersd` of the test's own, in its own folder: to start, ask, kill and start again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from runners.client import Client
from runners.errors import DaemonUnreachable

ROOT = Path(__file__).parents[2]
PERSONAL = Path(__file__).with_name("personal.py")

#: Seconds that anything here waits before it calls a test failed; machines are noisy.
PATIENCE = 60.0


def eventually(what: str, check: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """The first true value of ``check``; fails the test when there is none in ``patience`` seconds."""
    end = time.monotonic() + patience
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < end, f"still not so after {patience:g} s: {what}"
        time.sleep(0.01)


class Daemon:
    """`runnersd` as a user would start it, with its state, locks and socket in one folder."""

    def __init__(
        self,
        folder: Path,
        *,
        config: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        personal: bool = False,
    ):
        """``personal`` is a user's own daemon, also where the tests are root's."""
        self.folder = folder
        self.state = folder / "state"
        # Socket paths are limited to 107 bytes, and a test's folder may be deep.
        self.socket = Path(tempfile.mkdtemp(prefix="rd-")) / "s"
        self.config = folder / "runnersd.yml"
        self.log = folder / "runnersd.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.python = sys.executable  #: what runs it
        self.uid: int | None = None  #: whom it runs as, where that is not us
        self.program = [str(PERSONAL)] if personal else ["-m", "runnersd"]
        folder.mkdir(parents=True, exist_ok=True)
        self.configure(config or {})
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("RUNNERS_", "FAKE_NVML"))},
            "PYTHONPATH": os.pathsep.join([str(ROOT / "client"), str(ROOT / "scheduler")]),
            "RUNNERS_LOCK_DIR": str(folder / "locks"),
            "RUNNERS_SOCKET": str(self.socket),
            **(env or {}),
        }

    def configure(self, config: Mapping[str, Any]) -> None:
        """Write the daemon's configuration; JSON is YAML."""
        jobs = {"min_free_disk": "64MiB", **config.get("jobs", {})}
        self.config.write_text(json.dumps({**config, "jobs": jobs}))

    def start(self, *, wait: bool = True) -> Daemon:
        """Start it, and wait until it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.python, *self.program, "--config", self.config, "--state-dir", self.state,
                 "--socket", self.socket],
                env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                user=self.uid, group=self.uid, extra_groups=None if self.uid is None else [],
            )  # fmt: skip
        if wait:
            self.answers()
        return self

    def answers(self) -> None:
        """Wait until it does."""
        assert self.process is not None, "start it first"
        process = self.process

        def up() -> bool:
            assert process.poll() is None, f"runnersd ended with {process.returncode}:\n{self.log.read_text()[-3000:]}"
            try:
                self.client().health()
            except DaemonUnreachable:
                return False
            return True

        eventually("the daemon answers", up)

    def client(self) -> Client:
        """A client of it."""
        return Client(str(self.socket))

    def kill(self, number: int = signal.SIGKILL) -> int:
        """End it with a signal; returns its exit status."""
        assert self.process is not None, "start it first"
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def stop(self) -> None:
        """Cancel what is left of its jobs and end it."""
        if self.process is None or self.process.poll() is not None:
            return
        try:
            self.client().shutdown(now=True)
            self.process.wait(PATIENCE)
        except (DaemonUnreachable, subprocess.TimeoutExpired):
            self.kill()

    def run(self, *argv: str, stdin: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
        """`runners-client` with these arguments, against it."""
        return subprocess.run(
            [sys.executable, "-m", "runners.cli", *argv], env=self.env, input=stdin, capture_output=True,
            timeout=PATIENCE, cwd=cwd or self.folder, check=False,
        )  # fmt: skip

    def submit(self, *jobs: Mapping[str, Any], **keys: Any) -> list[int]:
        """Queue a pipeline as JSON; returns its jobs' ids."""
        document = {
            "name": "test",
            "jobs": list(jobs),
            "cwd": str(self.folder),
            "env": {"PATH": os.environ["PATH"]},
            **keys,
        }
        return [job["id"] for job in self.client().submit([document])[0]["jobs"]]

    def reload(self) -> None:
        """Have it read its configuration again, and wait until it has."""
        assert self.process is not None, "start it first"
        before = self.log.read_text().count("configuration read again")
        self.process.send_signal(signal.SIGHUP)
        eventually("it was read again", lambda: self.log.read_text().count("configuration read again") > before)

    def job(self, id: int) -> Any:
        """Everything known of a job."""
        return self.client().job(id)

    def wait(self, *ids: int, patience: float = PATIENCE) -> list[Any]:
        """The jobs, once all are over."""
        over = {"succeeded", "failed", "cancelled", "timed_out", "skipped"}

        def settled() -> list[Any]:
            jobs = [self.job(id) for id in ids]
            return jobs if all(job["state"] in over for job in jobs) else []

        return list(eventually(f"jobs {ids} are over", settled, patience))

    def __enter__(self) -> Daemon:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
