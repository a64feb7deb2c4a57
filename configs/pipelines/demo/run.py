"""`make demo`: a daemon of its own, the demo's pipeline through it, and everything stopped again.

Plain Python and the two programs beside it. All of it lives in one folder (`.demo`), so that removing that folder
removes every trace. Exit code 0 means that the pipeline succeeded and its report and plot are on disk.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[3]
PIPELINES = Path("configs/pipelines")
LONGEST_SOCKET = 100  #: bytes of path; the kernel takes 107
PATIENCE = 20.0  #: seconds that the daemon may take to answer, or to go


class DemoFailed(Exception):
    """The demo cannot go on; the message is for the person who typed `make demo`."""


def main() -> int:
    """Run the demo; returns what the process should exit with."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / ".demo", help="where everything goes (default .demo)")
    folder = parser.parse_args().folder.resolve()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    try:
        with alone(folder) as killed_before:
            return Demo(folder).run(killed_before)
    except DemoFailed as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def leave(number: int, _frame: FrameType | None) -> NoReturn:
    """Turn a signal into an orderly way out."""
    raise SystemExit(128 + number)


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Keep the folder to one demo at a time; yields whether the one before was killed before it could tidy up."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise DemoFailed(f"cannot run the demo: process {file.read().strip()} is running it in {folder}") from None
        file.seek(0)
        killed_before = bool(file.read())
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield killed_before
        finally:
            file.truncate(0)


class Demo:
    """One run of the demo in ``folder``."""

    def __init__(self, folder: Path) -> None:
        """Decide where things go; touches nothing yet."""
        self.folder = folder
        self.state = folder / "state"
        self.log = folder / "runnersd.log"
        self.socket = socket_path(folder)
        self.artifacts = folder / "artifacts" / time.strftime("%Y-%m-%d-%H%M%S")
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "RUNNERS_SOCKET": str(self.socket),
            "DOCKER_IMAGE_NAME": os.environ.get("DOCKER_IMAGE_NAME") or "runners",
            "DATA_DIRECTORY": str(folder / "data"),
            "CACHE_DIRECTORY": str(folder / "cache"),
            "ARTIFACTS_DIRECTORY": str(self.artifacts),
        }

    def run(self, killed_before: bool) -> int:
        """Everything, from starting the daemon to stopping it; returns the exit code."""
        for folder in (self.folder / "data", self.folder / "cache", self.artifacts):
            folder.mkdir(parents=True, exist_ok=True)
        daemon = self.start(killed_before)
        try:
            if killed_before:
                self.cancel_leftovers()
            submitted = self.show("submit", str(PIPELINES / self.choose_pipeline()), "--follow")
            if submitted > 1:  # not queued, or not followed to its end
                return submitted
            self.show("status", "--all", self.newest())
            finished = self.summary() and submitted == 0
            if finished:
                self.show("down")
        finally:
            self.stop(daemon)
        return 0 if finished else 1

    def start(self, killed_before: bool) -> subprocess.Popen[bytes]:
        """A daemon that answers.

        Raises:
            DemoFailed: it does not; with the last lines of its log.
        """
        deadline = time.monotonic() + PATIENCE
        if self.answers():
            say("An earlier demo was killed and its daemon is still here: stopping it.")
            self.client("down", "--now")
            while self.answers() and time.monotonic() < deadline:
                time.sleep(0.02)
        command = [self.program("runnersd"), "--state-dir", str(self.state), "--socket", str(self.socket)]
        say(f"$ runnersd --state-dir {self.near(self.state)} --socket {self.near(self.socket)} &")
        with self.log.open("wb") as log:
            daemon = self.spawn(command, log)
            try:
                while time.monotonic() < deadline:
                    if daemon.poll() is None and self.answers():
                        return daemon
                    if daemon.poll() is not None and killed_before:
                        # The earlier daemon is on its way out, and has the state directory until it is gone.
                        time.sleep(0.2)
                        daemon = self.spawn(command, log)
                    elif daemon.poll() is not None:
                        break
                    time.sleep(0.05)
            except BaseException:
                self.stop(daemon)
                raise
        self.stop(daemon)
        raise DemoFailed(self.why_no_daemon())

    def spawn(self, command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start the daemon out of reach of the terminal's Ctrl-C, but not to outlive this process."""
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: prctl(1, signal.SIGTERM),  # PR_SET_PDEATHSIG: also when this process is killed -9
        )

    def answers(self) -> bool:
        """Whether a daemon takes connections on the demo's socket."""
        with socket.socket(socket.AF_UNIX) as connection:
            return connection.connect_ex(str(self.socket)) == 0

    def why_no_daemon(self) -> str:
        """What to tell about a daemon that does not answer."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        where = f"The whole of it is in {self.near(self.log)}; removing {self.near(self.folder)} starts afresh."
        return "\n".join(["cannot run the demo: the daemon did not start. The end of its log:", *lines, "", where])

    def cancel_leftovers(self) -> None:
        """Cancel what a killed demo left in the queue: the daemon remembers it, and would go on with it."""
        over = {"succeeded", "failed", "cancelled", "timed_out", "skipped"}
        left = {job["pipeline"] for job in self.status()["jobs"] if job["state"] not in over}
        if left:
            say(f"An earlier demo was killed half-way: cancelling what is left of {', '.join(sorted(left))}.")
            self.client("cancel", *sorted(left))
            self.client("wait", *sorted(left))

    def choose_pipeline(self) -> str:
        """The pipeline for this machine's cards and container engine, having said which it is and why."""
        gpus = self.status()["gpus"]
        free = [gpu for gpu in gpus if gpu["state"] == "free"]
        chosen = "demo-gpu" if free else "demo"
        if free:
            say(f"{len(free)} of {len(gpus)} NVIDIA cards free ({free[0]['name']}): each training asks for one.")
        elif gpus:
            say(f"None of the {len(gpus)} NVIDIA cards is free ({gpus[0]['state']}): running on the CPU.")
        elif Path("/proc/driver/nvidia/version").exists():
            say("The NVIDIA driver shows no card here: running on the CPU.")
        else:
            say("No NVIDIA driver here: running on the CPU.")
        image = self.environment["DOCKER_IMAGE_NAME"]
        if has_image(image):
            refused = self.client("submit", "--dry-run", str(PIPELINES / f"{chosen}-container.yml")).stderr.strip()
            if not refused:
                say(f"The container engine has the image {image}: every job runs in a container of it.")
                return f"{chosen}-container.yml"
            say(f"The container engine has the image {image}, but: {refused}")
        return f"{chosen}.yml"

    def summary(self) -> bool:
        """Say where things are; returns whether the report and its plot are among them."""
        results = self.artifacts / "demo"
        report, plot = results / "report.md", results / "report.png"
        places = {"report": report, "plot": plot, "artifacts": results, "logs": self.state / "runs", "daemon": self.log}
        say()
        for name, path in places.items():
            say(f"{name:<10} {self.near(path)}" if path.exists() else f"{name:<10} missing: {self.near(path)}")
        return report.exists() and plot.exists()

    def newest(self) -> str:
        """The id of the pipeline submitted last: this run's."""
        pipelines: set[str] = {job["pipeline"] for job in self.status()["jobs"]}
        return max(pipelines, key=lambda name: int(name.removeprefix("p")))

    def status(self) -> dict[str, Any]:
        """The daemon's status, as data.

        Raises:
            DemoFailed: the client could not get it.
        """
        answer = self.client("status", "--all", "--json")
        if answer.returncode:
            raise DemoFailed(f"cannot run the demo: the daemon does not tell its status: {answer.stderr.strip()}")
        return dict(json.loads(answer.stdout))

    def show(self, *arguments: str) -> int:
        """Run the client where the user sees it, for as long as it takes; returns its exit code."""
        say(f"\n$ runners-client {' '.join(arguments)}")
        return subprocess.run([self.program("runners-client"), *arguments], cwd=ROOT, env=self.environment).returncode

    def client(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the client where the user does not see it.

        Raises:
            DemoFailed: it does not come back.
        """
        command = [self.program("runners-client"), *arguments]
        try:
            return subprocess.run(
                command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=PATIENCE
            )
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"cannot go on: no answer to `runners-client {' '.join(arguments)}`") from None

    def program(self, name: str) -> str:
        """Where one of our two programs is: in this Python's own environment first."""
        found = shutil.which(name, path=self.environment["PATH"])
        if found is None:
            raise DemoFailed(f"cannot run the demo: {name} is not installed here; `make demo` installs it")
        return found

    def near(self, path: Path) -> str:
        """``path`` as seen from the repository, where that is shorter."""
        return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)

    def stop(self, daemon: subprocess.Popen[bytes]) -> None:
        """Have the daemon gone, and with it whatever still runs; asks kindly first, and always comes to an end."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # this is the way out already
        if daemon.poll() is None and self.answers():
            try:
                self.client("down", "--now")
                daemon.wait(PATIENCE)
            except (DemoFailed, subprocess.TimeoutExpired):
                say("The daemon was asked to stop and is still there: ending it.")
        if daemon.poll() is None:
            daemon.terminate()
            try:
                daemon.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        if self.socket.parent != self.folder:
            shutil.rmtree(self.socket.parent, ignore_errors=True)


def has_image(name: str) -> bool:
    """Whether the engine that the daemon would use has an image of docker/Dockerfile with what the demo needs."""
    from runners.errors import RunnersError
    from runnersd.config_load import load
    from runnersd.doctor.engine_answers import ask

    try:
        image = ask(load().containers.socket, f"/images/{quote(name, safe='/:@')}/json", 3.0)
    except (OSError, RunnersError):
        return False  # no engine, or none that this user may use
    label = ((image or {}).get("Config", {}).get("Labels") or {}).get("python.pip", "")
    return {"zarr", "matplotlib"} <= {re.split(r"[^\w-]", word)[0] for word in label.split()}


def socket_path(folder: Path) -> Path:
    """The daemon's socket: in the demo's folder, unless that is too deep for the kernel's limit on socket names.

    Raises:
        DemoFailed: the place to fall back on belongs to somebody else.
    """
    inside = folder / "runnersd.sock"
    if len(os.fsencode(inside)) <= LONGEST_SOCKET:
        return inside
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    outside = Path(tempfile.gettempdir()) / f"runners-demo-{os.getuid()}-{name}"
    outside.mkdir(mode=0o700, exist_ok=True)
    if outside.is_symlink() or outside.stat().st_uid != os.getuid():
        raise DemoFailed(f"cannot run the demo: {outside} belongs to somebody else")
    return outside / "runnersd.sock"


def say(line: str = "") -> None:
    """Print at once: the programs started here print beside us. Leaves when nobody reads any more."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None


if __name__ == "__main__":
    sys.exit(main())
