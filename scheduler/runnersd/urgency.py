"""When a waiting job's turn comes. Everything here is a time (Unix seconds) or a number of seconds.

Among jobs of one user the one that is *due* first goes first. A job is due some time after its submission, and the
more work it is, the later: so short jobs pass long ones, but none that come long after, and nothing waits for ever.

A job for several cards cannot rely on that: they are seldom free at once. So it is *promised* a start, and cards are
kept for it in time (`runnersd.planner.promises`). The promise too is the later the more work the job is, for while it
has the cards all others wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median_low

from runnersd.lines import Shape
from runnersd.model import Inventory
from runnersd.past.estimates import Estimate

#: Seconds after submission at which a job is due, for each card-second that it is expected to take; and that where its
#: limit tells how long it runs.
STRETCH, STRETCH_KNOWN = 3.0, 16.0
#: A limit tells how long a job runs if jobs like it are expected to take at least so large a part of it.
_TELLS = 0.5
#: A promise is so large a part of the longest delay after submission, and so many times the time that the whole machine
#: would need for the job.
PATIENCE, PROMISE = 0.75, 1.35
#: A delay that is configured to be shorter counts as so long (seconds).
SHORTEST_DELAY = 60.0
#: Jobs that need no card count as so large a part of one.
_WITHOUT_CARDS = 0.1


@dataclass(frozen=True, slots=True)
class Measures:
    """What urgency is measured by: the machine's cards, a card's memory in bytes, and seconds."""

    cards: int = 8
    card_memory: int = 80 << 30
    half_life: float = 7 * 86_400.0  #: after which what somebody has used counts half
    max_delay: float = 12 * 3600.0  #: what promises are measured by; so long runs what is not known


def measures_of(inventory: Inventory, before: Measures, *, max_delay: float, half_life: float) -> Measures:
    """What a machine with these cards is measured by, with those durations (seconds).

    A driver that does not answer says nothing of the cards: they are counted as ``before``. What is thought of jobs
    without limit and history rests on the longest delay, so that is a minute at least.
    """
    cards, memory = before.cards, before.card_memory
    there = [gpu for gpu in inventory.gpus if not gpu.lost]
    if there and not inventory.stale:
        known = [gpu.memory_total for gpu in there if gpu.memory_total]
        cards, memory = len(there), median_low(known) if known else memory
    return Measures(cards, memory, half_life, max(max_delay, SHORTEST_DELAY))


def cards_of(shape: Shape, measures: Measures) -> float:
    """How many cards the job takes, as a number: a shared one takes its share of a card."""
    if not shape.num_gpus:
        return _WITHOUT_CARDS
    if shape.gpu_shared and shape.gpu_memory is not None:
        return shape.num_gpus * min(shape.gpu_memory / measures.card_memory, 1.0)
    return float(shape.num_gpus)


def work_of(shape: Shape, estimate: Estimate, measures: Measures) -> float:
    """The card-seconds that the job is expected to take."""
    return estimate.expected(measures.max_delay) * cards_of(shape, measures)


def due(submitted: float, shape: Shape, estimate: Estimate, measures: Measures) -> float:
    """When the job is due.

    Where a limit tells how long it runs, that counts for more than who came first. A guess counts for less: it may be
    wrong, and then the job would have waited for many that are no shorter, or have passed them.
    """
    limit = estimate.limit
    known = limit is not None and estimate.expected(limit) >= _TELLS * limit
    return submitted + (STRETCH_KNOWN if known else STRETCH) * work_of(shape, estimate, measures)


def promised(submitted: float, shape: Shape, estimate: Estimate, measures: Measures) -> float:
    """When a job for several cards is promised to start.

    One of which nothing is known gets no credit for its length: its cards are kept soon.
    """
    length = estimate.expected(0.0)
    return (
        submitted
        + PATIENCE * measures.max_delay
        + PROMISE * length * min(cards_of(shape, measures) / measures.cards, 1.0)
    )
