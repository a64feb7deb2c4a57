"""Stage `analyze`: one report of all experiments of a sweep, with a plot."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import report  # of configs/pipelines/demo

from runners.utils import load_yaml


def main() -> None:
    """Writes `report.md` and `report.png` about the experiments whose configurations are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the report")
    parser.add_argument("paths", nargs="+", help="the experiments' configurations")
    flags = parser.parse_args()
    models = sorted(map(model_of, flags.paths), key=lambda model: (model["learning_rate"], model["seed"]))
    usable = [model for model in models if model["gain"] is not None]
    if not usable:
        sys.exit("cannot name a best network: every training diverged; try smaller learning rates")
    best = max(usable, key=lambda model: model["gain"])
    flags.out.mkdir(parents=True, exist_ok=True)
    for name in ("mixture", "tones", "estimate"):
        shutil.copyfile(Path(best["home"]) / "results" / f"{name}.wav", flags.out / f"{name}.wav")
    results = {key: best[key] for key in ("mixture", "ceiling")} | {"best": best["folder"], "models": models}
    report.plot(results, flags.out)
    (flags.out / "report.md").write_text(report.text(results), encoding="utf-8")
    print(f"report: {flags.out / 'report.md'}")


def model_of(path: str) -> dict[str, Any]:
    """What is known of one experiment: what was swept, how the training went, and what it gained."""
    config = load_yaml(path)
    home = Path(config["info"]["output_folder"])
    history = json.loads((home / "history.json").read_text(encoding="utf-8"))
    results = load_yaml(home / "results" / "test.yml")
    settings = {key: config["train_config"][key] for key in ("learning_rate", "seed")}
    return {**settings, **history, **results, "folder": home.name, "home": str(home)}


if __name__ == "__main__":
    main()
