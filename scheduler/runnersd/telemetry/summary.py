"""What an attempt did over all of its time, kept up sample by sample. Pure: it may be left off and taken up again.

Between two samples a number is taken to have moved in a straight line, so a mean counts every second alike and energy
is power summed up by trapezoids. What happened in a gap, while nobody looked, is not guessed.
"""

from __future__ import annotations

from runners.api import CardSummaryView, MeasureView, SummaryView
from runnersd.model import GpuId
from runnersd.telemetry.sample import CardSample, Sample

#: A card that is busy for less than this part of the time (0 to 100) does nothing that anybody waits for.
IDLE_BELOW = 5.0
#: Seconds between two samples after which nobody knows what was between them, when none are told.
GAP = 5.0


class Measure:
    """One number over time: its mean while it was known, and the most it was."""

    __slots__ = ("area", "last", "peak", "seconds")

    def __init__(self, view: MeasureView | None = None) -> None:
        self.seconds = 0.0 if view is None else view["seconds"]  #: for which it was known
        self.area = 0.0 if view is None else (view["mean"] or 0.0) * view["seconds"]
        self.peak = None if view is None else view["peak"]
        self.last: float | None = None

    @property
    def mean(self) -> float | None:
        """Over the time in which it was known; None when there was none."""
        return self.area / self.seconds if self.seconds > 0 else None

    def at(self, value: float | None, span: float) -> None:
        """It is ``value`` now, ``span`` seconds after it was last asked for; 0 when what was between is not known."""
        if value is not None and self.last is not None:
            self._count((self.last + value) / 2, span)
        self._reach(value)

    def over(self, value: float | None, span: float) -> None:
        """It was ``value`` in the mean over the last ``span`` seconds."""
        if value is not None:
            self._count(value, span)
        self._reach(value)

    def view(self) -> MeasureView:
        """As JSON, from which it goes on exactly."""
        return {"mean": self.mean, "peak": self.peak, "seconds": self.seconds}

    def _count(self, value: float, span: float) -> None:
        self.area += value * span
        self.seconds += span

    def _reach(self, value: float | None) -> None:
        self.last = value
        if value is not None and (self.peak is None or value > self.peak):
            self.peak = value


class CardSummary:
    """One of the attempt's cards over time."""

    __slots__ = ("card", "idle", "memory", "power", "temperature", "utilization")

    def __init__(self, card: CardSample, view: CardSummaryView | None = None) -> None:
        self.card = card  #: as last seen
        self.utilization = Measure(view and view["utilization"])
        self.memory = Measure(view and view["memory"])
        self.power = Measure(view and view["power"])
        self.temperature = Measure(view and view["temperature"])
        self.idle = 0.0 if view is None else view["idle"]  #: seconds

    @property
    def energy(self) -> float | None:
        """Joules; None for a card that does not tell its power."""
        return None if self.power.peak is None else self.power.area

    def add(self, card: CardSample, span: float) -> None:
        """The card now, ``span`` seconds after the look before; 0 when what was between is not known."""
        before = self.utilization.last
        if before is not None and card.utilization is not None:
            self.idle += span * ((before < IDLE_BELOW) + (card.utilization < IDLE_BELOW)) / 2
        self.utilization.at(card.utilization, span)
        self.memory.at(card.memory_used, span)
        self.power.at(card.power, span)
        self.temperature.at(card.temperature, span)
        self.card = card

    def view(self) -> CardSummaryView:
        """As JSON, from which it goes on exactly."""
        return {
            "uuid": self.card.uuid,
            "index": self.card.index,
            "memory_total": self.card.memory_total,
            "utilization": self.utilization.view(),
            "memory": self.memory.view(),
            "power": self.power.view(),
            "temperature": self.temperature.view(),
            "idle": self.idle,
            "energy": self.energy,
        }


class Summary:
    """All of an attempt's samples so far. ``view`` is that of an earlier one, which goes on here after a gap."""

    def __init__(self, view: SummaryView | None = None) -> None:
        process = None if view is None else view["process"]
        self.seconds = 0.0 if view is None else view["seconds"]  #: between samples, gaps not counted
        self.samples = 0 if view is None else view["samples"]
        self.cards: dict[GpuId, CardSummary] = {}
        self.memory = Measure(process and process["memory"])
        self.cpu = Measure(process and process["cpu"])
        self._at: float | None = None
        for card in [] if view is None else view["gpus"]:
            seen = CardSample(card["uuid"], card["index"], memory_total=card["memory_total"])
            self.cards[seen.uuid] = CardSummary(seen, card)

    @property
    def energy(self) -> float | None:
        """Joules of all cards that tell their power; None where none does."""
        told = [energy for card in self.cards.values() if (energy := card.energy) is not None]
        return sum(told) if told else None

    def add(self, sample: Sample, gap: float = GAP) -> None:
        """One more sample. More than ``gap`` seconds after the last, or before it, it begins anew."""
        span = 0.0 if self._at is None else sample.at - self._at
        if not 0 < span <= gap:
            span = 0.0
        self._at = sample.at
        self.seconds += span
        self.samples += 1
        for card in sample.gpus:
            if card.uuid not in self.cards:
                self.cards[card.uuid] = CardSummary(card)
            self.cards[card.uuid].add(card, span)
        self.memory.at(sample.process.memory, span)
        self.cpu.over(sample.process.cpu, span)

    def to_json(self) -> SummaryView:
        """As `GET /v1/jobs/ID` shows it, without the verdict, and as the store keeps it."""
        return {
            "seconds": self.seconds,
            "samples": self.samples,
            "energy": self.energy,
            "gpus": [card.view() for card in sorted(self.cards.values(), key=lambda one: one.card.index)],
            "process": {"memory": self.memory.view(), "cpu": self.cpu.view()},
        }

    @classmethod
    def from_json(cls, view: SummaryView) -> Summary:
        """The summary that this was made of, to go on with: the time from its last sample to the next is a gap."""
        return cls(view)
