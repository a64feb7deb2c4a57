"""What tests of container jobs share: a daemon on a real engine, and looks at what both have."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine import SHELL, Engine
from harness.daemon import Daemon, eventually

#: What every container job here has unless a test says otherwise.
CONTAINER: Mapping[str, Any] = {"run_in": "container", "image": SHELL}
#: Runs `runners-client` as another user: uid, gid, groups, then its words. What it needs is loaded first, as that user
#: may not be able to read this installation.
AS_SOMEBODY = """
import os, sys
uid, gid, groups, *words = sys.argv[1:]
import json, runners.client, runners.transport, runners.refusals
os.setgroups([int(group) for group in groups.split(",") if group])
os.setresgid(int(gid), int(gid), int(gid))
os.setresuid(int(uid), int(uid), int(uid))
print(json.dumps(runners.client.Client(words[0]).submit([json.loads(words[1])])))
"""


class Lab:
    """A daemon whose containers run on ``engine``, in a folder that every user can reach.

    ``socket`` is another name of the engine's; ``options`` are the daemon's.
    """

    def __init__(self, engine: Engine, folder: Path, *, socket: Path | None = None, **options: Any) -> None:
        self.engine = engine
        self.folder = folder
        self._config = {
            "containers": {"socket": str(socket or engine.socket), "network": "none"},
            **options.pop("config", {}),
        }
        self.daemon = Daemon(folder / "daemon", config=self._config, **options)
        self.daemon.folder.chmod(0o755)

    def start(self) -> None:
        """Start the daemon, and wait until it has reached the engine; let every user in."""
        self.daemon.start()
        self.daemon.socket.chmod(0o666)
        self.daemon.socket.parent.chmod(0o711)
        log = self.daemon.log
        starts = log.read_text().count(" serving ")
        eventually("the engine answers the daemon", lambda: log.read_text().count("engine answers") >= starts)

    @contextmanager
    def configured(self, **config: Mapping[str, Any]) -> Iterator[None]:
        """With these sections of its configuration changed, for a while."""
        self._reload(
            {**self._config, **{name: {**self._config.get(name, {}), **keys} for name, keys in config.items()}}
        )
        try:
            yield
        finally:
            self._reload(self._config)

    def _reload(self, config: Mapping[str, Any]) -> None:
        assert self.daemon.process is not None
        before = self.daemon.log.read_text().count("read again")
        self.daemon.configure(config)
        self.daemon.process.send_signal(signal.SIGHUP)
        eventually("it was read again", lambda: self.daemon.log.read_text().count("read again") > before)

    def submit(self, *jobs: Mapping[str, Any], **keys: Any) -> list[int]:
        """Queue container jobs in a pipeline that runs all of them at once; their ids."""
        return self.daemon.submit(*({**CONTAINER, **job} for job in jobs), **{"num_jobs": 100, **keys})

    def run(self, *jobs: Mapping[str, Any], **keys: Any) -> list[Any]:
        """Container jobs, once all are over."""
        return self.daemon.wait(*self.submit(*jobs, **keys))

    def submit_as(
        self, uid: int, *jobs: Mapping[str, Any], gid: int | None = None, groups: Sequence[int] = (), **keys: Any
    ) -> list[int]:
        """Queue container jobs of another user; their ids."""
        document = {"name": "test", "jobs": [{**CONTAINER, **job} for job in jobs], "env": {}, **keys}
        words = [str(uid), str(uid if gid is None else gid), ",".join(map(str, groups))]
        done = subprocess.run(
            [sys.executable, "-c", AS_SOMEBODY, *words, str(self.daemon.socket), json.dumps(document)],
            env=self.daemon.env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [job["id"] for job in json.loads(done.stdout)[0]["jobs"]]

    def out(self, id: int, *, attempt: int | None = None) -> str:
        """What the job wrote to stdout."""
        words = ["--attempt", str(attempt)] if attempt else []
        done = self.daemon.run("logs", str(id), *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    def until_out(self, id: int, text: str) -> None:
        """Wait until the job has written that."""
        eventually(f"job {id} says {text!r}", lambda: self.daemon.job(id)["started_at"] and text in self.out(id))

    def containers(self) -> dict[int, str]:
        """The full ids of the daemon's containers by job, ended ones too."""
        seen = self.engine.api("GET", "/containers/json?all=1").json
        return {int(one["Labels"]["runners.job"]): one["Id"] for one in seen if "runners.job" in one["Labels"]}

    def container(self, id: int) -> str:
        """The full id of the job's container."""
        return str(eventually(f"job {id} has a container", lambda: self.containers().get(id)))

    def inspect(self, id: int) -> Any:
        """Everything that the engine says of the job's container."""
        return self.engine.api("GET", f"/containers/{self.container(id)}/json").json

    def left_over(self) -> list[str]:
        """Whatever should be gone once no job is live."""
        state = self.daemon.state
        return [
            *(str(one["Names"]) for one in self.engine.api("GET", "/containers/json?all=1").json),
            *(str(path) for path in (state / "gates").glob("*")),
            *(str(path) for kind in ("run", "pos") for path in (state / "runs").glob(f"*/*.{kind}")),
        ]

    def clean(self) -> None:
        """End every job, and see that nothing is left of any."""
        live = ("queued", "held", "starting", "running", "stopping")
        for job in list(self.daemon.client().jobs(states=live)):
            self.daemon.client().cancel(job["id"], now=True)
            self.daemon.wait(job["id"])
        eventually("nothing is left", lambda: not self.left_over(), 20)


@contextmanager
def lab_on(engine: Engine, **options: Any) -> Iterator[Lab]:
    """A lab in a new folder that is gone at the end, with its daemon running."""
    with new_lab(engine, **options) as lab:
        lab.start()
        yield lab


@contextmanager
def new_lab(engine: Engine, **options: Any) -> Iterator[Lab]:
    """The same, its daemon not started yet."""
    folder = Path(tempfile.mkdtemp(prefix="lab-"))  # the tests' own folders are closed to other users
    folder.chmod(0o755)
    lab = Lab(engine, folder, **options)
    try:
        yield lab
    finally:
        lab.daemon.stop()
        shutil.rmtree(lab.daemon.socket.parent)
        shutil.rmtree(folder)


def environment_of(text: str) -> dict[str, str]:
    """What `env -0`, or `env`, has printed."""
    lines = text.split("\0") if "\0" in text else text.splitlines()
    return dict(line.split("=", 1) for line in lines if line)


def alive(pids: Sequence[int]) -> list[int]:
    """Those of these processes that there still are."""
    return [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
