"""Stage `evaluate`: how much clearer a trained network makes the notes, on clips that no training saw."""

from __future__ import annotations

import sys
from pathlib import Path

import evaluate  # of configs/pipelines/demo, as are sounds and network
import numpy as np
import sounds
from build_cache import data_of
from network import MaskNetwork

from runners.experiment_utils import load_experiment
from runners.utils import dump_yaml


def main() -> None:
    """Leaves `results/test.yml` in the experiment's folder, and the first test clip taken apart as sound files."""
    config, exp, _ = load_experiment(sys.argv[1])
    home = Path(config["info"]["output_folder"])
    test = data_of(config)
    mixtures, tones, masks = (np.asarray(test[f"test/{name}"], np.float64) for name in ("mixture", "tones", "mask"))
    network = MaskNetwork.load(home / "checkpoints" / "latest.npz")
    estimates = [evaluate.separate(mixture, evaluate.predict(network, mixture)) for mixture in mixtures]
    ideal = [evaluate.separate(mixture, mask) for mixture, mask in zip(mixtures, masks, strict=True)]
    before, after, best = (
        float(np.mean([sounds.fidelity(*pair) for pair in zip(signals, tones, strict=True)]))
        for signals in (mixtures, estimates, ideal)
    )
    gain = round(after - before, 3) if np.isfinite(after) else None
    folder = home / "results"
    folder.mkdir(exist_ok=True)
    for name, signal in {"mixture": mixtures[0], "tones": tones[0], "estimate": estimates[0]}.items():
        evaluate.write_wave(folder / f"{name}.wav", signal)
    dump_yaml({"mixture": round(before, 3), "ceiling": round(best - before, 3), "gain": gain}, folder / "test.yml")
    if exp is not None and gain is not None:
        exp.log_metric("gain", gain)
    print("diverged" if gain is None else f"gains {gain:.2f} dB; an ideal mask gains {best - before:.2f} dB")


if __name__ == "__main__":
    main()
