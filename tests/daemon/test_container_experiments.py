"""Experiments of container jobs: what is written down of them, with their user's rights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.containers import Lab
from daemon.somebody import at_a_shell
from harness.daemon import eventually
from runners.experiments.folder import read_record

ADA = 4711


@pytest.fixture
def home(lab: Lab) -> Iterator[Path]:
    """An experiment's folder of Ada's, in her artifacts directory."""
    artifacts = lab.folder / "artifacts"
    (artifacts / "k3y").mkdir(parents=True)
    for folder in (artifacts, artifacts / "k3y"):
        os.chown(folder, ADA, ADA)
    yield artifacts / "k3y"
    shutil.rmtree(artifacts)


def ended(lab: Lab, home: Path, *jobs: dict[str, Any]) -> list[Any]:
    """Jobs of Ada's on her experiment, once they are over."""
    path = f"{home}/config.yml"
    given = [{"experiment": path, "env": {"EXPERIMENT_PATH": path}, **job} for job in jobs]
    return lab.daemon.wait(*lab.submit_as(ADA, *given, cwd=str(home), env={"ARTIFACTS_DIRECTORY": str(home.parent)}))


def test_attempts_in_containers_are_in_the_record(lab: Lab, home: Path) -> None:
    [job] = ended(
        lab, home, {"name": "train", "command": 'test -d "${EXPERIMENT_PATH%/*}" && echo $RUNNERS_IMAGE; exit 3'}
    )
    assert lab.out(job["id"]).startswith("sha256:")
    started, end = read_record(home)
    whose = {"job": job["id"], "attempt": 1, "name": "train", "pipeline": job["pipeline"]}
    assert started == {"event": "started", "at": started["at"], **whose, "cards": []}
    assert {key: end[key] for key in ("event", "exit_code", *whose)} == {"event": "ended", "exit_code": 3, **whose}
    assert started["at"] <= end["at"]
    assert (home / "record.jsonl").stat().st_uid == ADA
    ended(lab, home, {"command": "kill -9 $$"})
    assert [(line["event"], line.get("signal"), line.get("exit_code")) for line in read_record(home)[2:]] == [
        ("started", None, None), ("ended", 9, None),
    ]  # fmt: skip


def test_a_record_that_leads_elsewhere_is_written_with_the_users_rights_alone(lab: Lab, home: Path) -> None:
    precious = lab.folder / "precious"
    precious.write_text("root's")
    precious.chmod(0o600)
    assert at_a_shell(ADA, 'ln -s "$1" "$2/record.jsonl"', precious, home).returncode == 0
    [job] = ended(lab, home, {"command": "true"})
    assert job["state"] == "succeeded"
    assert precious.read_text() == "root's"
    precious.unlink()


def test_an_end_while_no_daemon_is_there_is_told_by_the_next(lab: Lab, home: Path) -> None:
    path = f"{home}/config.yml"
    job = {"command": "until test -e go; do sleep 0.1; done", "experiment": path}
    [id] = lab.submit_as(ADA, job, cwd=str(home), env={"ARTIFACTS_DIRECTORY": str(home.parent)})
    eventually("it runs", lambda: lab.daemon.job(id)["state"] == "running")
    eventually("that is on record", lambda: [line["event"] for line in read_record(home)] == ["started"])
    lab.daemon.kill()
    assert at_a_shell(ADA, 'touch "$1/go"', home).returncode == 0
    lab.start()
    assert lab.daemon.wait(id)[0]["state"] == "succeeded"
    assert [line["event"] for line in read_record(home)] == ["started", "ended"]
