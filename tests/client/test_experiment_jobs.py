"""Experiments of a pipeline's jobs, as whoever submits sees them: what is wrong has a line, and checking makes nothing."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from runners.cli import main as cli
from runners.errors import InvalidPipeline
from runners.experiments import folder
from runners.experiments.submission import Experiments
from runners.pipeline.files import Loaded, load_located

EXPERIMENT = """
info: {project_name: p, experiment_key: "${EXPERIMENT_KEY}", output_folder: "${ARTIFACTS_DIRECTORY}/p/${EXPERIMENT_KEY}"}
train_config: {lr: 0.1, epochs: 3}
seed: 0
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARTIFACTS_DIRECTORY", str(tmp_path / "artifacts"))
    monkeypatch.setenv("RUNNERS_SOCKET", str(tmp_path / "nobody"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exp.yml").write_text(EXPERIMENT)
    return tmp_path


def read(text: str, name: str = "p.yml") -> Loaded:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(text)
    return load_located(name, environment=os.environ, now=0.0)


def configs(spec_jobs: object) -> list[dict[str, object]]:
    return [yaml.safe_load(Path(job.experiment).read_text()) for job in spec_jobs]  # type: ignore[attr-defined]


def problems(text: str) -> list[str]:
    with pytest.raises(InvalidPipeline) as error:
        Experiments([read(text)])
    return [str(one) for one in error.value.problems]


def test_a_job_gets_the_key_and_the_path_of_a_new_experiment(place: Path) -> None:
    loaded = read(
        "- experiment: exp.yml\n  script: train\n  config: --key ${EXPERIMENT_KEY} -p '${EXPERIMENT_PATH}'\n"
        "  env: {OUT: ${EXPERIMENT_KEY}/x}\n- command: echo ${EXPERIMENT_KEY}\n"
    )
    [spec] = Experiments([loaded]).make(str(place))
    train, other = spec.jobs
    assert train.env is not None and train.experiment is not None
    key = train.env["EXPERIMENT_KEY"]
    assert re.fullmatch("[a-z0-9]{32}", key)
    path = str(place / "artifacts" / "p" / key / "config.yml")
    assert train.env == {"EXPERIMENT_KEY": key, "EXPERIMENT_PATH": path, "OUT": f"{key}/x"}
    assert train.command == ("python", "-m", "scripts.train", "--key", key, "-p", path)
    assert train.experiment == path
    assert (other.command, other.env) == ("echo ${EXPERIMENT_KEY}", None), "another's is left for the shell"
    assert yaml.safe_load(Path(path).read_text())["info"]["experiment_key"] == key


def test_each_combination_overrides_the_configuration_by_dotted_key_in_its_own_folder(place: Path) -> None:
    loaded = read(
        "jobs:\n- {name: train, command: 't ${{ matrix.train_config.lr }}', experiment: exp.yml, matrix: &m {train_config.lr: [1e-4, 0.5], seed: [1, 2]}}\n"
        "- {name: evaluate, command: e, experiment: exp.yml, matrix: *m}\n"
    )
    [spec] = Experiments([loaded]).make(str(place))
    assert spec.jobs[0].name == "train[train_config.lr=1e-4,seed=1]"
    assert spec.jobs[0].command == "t 1e-4"
    made = configs(spec.jobs[:4])
    assert [(one["train_config"], one["seed"]) for one in made] == [
        ({"lr": 0.0001, "epochs": 3}, 1), ({"lr": 0.0001, "epochs": 3}, 2), ({"lr": 0.5, "epochs": 3}, 1), ({"lr": 0.5, "epochs": 3}, 2),
    ]  # fmt: skip
    assert len({job.experiment for job in spec.jobs}) == 4
    assert [job.experiment for job in spec.jobs[:4]] == [job.experiment for job in spec.jobs[4:]], "they share theirs"


def test_values_that_the_configuration_does_not_have_only_tell_folders_apart(place: Path) -> None:
    loaded = read("- {command: a, experiment: exp.yml, matrix: {card: [0, 1]}}")
    [spec] = Experiments([loaded]).make(str(place))
    first, second = configs(spec.jobs)
    assert "card" not in first
    assert spec.jobs[0].experiment != spec.jobs[1].experiment
    assert first["train_config"] == second["train_config"]


def test_one_that_is_made_is_used_as_it_is(place: Path) -> None:
    [spec] = Experiments([read("- {command: a, experiment: exp.yml}")]).make(str(place))
    path = spec.jobs[0].experiment
    [again] = Experiments([read(f"- {{command: b, experiment: {path}}}")]).make(str(place))
    assert again.jobs[0].experiment == path
    assert again.jobs[0].env == spec.jobs[0].env
    assert [line["command"] for line in folder.read_record(Path(path or "").parent)] == ["a", "b"]
    said = problems(f"- command: b\n  experiment: {path}\n  matrix: {{seed: [1, 2]}}")
    assert len(said) == 1 and "a matrix cannot change its seed" in said[0]


def test_files_are_beside_the_file_that_names_them(place: Path) -> None:
    read("- {command: a, experiment: inner.yml}", "below/inner_pipeline.yml")
    (place / "below" / "inner.yml").write_text(EXPERIMENT)
    [spec] = Experiments([read("- pipeline: below/inner_pipeline.yml\n- {command: b, experiment: exp.yml}")]).make(".")
    assert len({job.experiment for job in spec.jobs}) == 2


def test_mistakes_have_their_line_and_key(place: Path) -> None:
    (place / "none.yml").write_text("train_config: {}\n")
    (place / "twice.yml").write_text("info: {}\na: {b_c: 1}\na_b: {c: 1}\n")
    (place / "same.yml").write_text("info: {output_folder: here}\nseed: 0\n")
    (place / "bad.yml").write_text("info: {}\n\nx: [\n")
    said = problems(
        "jobs:\n- command: a\n  experiment: none.yml\n- command: b\n  experiment: nowhere.yml\n- command: c\n"
        "  experiment: twice.yml\n- command: d\n  experiment: same.yml\n  matrix: {seed: [1, 2]}\n- command: e\n"
        "  experiment: exp.yml\n  matrix: {train.lr: [1]}\n- command: f\n  experiment: bad.yml\n"
    )
    assert [one.split(": ", 2)[:2] for one in said] == [
        ["p.yml:3", "jobs[0].experiment"], ["p.yml:5", "jobs[1].experiment"], ["p.yml:7", "jobs[2].experiment"],
        ["p.yml:9", "jobs[3].experiment"], ["p.yml:12", "jobs[4].experiment"], ["p.yml:15", "jobs[5].experiment"],
    ]  # fmt: skip
    expected = (
        "no `info`", "No such file or directory", "`a > b_c` and `a_b > c`", "would share the folder",
        "`train` is no mapping", "line 4: not valid YAML",
    )  # fmt: skip
    assert [part for part, one in zip(expected, said, strict=True) if part not in one] == []
    assert not (place / "artifacts").exists()


def test_checking_makes_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read("- {name: train, command: a, experiment: exp.yml, matrix: {seed: [1, 2]}}")
    before = sorted(place.rglob("*"))
    assert cli.run(["validate", "p.yml"]) == 0
    assert "train[seed=2]" in capsys.readouterr().out
    (place / "exp.yml").write_text("a: 1")
    assert cli.run(["validate", "p.yml"]) == 2
    assert "p.yml:1: [0].experiment: cannot use exp.yml: no `info`" in capsys.readouterr().err
    assert sorted(place.rglob("*")) == before


def test_the_code_is_in_the_record(place: Path) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(["git", *who, *words], cwd=place, check=True, capture_output=True, text=True).stdout

    (place / "train.py").write_text("lr = 1\n")
    git("init", "-q")
    git("add", "train.py")
    git("commit", "-qm", "x")
    (place / "train.py").write_text("lr = 2\n")
    [spec] = Experiments([read("- {command: a, experiment: exp.yml}")]).make(str(place))
    home = Path(spec.jobs[0].experiment or "").parent
    [line] = folder.read_record(home)
    assert line["event"] == "submitted"
    assert line["code"]["commit"] == git("rev-parse", "HEAD").strip()
    assert line["code"]["dirty"] is True
    assert line["code"]["untracked"] == ["exp.yml", "p.yml"]
    assert "-lr = 1\n+lr = 2\n" in (home / line["diff"]).read_text()
    assert {"user", "host", "at", "command", "name", "pipeline"} <= set(line)


def test_refused_jobs_leave_nothing(place: Path) -> None:
    (place / "mine").mkdir()
    (place / "mine" / "notes.txt").write_text("keep")
    (place / "exp.yml").write_text(f"info: {{output_folder: {place}/mine}}\n")
    experiments = Experiments([read("- {command: a, experiment: exp.yml}")])
    experiments.make(str(place))
    assert {one.name for one in (place / "mine").iterdir()} == {"config.yml", "record.jsonl", "notes.txt"}
    experiments.undo()
    assert [one.name for one in (place / "mine").iterdir()] == ["notes.txt"]


def test_comet_offline_reaches_the_job(place: Path) -> None:
    [spec] = Experiments([read("- {command: a, comet_offline: true, env: {A: b}}\n- command: c")]).make(str(place))
    assert [job.env for job in spec.jobs] == [{"A": "b", "RUNNERS_COMET_OFFLINE": "1"}, None]
