"""`load_experiment` and `save_experiment`: keys, folders, what is saved, what is wrong; and Comet, real, near or away."""

from __future__ import annotations

import doctest
import inspect
import os
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from comet_server import CometServer, comet_server
from runners import experiment_utils
from runners.errors import InvalidRequest
from runners.experiment_utils import load_experiment, save_experiment
from runners.experiments import comet, configs, folder, job

ROOT = Path(__file__).parents[2]
KEY = "s3cretc0metkey"
TEMPLATE = """
info:
  project_name: musdb
  experiment_key: ${EXPERIMENT_KEY}
  output_folder: ${ARTIFACTS_DIRECTORY}/musdb/${EXPERIMENT_KEY}
train_config: {lr: 0.001, layers: [1, 2], shape: !!python/tuple [3, 4]}
test_config: {model_path: "${ARTIFACTS_DIRECTORY}/musdb/${EXPERIMENT_KEY}/checkpoints/best.model.pth"}
"""


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An artifacts directory, and nothing of Comet's or of a job's around."""
    for name in ("COMET_API_KEY", comet.OFFLINE, "RUNNERS_JOB_ID", "EXPERIMENT_KEY"):
        monkeypatch.delenv(name, raising=False)
    # That is read when it is first imported, whenever that was.
    monkeypatch.setattr("runners.config.artifacts_directory", None)
    monkeypatch.setenv("ARTIFACTS_DIRECTORY", str(tmp_path / "artifacts"))
    return tmp_path


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def wrong(path: Path) -> str:
    with pytest.raises(InvalidRequest) as error:
        load_experiment(path)
    return str(error.value)


@pytest.mark.parametrize("module", [experiment_utils, comet, configs, job], ids=lambda module: module.__name__)
def test_the_examples_in_the_docstrings_are_true(module: Any) -> None:
    found = doctest.testmod(module)
    assert (found.failed, found.attempted > 0) == (0, True)


def test_signatures_are_the_documentations() -> None:
    assert list(inspect.signature(load_experiment).parameters) == ["path_to_yml_file"]
    assert [str(one).split(":")[0] for one in inspect.signature(save_experiment).parameters.values()] == [
        "config",
        "exp",
    ]
    assert inspect.signature(save_experiment).parameters["exp"].default is None


# -- loading and saving ------------------------------------------------------------------------------------------------


def test_a_new_experiment_is_instantiated_in_a_directory_with_a_random_name(places: Path) -> None:
    """'If it is not available, then it is instantiated by producing a directory with a random name. The name of this
    directory is the experiment key'; exp 'otherwise it is None'; the path 'will be different from the input path'."""
    file = written(places / "exp.yml", TEMPLATE)
    config, exp, path = load_experiment(file)
    key = config["info"]["experiment_key"]
    assert (exp, len(key), key.isalnum()) == (None, 32, True)
    home = places / "artifacts" / "musdb" / key
    assert (path, config["info"]["output_folder"]) == (str(home / "config.yml"), str(home))
    assert config["test_config"]["model_path"] == f"{home}/checkpoints/best.model.pth"
    assert config["train_config"] == {"lr": 0.001, "layers": [1, 2], "shape": (3, 4)}
    assert [one.name for one in home.iterdir()] == ["config.yml"]
    assert file.read_text() == TEMPLATE
    assert load_experiment(file)[0]["info"]["experiment_key"] != key, "each time it is a new one"


def test_one_that_was_instantiated_is_loaded_and_not_saved_again(places: Path) -> None:
    config, _, path = load_experiment(written(places / "exp.yml", TEMPLATE))
    before = os.stat(path)
    assert load_experiment(path) == (config, None, path)
    assert os.stat(path).st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("info", ["{}", "{experiment_key: null}", "{experiment_key: ''}", "{project_name: p}"])
def test_without_a_key_it_is_a_new_one(places: Path, info: str) -> None:
    """'If there is no experiment key in the info dictionary in config, then this is an experiment that should be
    instantiated.'"""
    config, _, path = load_experiment(written(places / "exp.yml", f"info: {info}\nseed: 1\n"))
    key = config["info"]["experiment_key"]
    project = "p" if "project_name" in info else "experiments"
    assert path == str(places / "artifacts" / project / key / "config.yml")


def test_what_is_no_experiment_is_said(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = places / "exp.yml"
    assert wrong(written(file, "train: 1\n")).startswith(f"cannot use {file}: no `info`: expected a mapping")
    assert "`info` is [1]" in wrong(written(file, "info: [1]\n"))
    assert "expected a mapping with `info`" in wrong(written(file, "- info\n"))
    assert "info.output_folder: expected text, found 3" in wrong(written(file, "info: {output_folder: 3}\n"))
    assert "info.experiment_key: expected letters" in wrong(written(file, "info: {experiment_key: ../x}\n"))
    assert "line 3: not valid YAML" in wrong(written(file, "info: {}\na: [\n"))
    monkeypatch.delenv("ARTIFACTS_DIRECTORY")
    assert "line 5: ${ARTIFACTS_DIRECTORY} has no value" in wrong(written(file, TEMPLATE))
    assert "set ARTIFACTS_DIRECTORY" in wrong(written(file, "info: {}\n"))
    with pytest.raises(FileNotFoundError):
        load_experiment(places / "nowhere.yml")


def test_keys_that_would_be_one_parameter_are_both_named(places: Path) -> None:
    said = wrong(written(places / "exp.yml", "info: {}\ntrain: {lr_max: 1}\ntrain_lr: {max: 2}\n"))
    assert "`train > lr_max` and `train_lr > max` both become 'train_lr_max'" in said
    assert not (places / "artifacts").exists(), "nothing was made"


def test_a_folder_is_one_experiments(places: Path) -> None:
    text = "info: {output_folder: '${ARTIFACTS_DIRECTORY}/same'}\n"
    _, _, path = load_experiment(written(places / "exp.yml", text))
    before = Path(path).read_text()
    assert "put ${EXPERIMENT_KEY} into `info.output_folder`" in wrong(places / "exp.yml")
    assert Path(path).read_text() == before


class Followed:
    """What `save_experiment` asks of an experiment, written down."""

    def __init__(self) -> None:
        self.parameters: dict[str, Any] = {}

    def log_parameters(self, parameters: dict[str, Any]) -> None:
        self.parameters.update(parameters)

    def log_asset(self, path: str, name: str, overwrite: bool) -> None:
        self.asset = Path(path).read_text()


def test_save_experiment(places: Path) -> None:
    """'Saves a configuration of an experiment to an experiment directory. If exp is defined, it is an Experiment object
    from comet.ml whose parameters will be updated via config.' Returns the 'Path to the yml file'."""
    home = places / "results" / "k3y"
    config = {"info": {"experiment_key": "k3y", "output_folder": str(home)}, "train": {"lr": 0.1}}
    assert save_experiment(config) == str(home / "config.yml")
    assert yaml.safe_load((home / "config.yml").read_text()) == config
    exp = Followed()
    config["train"] = {"lr": 0.2}
    save_experiment(config, exp)
    assert exp.parameters == {"info_experiment_key": "k3y", "info_output_folder": str(home), "train_lr": 0.2}
    assert yaml.safe_load(exp.asset) == config
    with pytest.raises(InvalidRequest, match="no `info`"):
        save_experiment({"train": 1})
    with pytest.raises(InvalidRequest, match=r"no `info.output_folder`"):
        save_experiment({"info": {}})
    with pytest.raises(ValueError, match="`train > lr` and `train_lr` both become"):
        save_experiment({**config, "train_lr": 1})
    with pytest.raises(InvalidRequest, match="cannot be written as YAML"):
        save_experiment({**config, "what": object()})
    assert yaml.safe_load((home / "config.yml").read_text()) == config, "what was there stays whole"
    assert [one.name for one in home.iterdir()] == ["config.yml"]


def test_the_record_is_added_to_and_read(tmp_path: Path) -> None:
    assert folder.read_record(tmp_path) == []
    folder.note(str(tmp_path), "submitted", job=None, command="a 'b'\n")
    folder.note(str(tmp_path), "ended", code=3)
    with open(tmp_path / folder.RECORD, "a") as file:
        file.write('{"event": "half')
    assert folder.read_record(tmp_path) == [
        {"event": "submitted", "command": "a 'b'\n"},
        {"event": "ended", "code": 3},
    ]


# -- Comet -------------------------------------------------------------------------------------------------------------

FOLLOWED = """
import sys, time
began = time.monotonic()
from runners.experiment_utils import load_experiment
config, exp, path = load_experiment(sys.argv[1])
print(type(exp).__name__, path, time.monotonic() - began, flush=True)
if exp is not None:
    exp.log_metric("loss", 0.25, step=1)
"""


def follow(file: Path, **environment: str) -> tuple[str, Path, float, str]:
    """A script that loads an experiment, in a process of its own: the class of `exp`, the folder, seconds, all it said."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("COMET_", "RUNNERS_"))}
    env |= {"PYTHONPATH": str(ROOT / "client"), "HOME": str(file.parent), "COMET_AUTO_LOG_GIT_PATCH": "false"}
    done = subprocess.run(
        [sys.executable, "-c", FOLLOWED, str(file)], env={**env, **environment}, capture_output=True, text=True,
        timeout=100, check=False, cwd=file.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kind, path, seconds = done.stdout.splitlines()[-1].split()
    return kind, Path(path).parent, float(seconds), done.stdout + done.stderr


def archives(home: Path) -> list[Path]:
    return sorted(home.glob("*.zip"))


def everything(folder: Path) -> bytes:
    """All bytes below a folder, archives taken apart."""
    found = b""
    for path in folder.rglob("*"):
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                found += b"".join(archive.read(name) for name in archive.namelist())
        elif path.is_file():
            found += path.read_bytes()
    return found


def parameters_sent(server: CometServer) -> bytes:
    return b"".join(body for path, body in server.asked if "parameter" in path)


def test_online_the_parameters_are_there_and_the_key_is_not(places: Path) -> None:
    """'If comet is available, then the experiment is instantiated by comet.'"""
    file = written(places / "exp.yml", TEMPLATE)
    with comet_server() as server:
        kind, home, _, said = follow(file, COMET_API_KEY=KEY, COMET_URL_OVERRIDE=server.url)
    assert kind == "Experiment"
    assert home.name.encode() in server.said(), "Comet's key is ours"
    assert {name for name in (b"train_config_lr", b"info_project_name") if name in parameters_sent(server)} == {
        b"train_config_lr", b"info_project_name",
    }  # fmt: skip
    assert [one.name for one in home.iterdir()] == ["config.yml"]
    assert KEY not in said
    assert KEY.encode() not in everything(places)


def test_offline_archives_are_taken_by_comet_upload(places: Path) -> None:
    """With Comet's own program, to a server that takes what it sends. Two processes of one experiment leave two."""
    file = written(places / "exp.yml", TEMPLATE.replace("info:", "info:\n  comet_offline: true"))
    kind, home, _, said = follow(file)
    assert kind == "OfflineExperiment"
    assert f"comet upload {home}/" in said
    assert follow(home / "config.yml")[0] == "OfflineExperiment"
    assert len(archives(home)) == 2
    with comet_server() as server:
        env = {**os.environ, "COMET_API_KEY": KEY, "COMET_URL_OVERRIDE": server.url, "HOME": str(places)}
        done = subprocess.run(
            [sys.executable, "-m", "comet_ml.scripts.comet_upload", *archives(home)], env=env, capture_output=True,
            text=True, timeout=100, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "train_config_lr" in parameters_sent(server).decode()
    assert server.said().count(b'"loss"') >= 2
    assert home.name.encode() in server.said()


@pytest.mark.parametrize(
    "away", [*(pytest.param(away, marks=pytest.mark.slow) for away in ("hangs", "hangs later")), "refuses"]
)
def test_when_comet_is_away_the_experiment_goes_on_offline(places: Path, away: str) -> None:
    file = written(places / "exp.yml", TEMPLATE)
    if away == "refuses":
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            port = nobody.getsockname()[1]
        kind, home, seconds, said = follow(file, COMET_API_KEY=KEY, COMET_URL_OVERRIDE=f"http://127.0.0.1:{port}/")
    else:
        mode, at = ("hang", "") if away == "hangs" else ("answer", "add/run")
        with comet_server(mode, hangs_at=at) as server:
            kind, home, seconds, said = follow(file, COMET_API_KEY=KEY, COMET_URL_OVERRIDE=server.url)
    assert kind == "OfflineExperiment"
    assert "goes on offline: Comet is away" in said
    assert seconds < 45, "Comet's own limits are minutes"
    assert b"train_config_lr" in everything(home)
    assert KEY.encode() not in everything(places)
    assert KEY not in said


def test_without_comet_ml_nothing_fails(places: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(comet.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("COMET_API_KEY", KEY)
    _, exp, path = load_experiment(written(places / "exp.yml", TEMPLATE))
    assert exp is None
    assert Path(path).is_file()
    assert "pip install 'runnersd[experiments]'" in caplog.text
    assert KEY not in caplog.text


def test_a_key_that_comet_does_not_take_is_no_failure(places: Path, caplog: Any) -> None:
    text = "info: {experiment_key: short, output_folder: here, comet_offline: true}\n"
    began = time.monotonic()
    assert load_experiment(written(places / "exp.yml", text))[1] is None
    assert "32 to 50 letters and digits" in caplog.text
    assert "comet_ml" not in sys.modules or time.monotonic() - began < 60
