"""Stage `cache`: the data set, built once however many experiments ask for it. The demo's code makes it."""

from __future__ import annotations

import sys
from typing import Any

import prepare  # of configs/pipelines/demo
import sounds
import zarr

from runners.cache import open_cache
from runners.utils import load_yaml


def main() -> None:
    """Make the data set of the experiment whose configuration is named, unless it is there."""
    [path] = sys.argv[1:]
    print(f"the data set is in {data_of(load_yaml(path)).store}")


def data_of(config: dict[str, Any]) -> zarr.Group:
    """The data set of an experiment, to be read: other settings make another cache."""
    data = config["dataset_config"]
    ours = {"format": sounds.FORMAT, "sample_rate": sounds.SAMPLE_RATE, "window": sounds.WINDOW, "hop": sounds.HOP}
    settings = {**ours, "clips": data["clips"], "seconds": data["seconds"], "seed": data["seed"]}
    return open_cache("separation", settings, lambda group: prepare.fill(group, settings))


if __name__ == "__main__":
    main()
