"""Step 2 of the demo: train one network with one learning rate, and write down how it went."""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import prepare
import sounds
import zarr
from network import Array, MaskNetwork

Part = tuple[Array, Array, Array]


def main() -> None:
    """Train as the flags say; leaves `weights.npz` and `history.json` in a folder of this training's own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder that prepare.py kept the data set in")
    parser.add_argument("--artifacts", type=Path, required=True, help="folder to write a folder of results to")
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the first weights and the order of the batches")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--hidden", type=int, default=128, help="units of the hidden layer (default 128)")
    parser.add_argument("--batch", type=int, default=64, help="frames a step (default 64)")
    flags = parser.parse_args()

    cards = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    # NumPy computes on the CPU; a card is asked for, held and shown, as a real training would.
    print(f"holding {cards}" if cards else "holding no card (CUDA_VISIBLE_DEVICES is empty): on the CPU", flush=True)
    group = prepare.load(flags.cache)
    train, validation = (frames(group, part) for part in ("train", "validation"))
    rng = np.random.default_rng(flags.seed)
    network = MaskNetwork.random(rng, train[0].shape[1], flags.hidden, sounds.BINS)
    print(f"{len(train[0])} frames, learning rate {flags.learning_rate:g}, seed {flags.seed}", flush=True)

    began = time.monotonic()
    losses: list[dict[str, float | None]] = [{"train": None, "validation": finite(network.loss(*validation))}]
    for epoch in range(1, flags.epochs + 1):
        with np.errstate(over="ignore", invalid="ignore"):  # too large a learning rate is a result, not an accident
            loss, held_out = run_epoch(network, train, rng, flags), network.loss(*validation)
        losses.append({"train": finite(loss), "validation": finite(held_out)})
        print(f"epoch {epoch:2}/{flags.epochs}  loss {loss:.4f}  on held-out clips {held_out:.4f}", flush=True)
        if not math.isfinite(held_out):
            print("the weights have run away: stopping here", flush=True)
            break

    folder = flags.artifacts / f"train-lr={flags.learning_rate:g}-seed={flags.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    network.save(folder / "weights.npz")
    history = {
        "learning_rate": flags.learning_rate,
        "seed": flags.seed,
        "seconds": round(time.monotonic() - began, 2),
        "gpus": cards.split(",") if cards else [],
        "losses": losses,
    }
    write_json(folder / "history.json", history)
    print(f"wrote {folder}")


def frames(group: zarr.Group, part: str) -> Part:
    """Inputs, wanted masks and the weight of every bin, one row a frame. What is louder matters more."""
    loud, mask = (np.asarray(group[f"{part}/{name}"]) for name in ("loudness", "mask"))
    inputs = np.concatenate([sounds.with_context(clip) for clip in loud]).astype(np.float32)
    loud = loud.reshape(-1, sounds.BINS)
    return inputs, mask.reshape(-1, sounds.BINS), loud / loud.mean()


def run_epoch(network: MaskNetwork, train: Part, rng: np.random.Generator, flags: argparse.Namespace) -> float:
    """Once through the frames in a new order; returns the mean loss of the batches."""
    order = rng.permutation(len(train[0]))
    batches = np.array_split(order, max(1, len(order) // flags.batch))
    inputs, mask, weight = train
    return float(np.mean([network.step(inputs[b], mask[b], weight[b], flags.learning_rate) for b in batches]))


def finite(value: float) -> float | None:
    """``value``, or None where JSON has no word for it."""
    return round(value, 5) if math.isfinite(value) else None


def write_json(path: Path, value: object) -> None:
    """Write ``value`` to ``path``, whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    main()
