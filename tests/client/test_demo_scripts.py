"""The demo's scripts, run one after the other as the pipeline would run them, with small settings."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
import wave
import zlib
from pathlib import Path

import pytest
import yaml

from runners.pipeline.files import load

ROOT = Path(__file__).resolve().parents[2]
PIPELINES = ROOT / "configs" / "pipelines"
DIRECTORIES = {f"{name}_DIRECTORY": f"/srv/{name.lower()}" for name in ("DATA", "CACHE", "ARTIFACTS", "NUSSL")}
SMALL = ("--clips", "12", "--seconds", "1")
ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def start(script: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """A script of the demo, started as a job would be."""
    return subprocess.Popen(
        [sys.executable, str(PIPELINES / "demo" / f"{script}.py"), *map(str, arguments)],
        env=os.environ | ONE_CORE | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(script: str, *arguments: object, **environment: str) -> str:
    """What a script says that has to succeed."""
    process = start(script, *arguments, **environment)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, f"{script}: {out}{err}"
    return out


def pixels(path: Path) -> tuple[int, int, int]:
    """Width, height and number of different values in a PNG's picture data, every chunk's checksum looked at."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    packed, width, height, kinds, position = b"", 0, 0, [], 8
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind, body = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        assert struct.unpack_from(">I", data, position + 8 + length)[0] == zlib.crc32(kind + body)
        kinds.append(kind)
        if kind == b"IHDR":
            width, height = struct.unpack(">II", body[:8])
        packed += body if kind == b"IDAT" else b""
        position += 12 + length
    assert kinds[-1] == b"IEND"
    return width, height, len(set(zlib.decompress(packed)))


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, by its path in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole experiment, in a folder whose name has a space: learning rates too small, good and too large."""
    folder = tmp_path_factory.mktemp("an experiment")
    run("prepare", "--cache", folder / "cache", *SMALL)
    places = ("--cache", folder / "cache", "--artifacts", folder / "results")
    trainings = [
        start("train", *places, "--learning-rate", rate, "--epochs", "6", "--hidden", "32", CUDA_VISIBLE_DEVICES=card)
        for rate, card in (("0.00001", ""), ("0.003", "GPU-1,GPU-2"), ("1e30", ""))
    ]
    said = [training.communicate(timeout=60) for training in trainings]
    assert [training.returncode for training in trainings] == [0, 0, 0], said
    (folder / "said.json").write_text(json.dumps([out for out, _ in said]))
    run("evaluate", *places)
    run("report", "--artifacts", folder / "results")
    return folder


def test_training_tells_how_it_goes_and_which_cards_it_holds(experiment: Path) -> None:
    slow, good, wild = json.loads((experiment / "said.json").read_text())
    assert "holding no card" in slow
    assert "holding GPU-1,GPU-2" in good
    assert good.count("epoch ") == 6
    assert "run away" in wild


def test_learning_rates_differ_in_what_they_learn(experiment: Path) -> None:
    results = json.loads((experiment / "results" / "results.json").read_text())
    slow, good, wild = results["models"]
    assert [model["learning_rate"] for model in results["models"]] == [1e-5, 0.003, 1e30]
    assert slow["gain"] + 3 < good["gain"] < results["ceiling"]
    assert wild["gain"] is None
    assert results["best"] == good["folder"] == "train-lr=0.003-seed=0"
    history = json.loads((experiment / "results" / good["folder"] / "history.json").read_text())
    losses = [row["validation"] for row in history["losses"]]
    assert len(losses) == 7
    assert losses[-1] < losses[0] / 2
    assert history["gpus"] == ["GPU-1", "GPU-2"]


def test_the_report_has_every_model_and_a_plot_worth_looking_at(experiment: Path) -> None:
    page = (experiment / "results" / "report.md").read_text()
    assert "**Best: learning rate 0.003" in page
    rows = [line for line in page.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert len(rows) == 3
    assert "diverged" in rows[2]
    assert "report.png" in page
    width, height, shades = pixels(experiment / "results" / "report.png")
    assert width > 1000
    assert height > 600
    assert shades > 100
    for name in ("mixture", "tones", "estimate"):
        with wave.open(str(experiment / "results" / f"{name}.wav")) as sound:
            assert (sound.getframerate(), sound.getnframes()) == (8000, 8000)


def test_the_cache_is_used_again_unless_the_settings_differ(tmp_path: Path) -> None:
    run("prepare", "--cache", tmp_path, *SMALL)
    first = files(tmp_path)
    changed = (tmp_path / "separation.zarr" / "zarr.json").stat().st_mtime_ns
    assert "using it" in run("prepare", "--cache", tmp_path, *SMALL)
    assert (tmp_path / "separation.zarr" / "zarr.json").stat().st_mtime_ns == changed
    assert "wrote" in run("prepare", "--cache", tmp_path, *SMALL, "--seed", "8")
    assert files(tmp_path) != first
    assert "wrote" in run("prepare", "--cache", tmp_path, *SMALL)
    assert files(tmp_path) == first, "the same seed gives the same data"


def test_a_prepare_that_is_killed_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    cache = tmp_path / "separation.zarr"
    process = start("prepare", "--cache", tmp_path, "--clips", "5000")  # minutes of work
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob(".building-*/new/zarr.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert not cache.exists()

    training = start("train", "--cache", tmp_path, "--artifacts", tmp_path / "results", "--learning-rate", "1")
    assert "no finished data set" in training.communicate(timeout=60)[1]
    assert training.returncode == 1
    assert "wrote" in run("prepare", "--cache", tmp_path, *SMALL)
    assert not list(tmp_path.glob(".building-*")), "the next one tidies up"
    assert cache.exists()


def test_steps_out_of_order_say_what_is_missing(tmp_path: Path) -> None:
    steps = [
        start("evaluate", "--cache", tmp_path, "--artifacts", tmp_path),
        start("report", "--artifacts", tmp_path),
        start("prepare", "--cache", tmp_path, "--clips", "2"),
    ]
    said = [step.communicate(timeout=60)[1] for step in steps]
    assert [step.returncode for step in steps] == [1, 1, 2]
    assert "cannot evaluate: no trained network" in said[0]
    assert "run evaluate.py first" in said[1]
    assert "fewer than 7 clips" in said[2]
    assert not any("Traceback" in text for text in said)


@pytest.mark.parametrize("name", ["demo", "first_library"])
def test_the_pipelines_call_scripts_that_are_there(name: str) -> None:
    jobs = yaml.safe_load((PIPELINES / f"{name}.yml").read_text())["jobs"]
    assert [Path(job["script"]).stem for job in jobs] == ["prepare", "train", "evaluate", "report"]
    assert all((ROOT / job["script"]).is_file() for job in jobs)


@pytest.mark.parametrize("name", ["demo-container", "demo-gpu-container"])
def test_in_containers_it_is_the_same_jobs(name: str) -> None:
    alone = load(PIPELINES / f"{name.removesuffix('-container')}.yml", environment=DIRECTORIES).jobs
    within = load(PIPELINES / f"{name}.yml", environment=DIRECTORIES).jobs
    assert {job.run_in for job in alone} == {"host"}
    assert {job.run_in for job in within} == {"container"}
    assert [(job.command, job.num_gpus) for job in within] == [(job.command, job.num_gpus) for job in alone]


def test_the_environment_file_sets_what_pipelines_name_and_keeps_what_is_set(tmp_path: Path) -> None:
    script = (
        '. ./configs/environment/default.sh; printf "%s\\n" "$DATA_DIRECTORY" "$CACHE_DIRECTORY" "$ARTIFACTS_DIRECTORY"'
    )
    cache = tmp_path / "my cache"
    result = subprocess.run(
        ["sh", "-euc", script],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path / "a b"), "CACHE_DIRECTORY": str(cache)},
        capture_output=True,
        text=True,
    )
    home = tmp_path / "a b" / ".local" / "share" / "runners"
    assert (result.stdout, result.stderr) == (f"{home}/data\n{cache}\n{home}/artifacts\n", "")
    assert all(one.is_dir() for one in (home / "data", cache, home / "artifacts")), "a container mounts them"
