"""Experiments of jobs on a real daemon: what the job finds, and what is written down of it, with its user's rights."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.somebody import Somebody, at_a_shell
from fake_nvml import FakeDriver
from harness.daemon import Daemon, eventually
from runners.errors import InvalidPipeline
from runners.experiments.folder import read_record
from runners.script_runner_pool import ScriptRunnerPool

SECRET = "s3cretc0metkey"
EXPERIMENT = "info: {project_name: p}\ntrain_config: {lr: 0.1}\n"


@pytest.fixture
def daemon(tmp_path: Path, fake_nvml: Callable[[int], FakeDriver]) -> Iterator[Daemon]:
    settings = {"containers": {"socket": str(tmp_path / "no-engine")}, "gpus": {"poll": 0.1}}
    env = {**fake_nvml(2).environment(), "ARTIFACTS_DIRECTORY": str(tmp_path / "artifacts"), "COMET_API_KEY": SECRET,
           "COMET_URL_OVERRIDE": "http://127.0.0.1:9/"}  # fmt: skip
    with Daemon(tmp_path / "d", config=settings, env=env) as one:
        (one.folder / "exp.yml").write_text(EXPERIMENT)
        yield one


def submit(daemon: Daemon, text: str, *options: str) -> list[Any]:
    """The jobs of a pipeline file, over."""
    (daemon.folder / "p.yml").write_text(text)
    done = daemon.run("submit", "p.yml", "--json", *options)
    assert done.returncode == 0, done.stderr
    return daemon.wait(*(job["id"] for job in json.loads(done.stdout)["jobs"]))


def home_of(job: Any) -> Path:
    return Path(job["spec"]["experiment"]).parent


def test_a_job_knows_its_experiment_and_the_record_tells_the_whole_story(daemon: Daemon) -> None:
    [job] = submit(
        daemon,
        'command: test -f "$EXPERIMENT_PATH" && echo ${EXPERIMENT_KEY} $EXPERIMENT_KEY; exit 3\n'
        "name: train\nnum_gpus: 1\nexperiment: exp.yml\n",
    )
    home = home_of(job)
    assert job["exit_code"] == 3
    assert daemon.run("logs", str(job["id"])).stdout.decode().split() == [home.name, home.name]
    submitted, started, ended = read_record(home)
    assert (submitted["event"], submitted["name"], submitted["pipeline"]) == ("submitted", "train", "train")
    assert started == {"event": "started", "at": started["at"], "job": job["id"], "attempt": 1, "name": "train",
                       "pipeline": job["pipeline"], "cards": job["attempts"][0]["gpus"]}  # fmt: skip
    assert (ended["event"], ended["job"], ended["exit_code"]) == ("ended", job["id"], 3)
    assert submitted["at"] <= started["at"] <= ended["at"]
    assert len(started["cards"]) == 1
    assert ended["peak_memory"] > 0


def test_each_attempt_is_in_the_record_and_so_is_a_kill(daemon: Daemon) -> None:
    [job] = submit(daemon, "command: kill -9 $$\nretries: 1\nretry_delay: 0\nexperiment: exp.yml\n")
    told = [(line["event"], line.get("attempt"), line.get("signal")) for line in read_record(home_of(job))]
    assert told == [
        ("submitted", None, None),
        ("started", 1, None),
        ("ended", 1, 9),
        ("started", 2, None),
        ("ended", 2, 9),
    ]
    [job] = submit(daemon, "command: [/no/such/program]\nexperiment: exp.yml\n")
    assert "No such file" in read_record(home_of(job))[-1]["failed"]


def test_the_daemons_configuration_says_where_comet_experiments_go(daemon: Daemon) -> None:
    settings = json.loads(daemon.config.read_text())
    daemon.configure({**settings, "comet": {"offline": True, "workspace": "lab"}})
    daemon.stop()
    daemon.start()
    [job] = submit(daemon, "command: echo $RUNNERS_COMET_OFFLINE $COMET_WORKSPACE\n")
    assert daemon.run("logs", str(job["id"])).stdout == b"1 lab\n"


def test_a_pool_of_scripts_makes_experiments_too(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNNERS_SOCKET", "ARTIFACTS_DIRECTORY"):
        monkeypatch.setenv(name, daemon.env[name])
    monkeypatch.chdir(daemon.folder)
    assert ScriptRunnerPool().submit([{"command": "test -f $EXPERIMENT_PATH", "experiment": "exp.yml"}]) == [0]
    with pytest.raises(InvalidPipeline, match=r"scripts\[0\]\.experiment: cannot read nowhere.yml"):
        ScriptRunnerPool().submit([{"command": "true", "experiment": "nowhere.yml"}])


def test_a_folder_that_is_gone_fails_no_job(daemon: Daemon) -> None:
    [job] = submit(daemon, "command: rm -r $(dirname $EXPERIMENT_PATH)\nexperiment: exp.yml\n")
    assert job["state"] == "succeeded"
    assert not home_of(job).exists()


def test_what_the_daemon_refuses_and_a_dry_run_make_nothing(daemon: Daemon) -> None:
    (daemon.folder / "p.yml").write_text("command: a\nnum_gpus: 9\nexperiment: exp.yml\n")
    done = daemon.run("submit", "p.yml")
    assert done.returncode == 2
    assert b"p.yml:2: num_gpus" in done.stderr
    (daemon.folder / "p.yml").write_text("command: a\nexperiment: exp.yml\n")
    assert daemon.run("submit", "p.yml", "--dry-run").returncode == 0
    assert not Path(daemon.env["ARTIFACTS_DIRECTORY"]).exists()


def test_a_record_that_leads_elsewhere_is_written_with_the_users_rights_alone(daemon: Daemon, tmp_path: Path) -> None:
    """Root's daemon; a user's folder whose record is a link to a file of root's, and one that is a pipe nobody reads."""
    if os.getuid() != 0:
        pytest.skip("needs root")
    for folder in (tmp_path, *tmp_path.parents):
        folder.chmod(folder.stat().st_mode | 0o055) if folder != Path("/") else None
    precious = tmp_path / "precious"
    precious.write_text("root's")
    precious.chmod(0o600)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 4321, 4321)
    assert (
        at_a_shell(
            4321, 'ln -s "$1" "$2/record.jsonl" && mkdir "$2/x" "$2/y" && mkfifo "$2/x/record.jsonl"', precious, theirs
        ).returncode
        == 0
    )
    daemon.socket.parent.chmod(0o755)
    daemon.socket.chmod(0o666)
    jobs = [
        {"name": name, "command": ["/bin/true"], "experiment": f"{theirs}/{name}/config.yml"}
        for name in (".", "x", "y")
    ]
    jobs[0]["name"] = "link"
    with Somebody(daemon, 4321) as somebody:
        done = daemon.wait(*somebody.submit(*jobs, cwd="/"))
    assert [job["state"] for job in done] == ["succeeded"] * 3
    assert precious.read_text() == "root's"
    written = theirs / "y" / "record.jsonl"
    assert (written.stat().st_uid, len(read_record(written.parent))) == (4321, 2)


def power_of(job: Any) -> float | None:
    """The mean power of the only attempt's only card, as far as it is known (watts)."""
    found = [card["power"]["mean"] for one in job["attempts"] for card in (one["telemetry"] or {}).get("gpus", ())]
    return found[0] if found else None


def test_the_comet_key_reaches_the_job_and_nothing_else(daemon: Daemon) -> None:
    """With Comet away, so that the archive is there to be looked into."""
    script = daemon.folder / "follow.py"
    script.write_text(
        "import os, time\nfrom runners.experiment_utils import load_experiment\n"
        "config, exp, path = load_experiment(os.environ['EXPERIMENT_PATH'])\n"
        "print(os.environ['COMET_API_KEY'][::-1], exp.get_key())\n"
        "while not os.path.exists('measured'):\n    time.sleep(0.05)\n"
    )
    work = f"command: [{sys.executable}, follow.py]\nname: train\nnum_gpus: 1\nexperiment: exp.yml\n"
    (daemon.folder / "p.yml").write_text(work)
    [entry] = json.loads(daemon.run("submit", "p.yml", "--json").stdout)["jobs"]
    eventually("its card was measured for a while", lambda: power_of(daemon.job(entry["id"])))
    (daemon.folder / "measured").touch()
    [job] = daemon.wait(entry["id"])
    home = home_of(job)
    said = daemon.run("logs", str(job["id"]))
    assert said.stdout.decode().split()[-2:] == [SECRET[::-1], home.name], said.stderr
    [archive] = home.glob("*.zip")
    with zipfile.ZipFile(archive) as file:
        inside = b"".join(file.read(name) for name in file.namelist())
    for part in (
        b"train_config_lr",
        b"runners_job",
        b"runners_cards",
        job["attempts"][0]["gpus"][0].encode(),
        b"runners_queue_time",
        b"runners_telemetry_card_",
        b"_power_mean",
    ):
        assert part in inside, part
    loaded = next(line for line in read_record(home) if line["event"] == "loaded")
    assert loaded["comet"] == "offline"
    assert loaded["upload"].startswith(f"comet upload {home}/")
    assert loaded["packages"]["PyYAML"]
    shown = daemon.run("show", str(job["id"])).stdout + daemon.run("show", str(job["id"]), "--json").stdout
    files = b"".join(path.read_bytes() for path in [*home.rglob("*"), daemon.log] if path.is_file())
    assert SECRET.encode() not in shown + files + inside + said.stdout + said.stderr


def test_a_job_goes_on_when_the_daemon_was_killed_and_its_end_is_written(daemon: Daemon) -> None:
    (daemon.folder / "p.yml").write_text("command: until test -e go; do sleep 0.05; done\nexperiment: exp.yml\n")
    [entry] = json.loads(daemon.run("submit", "p.yml", "--json").stdout)["jobs"]
    eventually("it runs", lambda: daemon.job(entry["id"])["state"] == "running")
    daemon.kill()
    (daemon.folder / "go").touch()
    home = next(Path(daemon.env["ARTIFACTS_DIRECTORY"]).glob("*/*"))
    eventually("its end is written", lambda: read_record(home)[-1]["event"] == "ended")
    daemon.start()
    assert daemon.wait(entry["id"])[0]["state"] == "succeeded"
    assert [line["event"] for line in read_record(home)] == ["submitted", "started", "ended"]
