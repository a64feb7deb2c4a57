"""Step 1 of the demo: make the data set and keep it as a zarr cache.

The cache appears under its name only when it is whole: it is built beside it and then renamed. A second run with the
same settings uses it again; with others it is made anew.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import sounds
import zarr

NAME = "separation.zarr"
#: Share of the clips in each part.
PARTS = {"train": 0.7, "validation": 0.15, "test": 0.15}


def main() -> None:
    """Make the cache that the flags ask for, unless it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder to keep the data set in")
    parser.add_argument("--clips", type=int, default=96, help="how many mixtures, at least 7 (default 96)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each (default 2)")
    parser.add_argument("--seed", type=int, default=7)
    flags = parser.parse_args()
    if flags.clips < 7 or flags.seconds < 0.5:
        parser.error("cannot make a data set of fewer than 7 clips, or of clips shorter than half a second")
    settings = {
        "format": sounds.FORMAT,
        "sample_rate": sounds.SAMPLE_RATE,
        "window": sounds.WINDOW,
        "hop": sounds.HOP,
        "clips": flags.clips,
        "seconds": flags.seconds,
        "seed": flags.seed,
    }
    path = flags.cache / NAME
    flags.cache.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with alone(flags.cache):
        if settings_of(path) == settings:
            print(f"{path} is there already, made with the same settings: using it")
            return
        build(path, settings)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    print(f"wrote {path}: {size / 1e6:.1f} MB in {time.monotonic() - began:.1f} s")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let one process at a time build here. The kernel lets go of the lock of one that is killed."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def settings_of(path: Path) -> object:
    """What the cache at ``path`` was made with; None where there is none."""
    return zarr.open_group(path, mode="r").attrs.get("settings") if path.exists() else None


def load(folder: Path) -> zarr.Group:
    """The data set that was kept in ``folder``; ends the program with a message where there is none."""
    path = folder / NAME
    if not path.exists():
        sys.exit(f"cannot go on: no finished data set in {folder}; run prepare.py first")
    return zarr.open_group(path, mode="r")


def build(path: Path, settings: dict[str, int | float]) -> None:
    """Make the data set in a folder of its own, and give it its name once it is complete and on the disk."""
    for leftover in path.parent.glob(".building-*"):  # of builds that were killed: nobody else holds the lock
        shutil.rmtree(leftover)
    folder = Path(tempfile.mkdtemp(prefix=".building-", dir=path.parent))
    fill(zarr.open_group(folder / "new", mode="w", zarr_format=3, attributes={"settings": settings}), settings)
    # zarr leaves it to the kernel when things reach the disk: a rename that got there first would name an empty cache.
    for entry in [folder, *folder.rglob("*")]:
        descriptor = os.open(entry, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    if path.exists():
        path.rename(folder / "old")
    (folder / "new").rename(path)
    shutil.rmtree(folder)


def fill(group: zarr.Group, settings: dict[str, int | float]) -> None:
    """Make the data set in an empty group."""
    rng = np.random.default_rng(int(settings["seed"]))
    for part, share in PARTS.items():
        count = max(1, round(share * settings["clips"]))
        clips = [sounds.synthesise(rng, settings["seconds"]) for _ in range(count)]
        spectra = [sounds.spectrum(clip.mixture) for clip in clips]
        arrays = {
            "mixture": np.stack([clip.mixture for clip in clips]),
            "tones": np.stack([clip.tones for clip in clips]),
            "loudness": np.stack([sounds.loudness(spectrum) for spectrum in spectra]),
            "mask": np.stack([sounds.ideal_mask(clip) for clip in clips]),
        }
        for name, values in arrays.items():
            group.create_array(f"{part}/{name}", data=values.astype(np.float32))
        print(f"{part}: {count} mixtures of tones and noise, {settings['seconds']:g} s each", flush=True)


if __name__ == "__main__":
    main()
