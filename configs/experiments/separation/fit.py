"""Stage `train`: train the network that an experiment's configuration describes."""

from __future__ import annotations

import os
import sys
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import sounds  # of configs/pipelines/demo, as are train and network
import train
from build_cache import data_of
from network import MaskNetwork

from runners.experiment_utils import load_experiment


def main() -> None:
    """Leaves the weights in `checkpoints` and the losses in `history.json` of the experiment's folder."""
    config, exp, _ = load_experiment(sys.argv[1])
    settings, home = config["train_config"], Path(config["info"]["output_folder"])
    group = data_of(config)
    frames, held_out = (train.frames(group, part) for part in ("train", "validation"))
    rng = np.random.default_rng(settings["seed"])
    network = MaskNetwork.random(rng, frames[0].shape[1], config["model_config"]["hidden"], sounds.BINS)
    steps = Namespace(learning_rate=settings["learning_rate"], batch=settings["batch"])

    began = time.monotonic()
    losses: list[dict[str, float | None]] = [{"train": None, "validation": train.finite(network.loss(*held_out))}]
    for epoch in range(1, settings["epochs"] + 1):
        with np.errstate(over="ignore", invalid="ignore"):  # too large a learning rate is a result, not an accident
            loss, unseen = train.run_epoch(network, frames, rng, steps), network.loss(*held_out)
        losses.append({"train": train.finite(loss), "validation": train.finite(unseen)})
        if exp is not None:
            exp.log_metrics({"loss": loss, "held_out_loss": unseen}, step=epoch)
        print(f"epoch {epoch:2}/{settings['epochs']}  loss {loss:.4f}  on held-out clips {unseen:.4f}", flush=True)

    (home / "checkpoints").mkdir(exist_ok=True)
    network.save(home / "checkpoints" / "latest.npz")
    cards = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    history = {
        "seconds": round(time.monotonic() - began, 2),
        "gpus": cards.split(",") if cards else [],
        "losses": losses,
    }
    train.write_json(home / "history.json", history)


if __name__ == "__main__":
    main()
