"""The sounds of the demo: mixtures made up from a seed, their spectra, and how well they were taken apart.

A mixture is a few plucked notes over percussive bursts of noise. The notes are what the demo wants back.
Signals are float64 between about -1 and 1; spectra have one row a frame and one column a frequency bin.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Spectrum = NDArray[np.complex128]

SAMPLE_RATE = 8000  #: in hertz
WINDOW = 256  #: samples a frame (32 ms)
HOP = 128  #: samples from one frame to the next
BINS = WINDOW // 2 + 1
CONTEXT = 2  #: frames on either side that the network sees beside the one it masks
FORMAT = 1  #: raise it when the sounds or the features change: caches made before are then made again

#: Root of Hann, applied before and after: overlapping frames then add up to the signal again.
_WINDOW = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW))
_PENTATONIC = (0, 2, 4, 7, 9)  # semitones


class Clip(NamedTuple):
    """One example: what is heard, and the two sources it is the sum of."""

    mixture: Array
    tones: Array
    noise: Array


def synthesise(rng: np.random.Generator, seconds: float) -> Clip:
    """A clip of plucked notes and noise bursts, mixed at -3 to 3 dB."""
    length = round(seconds * SAMPLE_RATE)
    tones, noise = np.zeros(length), np.zeros(length)
    for _ in range(max(2, round(3 * seconds))):
        _add(tones, _note(rng), int(rng.integers(-SAMPLE_RATE // 8, length * 9 // 10)))
    for _ in range(max(3, round(5 * seconds))):
        _add(noise, _burst(rng), int(rng.integers(-SAMPLE_RATE // 16, length * 9 // 10)))
    noise += 0.01 * rng.standard_normal(length)
    tones /= np.sqrt(np.mean(tones**2)) + 1e-9
    noise /= np.sqrt(np.mean(noise**2)) + 1e-9
    noise *= 10 ** (rng.uniform(-3, 3) / 20)
    scale = 0.9 / np.abs(tones + noise).max()
    return Clip((tones + noise) * scale, tones * scale, noise * scale)


def _note(rng: np.random.Generator) -> Array:
    """A plucked string: harmonics that fade, the high ones sooner, with a little vibrato."""
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    semitone = 12 * rng.integers(0, 3) + rng.choice(_PENTATONIC)
    pitch = 130.8 * 2 ** (semitone / 12)
    phase = 2 * np.pi * pitch * time + 0.2 * np.sin(2 * np.pi * rng.uniform(4, 6) * time)
    decay = rng.uniform(2, 5)
    note = np.zeros_like(time)
    for harmonic in range(1, 9):
        if harmonic * pitch < 0.45 * SAMPLE_RATE:
            note += np.sin(harmonic * phase) * np.exp(-decay * np.sqrt(harmonic) * time) / harmonic
    note[:40] *= np.linspace(0, 1, 40)
    return note * rng.uniform(0.5, 1)


def _burst(rng: np.random.Generator) -> Array:
    """A drum: a band of noise that fades within a few hundredths of a second."""
    length = SAMPLE_RATE // 2
    frequency = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    centre, width = rng.uniform(200, 3500), rng.uniform(300, 1500)
    band = np.exp(-(((frequency - centre) / width) ** 2))
    burst = np.fft.irfft(np.fft.rfft(rng.standard_normal(length)) * band, length)
    burst *= np.exp(-np.arange(length) / SAMPLE_RATE * rng.uniform(15, 50))
    return np.asarray(burst / (np.abs(burst).max() + 1e-9) * rng.uniform(0.4, 1))


def _add(signal: Array, sound: Array, start: int) -> None:
    """Lay ``sound`` over ``signal`` from sample ``start``, cutting off what does not fit."""
    first, last = max(start, 0), min(start + len(sound), len(signal))
    signal[first:last] += sound[first - start : last - start]


def spectrum(signal: Array) -> Spectrum:
    """The short-time Fourier transform."""
    frames = -(-len(signal) // HOP) + 1
    padded = np.zeros((frames - 1) * HOP + WINDOW)
    padded[HOP : HOP + len(signal)] = signal
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    return np.asarray(np.fft.rfft(windows * _WINDOW, axis=1))


def signal_of(spectrum: Spectrum, length: int) -> Array:
    """The signal of ``length`` samples that has this short-time spectrum: the inverse of :func:`spectrum`."""
    frames = np.fft.irfft(spectrum, WINDOW, axis=1) * _WINDOW
    padded = np.zeros((len(frames) - 1) * HOP + WINDOW)
    for position, frame in enumerate(frames):
        padded[position * HOP : position * HOP + WINDOW] += frame
    return padded[HOP : HOP + length]


def loudness(spectrum: Spectrum) -> Array:
    """Magnitudes compressed as hearing does, so that quiet bins count too; about 0 to 2."""
    return np.asarray(np.abs(spectrum) ** 0.3)


def ideal_mask(clip: Clip) -> Array:
    """The share of each bin that belongs to the tones, 0 to 1: the best answer a mask can give."""
    tones, noise = np.abs(spectrum(clip.tones)), np.abs(spectrum(clip.noise))
    return np.asarray(tones / (tones + noise + 1e-9))


def with_context(loud: Array) -> Array:
    """Each frame beside its :data:`CONTEXT` neighbours on either side; silence before the first and after the last."""
    padded = np.pad(loud, ((CONTEXT, CONTEXT), (0, 0)))
    return np.concatenate([padded[shift : shift + len(loud)] for shift in range(2 * CONTEXT + 1)], axis=1)


def fidelity(estimate: Array, truth: Array) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al., "SDR - half-baked or well done?", 2019)."""
    projection = np.dot(estimate, truth) / (np.dot(truth, truth) + 1e-12) * truth
    residue = estimate - projection
    return float(10 * np.log10((np.dot(projection, projection) + 1e-12) / (np.dot(residue, residue) + 1e-12)))
