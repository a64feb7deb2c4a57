"""Lines that fit: text in colours, measured as a terminal would, cut in the middle or at its end. Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: A stretch of text and the name of its style.
Span = tuple[str, str]
#: Stretches side by side.
Line = list[Span]

#: Columns that there are for what follows on a line, however narrow the terminal.
REST = 20

#: The terminal's own sixteen colours, so that every theme stays readable.
STYLES = {
    "": "",
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
    "bold red": "1;31",
    "bold green": "1;32",
    "bold yellow": "1;33",
    "bold cyan": "1;36",
}


def width(text: str) -> int:
    """Columns that ``text`` takes: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def middle(text: str, most: int) -> str:
    """``text`` in at most ``most`` columns, its middle left out: both ends of a matrix job's name tell it apart."""
    if width(text) <= most:
        return text
    if most < 2:
        return "…"[:most]
    left = _head(text, (most - 1 + 1) // 2)
    right = _head(text[::-1], most - 1 - width(left))[::-1]
    return f"{left}…{right}"


def end(text: str, most: int) -> str:
    """``text`` in at most ``most`` columns, its end left out: what begins a sentence matters most."""
    if width(text) <= most:
        return text
    return _head(text, most - 1).rstrip() + "…" if most > 0 else ""


def wrap(text: str, most: int) -> list[str]:
    """``text`` in lines of at most ``most`` columns, broken at spaces; a word that is longer than a line is cut."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if width(longer) <= most:
            line = longer
            continue
        if line:
            lines.append(line)
        line = middle(word, most)
    return [*lines, line] if line else lines


def with_rest(line: Line, text: str, style: str, most: int) -> list[Line]:
    """The line with a text after it, which goes on below where it begins when there is no room."""
    begin = length(line)
    parts = wrap(text, max(most - begin, REST))
    lines: list[Line] = [[*line, (parts[0], style)] if parts else line]
    return lines + [[(" " * begin, ""), (part, style)] for part in parts[1:]]


def fold(line: Line, most: int) -> list[Line]:
    """The line with all of its text, in lines of at most ``most`` columns: its last stretch goes on below where it
    begins, broken at spaces, or anywhere in a word that is longer than a line."""
    if length(line) <= most or not line:
        return [line]
    *before, (text, style) = line
    words = text.lstrip(" ")
    begin = length(before) + len(text) - len(words)
    if most - begin < REST and before:
        return [*fold(before, most), *fold([("  " + words, style)], most)]
    parts = _pieces(words, max(most - begin, 1))
    lines: list[Line] = [[*before, (text[: len(text) - len(words)] + parts[0], style)]]
    return lines + [[(" " * begin, ""), (part, style)] for part in parts[1:]]


def _pieces(text: str, most: int) -> list[str]:
    parts = []
    while len(head := _head(text, most)) < len(text):
        head = head or text[0]  # wider than the line
        if head == text:
            break
        space = len(head) if text[len(head)] == " " else head.rfind(" ")
        cut = space if space > 0 else len(head)
        parts.append(text[:cut].rstrip(" "))
        text = text[cut:].lstrip(" ")
    return [*parts, text] if text or not parts else parts


def length(line: Line) -> int:
    """Columns that a line takes."""
    return sum(width(text) for text, _style in line)


def _head(text: str, most: int) -> str:
    if text.isascii():
        return text[: max(0, most)]
    taken, total = [], 0
    for character in text:
        total += width(character)
        if total > most:
            break
        taken.append(character)
    return "".join(taken)


def left(text: str, columns: int) -> str:
    """``text`` filled up on its right."""
    return text + " " * (columns - width(text))


def right(text: str, columns: int) -> str:
    """``text`` filled up on its left."""
    return " " * (columns - width(text)) + text


def paint(line: Sequence[Span], most: int, colour: bool) -> str:
    """The line as the terminal takes it, at most ``most`` columns wide."""
    out, room = [], most
    for text, style in line:
        columns = width(text)
        if columns > room:
            text, columns = end(text, room), room
        code = STYLES[style]
        out.append(f"\x1b[{code}m{text}\x1b[0m" if colour and code and text else text)
        room -= columns
        if room <= 0:
            break
    return "".join(out).rstrip() if not colour else "".join(out)


def columns(rows: Iterable[Sequence[str]], rightmost: Iterable[int] = ()) -> list[str]:
    """Rows of plain text in aligned columns, two spaces apart; the columns numbered in ``rightmost`` are set right."""
    table = [list(row) for row in rows]
    widths = [max(map(width, column)) for column in zip(*table, strict=True)]
    to_right = set(rightmost)
    return [
        "  ".join(
            right(cell, most) if position in to_right else left(cell, most)
            for position, (cell, most) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
