"""What a summary means, in sentences for whoever reads what their job did: only what they could act on. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from runners.api import CardSummaryView, SummaryView
from runners.pipeline.quantities import format_size

#: Seconds of looks below which nothing is said: a job that loads its data tells little about itself.
ENOUGH = 60.0
#: Said of a card from this part of its time on that it was idle (percent).
_IDLE = 20.0
#: Parts of what there is, or was asked for, below which its use is told.
_LITTLE = 0.5
#: From this part of the CPUs on all of them are used.
_ALL = 0.9
#: Idle cards that are so close to each other (percentage points) share a sentence.
_ALIKE = 10.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the job asked for: CPUs (0 when it did not say), memory in bytes; ``shared``: others may be on its cards."""

    cpus: float = 0.0
    memory: int | None = None
    shared: bool = False


def verdict(summary: SummaryView, wanted: Wanted = Wanted()) -> list[str]:
    """``card 2 idle 64 % of the time``; ``card 2: peak 7.9 GiB of 80``; nothing for an attempt that was too short."""
    if summary["seconds"] < ENOUGH:
        return []
    return [*_idleness(summary), *_card_memory(summary, wanted), *_cpus(summary, wanted), *_memory(summary, wanted)]


def idle_part(card: CardSummaryView) -> float | None:
    """For which part of the time that it was seen a card was idle (0 to 100); None when that is not known."""
    seen = card["utilization"]["seconds"]
    return 100 * card["idle"] / seen if seen > 0 else None


def _idleness(summary: SummaryView) -> Iterator[str]:
    found = [(card["index"], part) for card in summary["gpus"] if (part := idle_part(card)) and part >= _IDLE]
    yield from _sentences(found, _ALIKE, lambda cards, low, high: f"{cards} idle {_range(low, high)} % of the time")


def _card_memory(summary: SummaryView, wanted: Wanted) -> Iterator[str]:
    """A card that others share is not told: their memory is in it, and whoever shares knows how much they need."""
    if wanted.shared:
        return
    for total in sorted({card["memory_total"] for card in summary["gpus"] if card["memory_total"]}):
        peaks = [
            (card["index"], 100 * peak / total)
            for card in summary["gpus"]
            if card["memory_total"] == total and (peak := card["memory"]["peak"]) is not None and peak < _LITTLE * total
        ]
        yield from _sentences(
            peaks,
            _ALIKE,
            lambda cards, low, high, total=total: _peak(cards, high * total / 100, total),  # type: ignore[misc]
        )


def _cpus(summary: SummaryView, wanted: Wanted) -> Iterator[str]:
    mean = summary["process"]["cpu"]["mean"]
    if mean is None or wanted.cpus <= 0:
        return
    waits = any((idle_part(card) or 0) >= _IDLE for card in summary["gpus"])
    if waits and mean >= _ALL * wanted.cpus:
        yield f"used all of its {_cores(wanted.cpus)} while its cards waited: more may keep them busy"
    elif wanted.cpus >= 2 and mean < _LITTLE * wanted.cpus:
        yield f"used {mean:.1f} of {_cores(wanted.cpus)}"


def _memory(summary: SummaryView, wanted: Wanted) -> Iterator[str]:
    peak = summary["process"]["memory"]["peak"]
    if peak is not None and wanted.memory and peak < _LITTLE * wanted.memory:
        yield f"memory: peak {_of(peak, wanted.memory)} asked for"


def _sentences(
    found: Sequence[tuple[int, float]], alike: float, say: Callable[[str, float, float], str]
) -> Iterator[str]:
    """One sentence for all cards whose numbers are ``alike``, else one for each."""
    if not found:
        return
    numbers = [number for _, number in found]
    if max(numbers) - min(numbers) <= alike:
        yield say(_cards([index for index, _ in found]), min(numbers), max(numbers))
        return
    for index, number in found:
        yield say(_cards([index]), number, number)


def _peak(cards: str, most: float, total: int) -> str:
    return f"{cards}: peak {_of(most, total)}" + (" each" if cards.startswith("cards") else "")


def _cards(indices: Sequence[int]) -> str:
    """``card 2``, ``cards 0,1``, ``cards 0-3,6``."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    text = ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)
    return f"card {text}" if len(indices) == 1 else f"cards {text}"


def _range(low: float, high: float) -> str:
    return f"{high:.0f}" if round(low) == round(high) else f"{low:.0f} to {high:.0f}"


def _cores(cpus: float) -> str:
    return "1 cpu" if cpus == 1 else f"{cpus:g} cpus"


def _of(part: float, whole: float) -> str:
    """``7.9 GiB of 80``, or ``900 MiB of 80 GiB`` where the units differ."""
    amount, unit = _split(part)
    all_of_it, its_unit = _split(whole)
    return f"{amount} {unit} of {all_of_it}" + ("" if unit == its_unit else f" {its_unit}")


def _split(size: float) -> tuple[str, str]:
    text = format_size(round(size))
    amount = text.rstrip("BKMGTPi")
    return amount, text[len(amount) :]
