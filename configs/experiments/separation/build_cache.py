"""Stage `cache`: the data set, made once however many experiments ask for it. The demo's code makes it."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import prepare  # of configs/pipelines/demo
import sounds

from runners.utils import load_yaml


def main() -> None:
    """Make the data set of the experiment whose configuration is named, unless it is there."""
    [path] = sys.argv[1:]
    config = load_yaml(path)
    folder, settings = folder_of(config), settings_of(config)
    folder.mkdir(parents=True, exist_ok=True)
    with prepare.alone(folder):
        if prepare.settings_of(folder / prepare.NAME) == settings:
            print(f"{folder} is there already")
            return
        prepare.build(folder / prepare.NAME, settings)
    print(f"made {folder}")


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """All that the data set depends on."""
    data = config["dataset_config"]
    ours = {"format": sounds.FORMAT, "sample_rate": sounds.SAMPLE_RATE, "window": sounds.WINDOW, "hop": sounds.HOP}
    return {**ours, "clips": data["clips"], "seconds": data["seconds"], "seed": data["seed"]}


def folder_of(config: dict[str, Any]) -> Path:
    """Where the data set is: other settings, another folder."""
    settings = json.dumps(settings_of(config), sort_keys=True).encode()
    return Path(config["dataset_config"]["cache"]) / hashlib.sha256(settings).hexdigest()[:12]


if __name__ == "__main__":
    main()
