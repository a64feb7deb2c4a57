"""What an attempt did with its cards and its processes, on a job's page. Pure."""

from __future__ import annotations

from . import words
from .lines import Line, columns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from runners.api import CardSummaryView, MeasureView, SummaryView

_INDENT = "     "


def measured(summary: SummaryView) -> Iterator[Line]:
    """Means and peaks, a line a card and one for the processes, then what they mean."""
    cards = [_card(card) for card in summary["gpus"]]
    if any(any(row[1:]) for row in cards):
        yield from ([(_INDENT + text, "")] for text in columns(cards))
    own = list(filter(None, _processes(summary)))
    if own:
        yield [(_INDENT + "  ".join(own), "")]
    yield from ([(_INDENT + words.clean(sentence), "yellow")] for sentence in summary.get("verdict", ()))


def _card(card: CardSummaryView) -> tuple[str, ...]:
    """``card 2``, ``busy 36 % (peak 98)``, ``memory 6.1 GiB (peak 7.9 of 80)``, ``180 W (peak 310)``, ``61 °C ...``."""
    memory = card["memory"]
    held = ""
    if memory["peak"] is not None:
        whole = words.memory(round(memory["peak"]), card["memory_total"]).replace("/", " of ")
        mean = "" if memory["mean"] is None else f"{words.size(memory['mean'])} "
        held = f"memory {mean}(peak {whole})"
    busy = _both(card["utilization"], " %")
    return (
        f"card {card['index']}",
        busy and f"busy {busy}",
        held,
        _both(card["power"], " W"),
        _both(card["temperature"], " °C"),
    )


def _processes(summary: SummaryView) -> Iterator[str]:
    memory, cpu = summary["process"]["memory"], summary["process"]["cpu"]
    if memory["peak"] is not None:
        mean = "" if memory["mean"] is None else f"{words.size(memory['mean'])} "
        yield f"processes  memory {mean}(peak {words.size(memory['peak'])})"
    if cpu["mean"] is not None and cpu["peak"] is not None:
        yield f"{cpu['mean']:.1f} cpus (peak {cpu['peak']:.1f})"
    if summary["energy"] is not None:
        yield f"energy {_energy(summary['energy'])}"


def _both(measure: MeasureView, unit: str) -> str:
    """``180 W (peak 310)``; nothing for what was never known."""
    if measure["peak"] is None:
        return ""
    mean = "" if measure["mean"] is None else f"{measure['mean']:.0f}{unit} "
    return f"{mean}(peak {measure['peak']:.0f})"


def _energy(joules: float) -> str:
    """``84 Wh``, ``1.2 kWh``."""
    hours = joules / 3600
    return f"{hours:.0f} Wh" if 10 <= hours < 1000 else f"{hours:.1f} Wh" if hours < 10 else f"{hours / 1000:.1f} kWh"
