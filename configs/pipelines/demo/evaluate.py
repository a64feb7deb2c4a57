"""Step 3 of the demo: separate the test clips with every trained network and say how much better they got."""

from __future__ import annotations

import argparse
import json
import sys
import wave
from pathlib import Path

import numpy as np
import prepare
import sounds
from network import MaskNetwork
from train import write_json


def main() -> None:
    """Writes `results.json`, and the first test clip taken apart by the best network as sound files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder that prepare.py kept the data set in")
    parser.add_argument("--artifacts", type=Path, required=True, help="folder that train.py wrote its folders to")
    flags = parser.parse_args()
    folders = sorted(path.parent for path in flags.artifacts.glob("train-*/history.json"))
    if not folders:
        sys.exit(f"cannot evaluate: no trained network in {flags.artifacts}; run train.py first")

    test = prepare.load(flags.cache)
    mixtures, tones, masks = (np.asarray(test[f"test/{name}"], np.float64) for name in ("mixture", "tones", "mask"))
    untouched = np.array([sounds.fidelity(*pair) for pair in zip(mixtures, tones, strict=True)])
    ideal = [separate(mixture, mask) for mixture, mask in zip(mixtures, masks, strict=True)]
    ceiling = float(np.mean([sounds.fidelity(*pair) for pair in zip(ideal, tones, strict=True)] - untouched))
    print(f"{len(mixtures)} test clips; the mixtures are at {untouched.mean():.1f} dB")
    print(f"{'learning rate':>13} {'seed':>4} {'gain in dB':>10}")

    results, estimates = [], {}
    for folder in folders:
        history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
        network = MaskNetwork.load(folder / "weights.npz")
        estimate = [separate(mixture, predict(network, mixture)) for mixture in mixtures]
        gains = [sounds.fidelity(*pair) for pair in zip(estimate, tones, strict=True)] - untouched
        gain = round(float(gains.mean()), 3) if np.isfinite(gains).all() else None
        rate, seed = history["learning_rate"], history["seed"]
        results.append({"learning_rate": rate, "seed": seed, "folder": folder.name, "gain": gain})
        estimates[folder.name] = estimate[0]
        shown = "diverged" if gain is None else f"{gain:.2f}"
        print(f"{rate:>13g} {seed:>4} {shown:>10}", flush=True)
    results.sort(key=lambda result: (result["learning_rate"], result["seed"]))
    usable = [result for result in results if result["gain"] is not None]
    if not usable:
        sys.exit("cannot name a best network: every training diverged; try smaller learning rates")
    best = max(usable, key=lambda result: result["gain"])["folder"]

    for name, signal in {"mixture": mixtures[0], "tones": tones[0], "estimate": estimates[best]}.items():
        write_wave(flags.artifacts / f"{name}.wav", signal)
    write_json(
        flags.artifacts / "results.json",
        {"mixture": round(float(untouched.mean()), 3), "ceiling": round(ceiling, 3), "best": best, "models": results},
    )
    print(f"an ideal mask gains {ceiling:.2f} dB; the best network is {best}")
    print(f"wrote {flags.artifacts / 'results.json'}")


def predict(network: MaskNetwork, mixture: sounds.Array) -> sounds.Array:
    """The network's mask for a mixture; not numbers where its training has run away."""
    inputs = sounds.with_context(sounds.loudness(sounds.spectrum(mixture))).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        return network.mask(inputs).astype(np.float64)


def separate(mixture: sounds.Array, mask: sounds.Array) -> sounds.Array:
    """What of the mixture the mask lets through."""
    return sounds.signal_of(sounds.spectrum(mixture) * mask, len(mixture))


def write_wave(path: Path, signal: sounds.Array) -> None:
    """A mono sound file of 16 bits."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sounds.SAMPLE_RATE)
        file.writeframes((np.clip(signal, -1, 1) * 32767).astype("<i2").tobytes())


if __name__ == "__main__":
    main()
