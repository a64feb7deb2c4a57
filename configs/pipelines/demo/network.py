"""A small network that says, for every frequency of a frame, how much of it belongs to the tones.

One hidden layer of rectified units and a sigmoid for each frequency bin, trained by plain gradient descent with
momentum. Written out in NumPy: what it does is all here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

MOMENTUM = 0.9


class MaskNetwork:
    """Weights of the two layers, with their momentum while training."""

    def __init__(self, weights: dict[str, Array]) -> None:
        """Take the weights `w1`, `b1`, `w2`, `b2` as they are; training starts from rest."""
        self.weights = weights
        self._velocity = {name: np.zeros_like(value) for name, value in weights.items()}

    @classmethod
    def random(cls, rng: np.random.Generator, inputs: int, hidden: int, outputs: int) -> MaskNetwork:
        """An untrained network (He's initialisation: the signal keeps its size through the layers)."""
        return cls(
            {
                "w1": (rng.standard_normal((inputs, hidden)) * np.sqrt(2 / inputs)).astype(np.float32),
                "b1": np.zeros(hidden, np.float32),
                "w2": (rng.standard_normal((hidden, outputs)) * np.sqrt(1 / hidden)).astype(np.float32),
                "b2": np.zeros(outputs, np.float32),
            }
        )

    @classmethod
    def load(cls, path: Path) -> MaskNetwork:
        """The network that :meth:`save` wrote."""
        with np.load(path) as file:
            return cls({name: file[name] for name in file.files})

    def save(self, path: Path) -> None:
        """Write the weights to ``path``, whole or not at all."""
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **self.weights)  # type: ignore[arg-type]
        partial.replace(path)

    def mask(self, inputs: Array) -> Array:
        """The share of the tones in every bin, 0 to 1."""
        return _sigmoid(self._logits(self._hidden(inputs)))

    def loss(self, inputs: Array, target: Array, weight: Array) -> float:
        """How far the masks are from ``target``: weighted Kullback-Leibler divergence in nats a bin; 0 is perfect."""
        return _divergence(self._logits(self._hidden(inputs)), target, weight)

    def step(self, inputs: Array, target: Array, weight: Array, learning_rate: float) -> float:
        """One step down the gradient of :meth:`loss` on a batch; returns the loss before it."""
        hidden = self._hidden(inputs)
        logits = self._logits(hidden)
        slope = (_sigmoid(logits) - target) * weight / np.float32(len(inputs))
        back = (slope @ self.weights["w2"].T) * (hidden > 0)
        gradients = {"w1": inputs.T @ back, "b1": back.sum(0), "w2": hidden.T @ slope, "b2": slope.sum(0)}
        for name, gradient in gradients.items():
            self._velocity[name] = MOMENTUM * self._velocity[name] - learning_rate * gradient
            self.weights[name] = self.weights[name] + self._velocity[name]
        return _divergence(logits, target, weight)

    def _hidden(self, inputs: Array) -> Array:
        return np.asarray(np.maximum(inputs @ self.weights["w1"] + self.weights["b1"], np.float32(0)))

    def _logits(self, hidden: Array) -> Array:
        return np.asarray(hidden @ self.weights["w2"] + self.weights["b2"])


def _sigmoid(logits: Array) -> Array:
    # By tanh, which does not overflow.
    return np.asarray(np.float32(0.5) + np.float32(0.5) * np.tanh(np.float32(0.5) * logits))


def _divergence(logits: Array, target: Array, weight: Array) -> float:
    """Cross entropy less the targets' own entropy, which no mask can get below."""
    cross = np.logaddexp(np.float32(0), logits) - target * logits
    inside = np.clip(target, 1e-6, 1 - 1e-6)
    entropy = -(inside * np.log(inside) + (1 - inside) * np.log(1 - inside))
    return float(np.mean(weight * (cross - entropy), dtype=np.float64))
