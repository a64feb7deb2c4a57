"""Step 4 of the demo: a page with the results and a plot of them."""

from __future__ import annotations

import argparse
import json
import sys
import wave
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # draws to files: there may be no display

import numpy as np
import sounds
from matplotlib import pyplot
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

Json = dict[str, Any]


def main() -> None:
    """Writes `report.md` and `report.png` beside the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifacts", type=Path, required=True, help="folder that evaluate.py wrote `results.json` to")
    flags = parser.parse_args()
    path = flags.artifacts / "results.json"
    if not path.exists():
        sys.exit(f"cannot write a report: {path} is not there; run evaluate.py first")
    results = json.loads(path.read_text(encoding="utf-8"))
    for model in results["models"]:
        history = flags.artifacts / model["folder"] / "history.json"
        model |= json.loads(history.read_text(encoding="utf-8"))
    plot(results, flags.artifacts)
    page = flags.artifacts / "report.md"
    page.write_text(text(results), encoding="utf-8")
    print(f"report: {page}")
    print(f"plot:   {flags.artifacts / 'report.png'}")


def text(results: Json) -> str:
    """The page, in Markdown."""
    best = next(model for model in results["models"] if model["folder"] == results["best"])
    lines = [
        "# Taking notes out of noise",
        "",
        "A small network was trained to mask everything in a spectrum that is not a plucked note, once for each",
        "learning rate and seed. The gain is how much clearer the notes are than in the mixture, on clips that no",
        "training saw (scale-invariant signal-to-distortion ratio; more is better).",
        "",
        f"**Best: learning rate {best['learning_rate']:g}, which gains {best['gain']:.1f} dB** over the mixtures'",
        f"{results['mixture']:.1f} dB; an ideal mask gains {results['ceiling']:.1f} dB.",
        "",
        "![loss, gain and spectra](report.png)",
        "",
        "| learning rate | seed | last loss | on held-out clips | gain (dB) | seconds | card |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for model in results["models"]:
        last = model["losses"][-1]
        cells = [
            f"{model['learning_rate']:g}",
            str(model["seed"]),
            number(last["train"], 4),
            number(last["validation"], 4),
            number(model["gain"], 2),
            f"{model['seconds']:.1f}",
            ", ".join(model["gpus"]) or "none",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "To hear: [the mixture](mixture.wav), [the notes](tones.wav), [the best network's](estimate.wav).",
        "",
    ]
    return "\n".join(lines)


def number(value: float | None, digits: int) -> str:
    """``value`` to so many digits; a training that ran away has none."""
    return "diverged" if value is None else f"{value:.{digits}f}"


def plot(results: Json, folder: Path) -> None:
    """Losses and gains by learning rate, over the spectra of one clip before and after."""
    pyplot.rcParams.update(
        {"font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11}
    )
    figure = pyplot.figure(figsize=(11, 7), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06))
    grid = figure.add_gridspec(2, 1, height_ratios=(1.15, 1))
    top, bottom = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    models = results["models"]
    rates = sorted({model["learning_rate"] for model in models})
    shades = pyplot.get_cmap("viridis")(np.linspace(0.05, 0.85, len(rates)))
    colour = dict(zip(rates, shades, strict=True))

    losses, gains = top.subplots(1, 2, width_ratios=(1.5, 1))
    for rate in rates:
        for position, model in enumerate(model for model in models if model["learning_rate"] == rate):
            curve = [np.nan if row["validation"] is None else row["validation"] for row in model["losses"]]
            losses.plot(curve, color=colour[rate], lw=1.8, alpha=0.85, label=None if position else f"{rate:g}")
    losses.set(yscale="log", xlabel="epoch", ylabel="divergence from the ideal mask (nats a bin)", xlim=(0, None))
    losses.xaxis.set_major_locator(MaxNLocator(integer=True, steps=(1, 2, 5, 10)))
    losses.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    losses.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else ""))
    losses.set_title("Loss on held-out clips (a line for each seed)", loc="left", weight="bold")
    losses.legend(title="learning rate", frameon=False, loc="upper right")
    losses.grid(axis="y", which="major", alpha=0.25)

    for place, rate in enumerate(rates):
        values = [model["gain"] for model in models if model["learning_rate"] == rate and model["gain"] is not None]
        if not values:
            gains.text(place, 0.3, "diverged", ha="center", color="firebrick")
            continue
        mean = float(np.mean(values))
        gains.bar(place, mean, width=0.62, color=colour[rate], alpha=0.85)
        gains.plot([place] * len(values), values, "o", ms=4.5, mfc="white", mec="#333333", mew=1)
        gains.text(place, max(0, *values) + 0.35, f"{mean:.1f}", ha="center", weight="bold")
    gains.axhline(results["ceiling"], color="#555555", lw=1, ls="--")
    gains.text(len(rates) - 0.5, results["ceiling"] + 0.25, "ideal mask", ha="right", color="#555555")
    gains.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    gains.set(xlabel="learning rate", ylabel="gain (dB)", ylim=(min(0, gains.get_ylim()[0]), results["ceiling"] * 1.12))
    gains.set_title("Gain on test clips (a dot for each seed)", loc="left", weight="bold")

    titles = {"mixture": "What is heard", "estimate": "What the best network keeps", "tones": "The notes as they were"}
    panels = bottom.subplots(1, 3, sharey=True)
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        with wave.open(str(folder / f"{name}.wav")) as file:
            signal = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32767
        level = 20 * np.log10(np.abs(sounds.spectrum(signal)).T + 1e-6)
        extent = (0, len(signal) / sounds.SAMPLE_RATE, 0, sounds.SAMPLE_RATE / 2000)
        image = axes.imshow(level, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=-45, vmax=25)
        axes.set_title(title, loc="left", weight="bold")
        axes.set_xlabel("time (s)")
    panels[0].set_ylabel("frequency (kHz)")
    bottom.colorbar(image, ax=panels, label="level (dB)", pad=0.01, shrink=0.95)
    partial = folder / ".report.partial.png"
    figure.savefig(partial, dpi=130)
    partial.replace(folder / "report.png")


if __name__ == "__main__":
    main()
