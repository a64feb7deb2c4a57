"""Makes `vN.sql`, a small database of the schema as it is now: run once for each schema, before that is released.

PYTHONPATH=client:scheduler:tests python tests/simulation/databases/make.py
"""

from __future__ import annotations

import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path

from core.builders import spec
from runners.api import Code
from runners.spec import Need
from runnersd import lifecycle
from runnersd.model import Drain, Reason
from runnersd.store import schema
from runnersd.telemetry.sample import CardSample, ProcessSample, Sample
from runnersd.telemetry.summary import Summary
from simulation.storing import BOB, Asking, opened, queue, run, start, succeed


async def fill(folder: Path) -> None:
    """One pipeline that is over, and one with a job in most states."""
    store = await opened(folder, boot="boot-1")
    command = ("python", "-m", "check")
    over = [spec("prepare", num_gpus=1), spec("check", command=command, allow_failure=True)]
    await queue(store, *over, name="first", key="key-1")
    start(store, 1, "GPU-0")
    store.summarize(1, 1, measured("GPU-0").to_json())
    succeed(store, 1, peak=1 << 30)
    start(store, 2)
    store.record(lifecycle.Failed(2, 1, Reason(Code.SIGNAL, "killed by SIGSEGV (11)"), 139, 310.5), 310.5)
    jobs = [
        spec("train[lr=0.1]", num_gpus=2, gpu_model="*H100*", env={"A": "1"}),
        spec("train[lr=0.2]", num_gpus=1, retries=1),
        spec("held"),
        spec("report", needs=["train"]),
        spec("last", needs=[Need("all", "finished")], blocking=True),
    ]
    await queue(store, *jobs, name="second", num_jobs=4, umask=0o077)
    start(store, 3, "GPU-0", "GPU-1")
    store.summarize(3, 1, measured("GPU-0", "GPU-1").to_json())
    start(store, 4, "GPU-2")
    again = Reason(Code.EXIT_CODE, "exited with code 3")
    store.record(lifecycle.Requeued(4, 1, again, 3, 320.0, 325.0), 320.0)
    start(store, 4, "GPU-2", at=330.0)
    store.record(lifecycle.Failed(4, 2, Reason(Code.EXIT_CODE, "exited with code 4"), 4, 340.0), 340.0)
    store.record(lifecycle.Held(5, 0, Reason(Code.HELD, "held by ann")), 341.0)
    renamed = replace(store.snapshot.jobs[7].spec, name="renamed", priority=-5)
    store.record(lifecycle.Revised(7, 0, renamed, None), 342.0)
    await queue(
        store, spec("shared", num_gpus=1), spec("preempted", num_gpus=1, preemptible=True), user=BOB, name="third"
    )
    start(store, 8, "GPU-3", at=343.0)
    succeed(store, 8, at=346.5, peak=2 << 30)
    start(store, 9, "GPU-3", at=347.0)
    away = Reason(Code.PREEMPTED, "made way for job 3 (ann)")
    store.record(lifecycle.Stopping(9, 1, away, 400.0), 400.0)
    store.record(lifecycle.Requeued(9, 1, away, 143, 401.0, None, 3 << 30), 401.0)
    store.events.outbox = Asking("job.idle")
    store.record(lifecycle.Idled(3, 1, 402.0), 462.0)
    store.drain("GPU-7", Drain("fan broken"))
    store.pause("maintenance")
    store.announce("gpu.drained", {"uuid": "GPU-7"})
    await store.close()


def measured(*uuids: str) -> Summary:
    """Four seconds of an attempt on these cards."""
    summary = Summary()
    for at in (0.0, 2.0, 4.0):
        cards = (CardSample(uuid, n, "", 80 << 30, 4 << 30, 50, 200.0, 60) for n, uuid in enumerate(uuids))
        summary.add(Sample(at, tuple(cards), ProcessSample(2 << 30, 1.5)))
    return summary


def dump(folder: Path) -> str:
    """The database as a script, under a fixed name, without the machine that wrote it."""
    connection = sqlite3.connect(folder / "runnersd.db")
    connection.execute("UPDATE meta SET value = '\"0123456789ab\"' WHERE key = 'database'")
    connection.execute("DELETE FROM meta WHERE key = 'machine'")
    connection.commit()
    lines = list(connection.iterdump())
    connection.close()
    version = len(schema.SCRIPTS)
    pragmas = [f"PRAGMA application_id = {schema.APPLICATION};", f"PRAGMA user_version = {version};"]
    return "\n".join([*lines, *pragmas]) + "\n"


def make() -> str:
    """The script for the schema as it is now."""
    with tempfile.TemporaryDirectory() as folder:
        run(lambda: fill(Path(folder)))
        return dump(Path(folder))


if __name__ == "__main__":
    target = Path(__file__).with_name(f"v{len(schema.SCRIPTS)}.sql")
    if target.exists():
        raise SystemExit(f"{target} stays as it was released; delete it first if it was not")
    target.write_text(make())
