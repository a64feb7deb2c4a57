"""Colours that everybody can tell apart, also who sees few colours: Okabe and Ito's, from the clearest on."""

from __future__ import annotations

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F6A00", "#000000")
#: Those on which dark letters are read better than white ones.
LIGHT = ("#CC79A7", "#E69F00", "#56B4E9", "#009E73")
#: Patterns that tell those apart who have the same colour.
HATCHES = ("", "////", "....", "xxxx")
#: Everybody beyond those.
OTHERS = "#BBBBBB"
#: So many can be told apart.
DISTINCT = len(COLOURS) * len(HATCHES)


def style(position: int) -> tuple[str, str]:
    """The colour and the pattern of the one at that place, counted from 0."""
    if position >= DISTINCT:
        return OTHERS, ""
    return COLOURS[position % len(COLOURS)], HATCHES[position // len(COLOURS)]
