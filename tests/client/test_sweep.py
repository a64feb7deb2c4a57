"""`sweep`: the pipeline that it makes of a file, what it varies, and what is wrong with one."""

from __future__ import annotations

import doctest
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from runners.cli import main as cli
from runners.errors import InvalidPipeline, InvalidRequest
from runners.experiments import sweep
from runners.experiments.submission import Experiments
from runners.pipeline.files import load_located

from .conftest import ROOT

FIRST_FORM = """
info: {project_name: p}
train_config: {lr: 0.1, optimizer: {lr: 0.1}, batch: 4}
model_config: {layers: 1, name: rnn}
sweep:
  - lr: [0.5, 1e-4]
    model_config.layers: [2, 3]
    train_config.batch: 8
    populate_cache: true
    num_cache_workers: 3
  - multiple_parameters:
      - {model_config.name: cnn, train_config.batch: 1}
      - {model_config.name: mlp, train_config.batch: 2}
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARTIFACTS_DIRECTORY", str(tmp_path / "artifacts"))
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    monkeypatch.setenv("RUNNERS_SOCKET", str(tmp_path / "nobody"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(text: str) -> str:
    Path("exp.yml").write_text(text)
    return "exp.yml"


def made(text: str, **options: Any) -> tuple[Any, list[dict[str, Any]]]:
    """The pipeline of a sweep, with its experiments made, and their configurations."""
    [spec] = Experiments([sweep.pipeline(written(text), **options)]).make(".")
    paths = dict.fromkeys(job.experiment for job in spec.jobs if job.experiment)
    return spec, [yaml.safe_load(Path(path).read_text()) for path in paths]


def test_the_examples_in_the_docstrings_are_true() -> None:
    assert doctest.testmod(sweep).failed == 0


def test_the_first_librarys_form(place: Path) -> None:
    """Lists are multiplied, a plain value is for all, a plain key is every key of that name, a dotted one a place; what is
    below `multiple_parameters` is varied together."""
    spec, configs = made(FIRST_FORM, num_gpus=2, num_jobs=7)
    found = [
        (c["train_config"]["lr"], c["train_config"]["optimizer"]["lr"], c["train_config"]["batch"], c["model_config"]["layers"], c["model_config"]["name"])
        for c in configs
    ]  # fmt: skip
    assert found == [
        (0.5, 0.5, 8, 2, "rnn"), (0.5, 0.5, 8, 3, "rnn"), (0.0001, 0.0001, 8, 2, "rnn"), (0.0001, 0.0001, 8, 3, "rnn"),
        (0.1, 0.1, 1, 1, "cnn"), (0.1, 0.1, 2, 1, "mlp"),
    ]  # fmt: skip
    assert [config.keys() for config in configs] == [{"info", "train_config", "model_config"}] * 6
    assert (spec.name, spec.num_jobs) == ("exp", 7)
    stages = [job.base_name for job in spec.jobs]
    assert stages == ["cache"] * 6 + ["train"] * 6 + ["evaluate"] * 6 + ["analyze"]
    assert [(barrier.first, barrier.last) for barrier in spec.barriers] == [(0, 5), (6, 11), (12, 17), (18, 18)]
    paths = [job.experiment for job in spec.jobs[:6]]
    assert [job.experiment for job in spec.jobs] == paths * 3 + [None]
    assert spec.jobs[6].command == ("python", "-m", "scripts.train", "-p", paths[0])
    assert spec.jobs[18].command == ("python", "-m", "scripts.analyze", "-p", *paths)
    assert [spec.jobs[at].num_gpus for at in (0, 6, 12, 18)] == [0, 2, 2, 0]
    assert (spec.jobs[0].num_workers, spec.jobs[18].run_in) == (3, "host")


def test_without_populate_cache_there_is_no_stage_for_it() -> None:
    spec, configs = made("info: {project_name: p}\nseed: 0\nsweep: [{seed: [1, 2]}]\n")
    assert [job.base_name for job in spec.jobs] == ["train"] * 2 + ["evaluate"] * 2 + ["analyze"]
    assert [config["seed"] for config in configs] == [1, 2]


def test_stages_of_ones_own() -> None:
    spec, _ = made(
        "info: {project_name: p}\nseed: 0\nsweep:\n  over: {seed: [1, 2]}\n  defaults: {time_limit: 1h}\n"
        "  train: {command: 't ${EXPERIMENT_KEY}', num_gpus: 1}\n  analyze: {command: 'a ${EXPERIMENT_PATHS}', env: {A: b}}\n"
    )
    assert [job.name for job in spec.jobs] == ["train[seed=1]", "train[seed=2]", "analyze"]
    first, second, analyze = spec.jobs
    assert first.env is not None
    assert first.command == f"t {first.env['EXPERIMENT_KEY']}"
    assert analyze.command == f"a {first.experiment} {second.experiment}"
    assert {job.time_limit for job in spec.jobs} == {3600.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 0", "no `info`"),
        ("info: {}", "it has no `sweep`"),
        ("info: {experiment_key: made}\nsweep: [{seed: [1]}]\nseed: 0", "it is made already"),
        ("info: {}\nsweep: 5", "expected a mapping with `over` and stages, found 5"),
        ("info: {}\nsweep: {ovre: {}}", "unknown key 'ovre'"),
        ("info: {}\nsweep: {over: {seed: [1]}}\nseed: 0", "has no stage"),
        ("info: {}\nsweep: []", "expected a mapping of keys to lists"),
        ("info: {}\nsweep: [{sede: [1]}]\nseed: 0", "no key 'sede' anywhere"),
        ("info: {}\nsweep: [{seed: []}]\nseed: 0", "an empty list makes no experiments"),
        ("info: {}\nsweep: {over: {seed: [1]}, train: {name: x}}\nseed: 0", "`sweep.train.name`: that is the sweep's"),
        ("info: {}\nsweep: {over: {seed: [1]}, train: [x]}\nseed: 0", "`sweep.train`: expected a mapping"),
        ("info: {}\nsweep: [{multiple_parameters: [1]}]", "expected a list of mappings"),
    ],
)
def test_what_is_no_sweep_is_said(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match="exp.yml") as error:
        sweep.pipeline(written(text))
    assert message in str(error.value)


def test_mistakes_in_a_stage_have_the_line_of_the_experiments_file(place: Path) -> None:
    text = "info: {project_name: p}\nseed: 0\nsweep:\n  over:\n    seed: [1, 2]\n  train:\n    command: t\n    num_gpu: 1\n    time_limit: soon\n"
    with pytest.raises(InvalidPipeline) as error:
        sweep.pipeline(written(text))
    assert [str(one).partition(" ")[0] for one in error.value.problems] == ["exp.yml:8:", "exp.yml:9:"]
    assert "sweep.train.num_gpu: unknown key 'num_gpu'; did you mean `num_gpus`?" in str(error.value)
    with pytest.raises(InvalidPipeline) as error:
        Experiments(
            [
                sweep.pipeline(
                    written(
                        text.replace("num_gpu: 1", "retries: 1")
                        .replace("soon", "1h")
                        .replace("seed: [1, 2]", "train.seed: [1, 2]")
                    )
                )
            ]
        )
    assert str(error.value.problems[0]).startswith("exp.yml:4: sweep.over: cannot use exp.yml: cannot set train.seed")


def test_without_a_daemon_nothing_is_made(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["sweep", written("info: {project_name: p}\nseed: 0\nsweep: [{seed: [1, 2]}]\n")]) == 3
    assert "runners-client up" in capsys.readouterr().err
    assert not (place / "artifacts").exists()


def test_the_example_written_out_is_what_the_sweep_of_it_makes() -> None:
    swept = sweep.pipeline(os.fspath(ROOT / "configs" / "experiments" / "separation.yml"))
    out = load_located(ROOT / "configs" / "pipelines" / "separation.yml", environment=os.environ)
    Experiments([out])
    for one, other in zip(swept.spec.jobs, out.spec.jobs, strict=True):
        assert {**one.to_json(), "experiment": None, "blocking": None} == {
            **other.to_json(),
            "experiment": None,
            "blocking": None,
        }
    assert (swept.spec.barriers, swept.spec.num_jobs, swept.spec.name) == (
        out.spec.barriers,
        out.spec.num_jobs,
        out.spec.name,
    )
