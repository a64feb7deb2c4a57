"""matplotlib, loaded when a file is to be drawn: without a display, in one look and its colours, into small files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from runners.errors import InvalidRequest, RunnersError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Kinds of file that can be drawn.
KINDS = ("png", "svg", "pdf")
#: Dots an inch of a PNG.
DOTS = 110
#: The look of everything.
_LOOK: Any = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.parse_math": False,  # a dollar sign in a name begins no formula
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "axes.edgecolor": "#666666",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "hatch.linewidth": 0.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "runners",
    "legend.frameon": False,
}
#: Colours that everybody can tell apart, also who sees few colours: Okabe and Ito's, from the clearest on.
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


def kind_of(path: Path) -> str:
    """What kind of file it is to be, by its ending.

    Raises:
        InvalidRequest: none that can be drawn.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in KINDS:
        endings = ", ".join(f".{one}" for one in KINDS)
        raise InvalidRequest(f"cannot draw {path}: the file's name must end in one of {endings}")
    return kind


def load() -> None:
    """See that matplotlib is there, and draws without a display.

    Raises:
        RunnersError: it is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise RunnersError(
            "cannot draw a picture: matplotlib is not installed; `pip install runnersd[plot]` installs it, "
            "and `--terminal` needs none"
        ) from error
    matplotlib.rcParams.update(_LOOK)


def figure(width: float, height: float) -> Figure:
    """An empty picture, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DOTS, layout="constrained")


def save(picture: Figure, path: Path) -> None:
    """Write it, whole or not at all."""
    import warnings

    kind = kind_of(path)
    scratch = path.with_name(f".{path.name}.new")
    # What is not said of when and by what it was made makes the same picture the same file.
    metadata = {{"png": "Software", "svg": "Date", "pdf": "CreationDate"}[kind]: None}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # it draws a box for it, as terminals do
            if kind == "png":
                _save_small(picture, scratch)
            else:
                picture.savefig(scratch, format=kind, metadata=metadata)
        scratch.replace(path)
    except OSError as error:
        raise RunnersError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        scratch.unlink(missing_ok=True)


def _save_small(picture: Figure, path: Path) -> None:
    """A PNG of 128 colours, which is a third as large and looks the same."""
    from io import BytesIO

    from PIL import Image

    drawn = BytesIO()
    picture.savefig(drawn, format="png")
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, "PNG", optimize=True)


def bare(axes: Axes) -> None:
    """Without a frame and a grid."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.grid(False)
    axes.tick_params(left=False, bottom=False)
