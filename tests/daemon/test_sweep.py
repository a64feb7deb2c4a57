"""The worked example: a sweep of 3 x 2, through a daemon of the user's own, to one report."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from comet_server import comet_server
from harness.daemon import ROOT, Daemon
from runners.experiments.folder import read_record

RATES, SEEDS = (0.001, 0.01, 0.1), (0, 1)
SWEPT = {"info": ("experiment_key", "output_folder"), "train_config": ("learning_rate", "seed")}


def without_swept(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration less what has to differ."""
    return {
        name: {key: value for key, value in part.items() if key not in SWEPT.get(name, ())}
        for name, part in config.items()
    }


@pytest.mark.timeout(300)
def test_the_example_makes_six_experiments_their_archives_and_one_report(tmp_path: Path) -> None:
    places = {name: str(tmp_path / name.lower()) for name in ("CACHE_DIRECTORY", "ARTIFACTS_DIRECTORY")}
    env = {
        **places,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MPLCONFIGDIR": str(tmp_path),
        "HOME": str(tmp_path),
    }
    with Daemon(tmp_path / "d", personal=True, env=env) as daemon:
        dry = daemon.run("sweep", "configs/experiments/separation.yml", "--dry-run", cwd=ROOT)
        assert dry.returncode == 0, dry.stderr
        assert dry.stdout.count(b"train_config.learning_rate=0.01,train_config.seed=1") == 3
        assert not Path(places["ARTIFACTS_DIRECTORY"]).exists()
        done = daemon.run("sweep", "configs/experiments/separation.yml", "--json", cwd=ROOT)
        assert done.returncode == 0, done.stderr
        ids = [job["id"] for job in json.loads(done.stdout)["jobs"]]
        jobs = daemon.wait(*ids, patience=240)
        said = {
            job["name"]: daemon.run("logs", str(job["id"])).stderr.decode()[-500:]
            for job in jobs
            if job["state"] != "succeeded"
        }
        assert said == {}
    assert [job["name"].partition("[")[0] for job in jobs] == ["cache"] * 6 + ["train"] * 6 + ["evaluate"] * 6 + [
        "analyze"
    ]

    results = Path(places["ARTIFACTS_DIRECTORY"]) / "separation"
    homes = sorted(path for path in results.iterdir() if path.name != "report")
    found = [yaml.safe_load((home / "config.yml").read_text()) for home in homes]
    assert sorted((one["train_config"]["learning_rate"], one["train_config"]["seed"]) for one in found) == [
        (rate, seed) for rate in RATES for seed in SEEDS
    ]
    assert [without_swept(one) for one in found] == [without_swept(found[0])] * 6
    assert "sweep" not in found[0]
    assert all(one["info"]["experiment_key"] == home.name for one, home in zip(found, homes, strict=True))
    caches = [path.name for path in Path(places["CACHE_DIRECTORY"]).iterdir() if not path.name.startswith(".")]
    assert [name for name in caches if name.startswith("separation")] == caches, "one data set for all"
    assert len(caches) == 1

    for home in homes:
        events = [(line["event"], line.get("name", "").partition("[")[0]) for line in read_record(home)]
        assert [name for event, name in events if event == "submitted"] == ["cache", "train", "evaluate"]
        assert [name for event, name in events if event == "ended"] == ["cache", "train", "evaluate"]
    archives = [path for home in homes for path in home.glob("*.zip")]
    assert len(archives) == 12, "of each training and each evaluation"
    with comet_server() as server:
        upload = {**os.environ, "COMET_API_KEY": "s3cret", "COMET_URL_OVERRIDE": server.url, "HOME": str(tmp_path)}
        taken = subprocess.run(
            [sys.executable, "-m", "comet_ml.scripts.comet_upload", *archives], env=upload, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
    assert taken.returncode == 0, taken.stderr
    assert "Number of uploaded experiments: 12" in taken.stderr
    with zipfile.ZipFile(next(homes[0].glob("*.zip"))) as archive:
        assert b"train_config_learning_rate" in archive.read("messages.json")

    page = (results / "report" / "report.md").read_text()
    assert all(f"| {rate:g} | {seed} |" in page for rate in RATES for seed in SEEDS)
    picture = (results / "report" / "report.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", picture[16:24]) == (1430, 910)
