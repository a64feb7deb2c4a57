"""Card-seconds of every user, old ones counting less and less: who has had little comes first."""

from __future__ import annotations

import math
from typing import NamedTuple


class Charge(NamedTuple):
    """What a user's use amounts to at a time (Unix seconds)."""

    card_seconds: float
    at: float


class Usage:
    """What everybody has used, by uid. A card-second counts half after each half-life (seconds)."""

    def __init__(self) -> None:
        self.charges: dict[int, Charge] = {}

    def of(self, uid: int, now: float, half_life: float) -> float:
        """The card-seconds that count now."""
        charge = self.charges.get(uid)
        return 0.0 if charge is None else decayed(charge.card_seconds, now - charge.at, half_life)

    def charge(self, uid: int, cards: float, start: float, end: float, half_life: float) -> Charge:
        """So many cards were had from ``start`` to ``end`` (Unix seconds)."""
        before = self.charges.get(uid, Charge(0.0, end))
        at = max(before.at, end)
        total = decayed(before.card_seconds, at - before.at, half_life)
        total += decayed(used(cards, max(end - start, 0.0), half_life), at - end, half_life)
        made = self.charges[uid] = Charge(total, at)
        return made


def decayed(card_seconds: float, seconds: float, half_life: float) -> float:
    """What is left of a charge after so many seconds. A clock that went back takes nothing away."""
    return card_seconds * math.pow(0.5, max(seconds, 0.0) / half_life)


def used(cards: float, seconds: float, half_life: float) -> float:
    """What having so many cards for the last so many seconds amounts to now."""
    return cards * half_life / math.log(2) * (1 - math.pow(0.5, seconds / half_life))
