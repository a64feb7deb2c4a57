"""The words of a command line: what a command takes, declared once for parsing, `--help` and completion.

`argparse` would cost as much as the rest of `status` together, and knows no nearest word.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import NoReturn


class Option:
    """``--limit N``. Without a ``metavar`` it is a switch; ``kind`` says what its value is and how it completes.

    Kinds: ``text``, ``number`` (a whole one), ``ids`` (one or more jobs or pipelines), ``file``, ``gpu``, ``by``,
    ``socket``.
    """

    __slots__ = ("flags", "help", "kind", "metavar", "name")

    def __init__(self, flags: str, help: str, metavar: str = "", kind: str = "text") -> None:
        self.flags = tuple(flags.split())
        self.name = self.flags[-1].lstrip("-")
        self.help = help
        self.metavar = metavar
        self.kind = kind if metavar else "switch"


class Positional:
    """``FILE...``. ``count`` is ``one``, ``maybe``, ``some`` (at least one), ``any`` or ``rest`` (a whole command)."""

    __slots__ = ("count", "help", "kind", "name")

    def __init__(self, name: str, kind: str = "text", count: str = "one", help: str = "") -> None:
        self.name = name
        self.kind = kind
        self.count = count
        self.help = help

    @property
    def usage(self) -> str:
        """As `--help` shows it."""
        return {
            "one": self.name,
            "maybe": f"[{self.name}]",
            "some": f"{self.name}...",
            "any": f"[{self.name}...]",
            "rest": f"-- {self.name}...",
        }[self.count]


class Command:
    """A command: its words, its help, and the function of :mod:`runners.cli` that does it (``module:function``).

    ``to`` is what it does, to say that it cannot; its name where that is a verb.
    """

    __slots__ = ("description", "does", "examples", "group", "name", "options", "positionals", "summary", "to")

    def __init__(
        self,
        name: str,
        does: str,
        summary: str,
        *,
        group: str,
        positionals: Sequence[Positional] = (),
        options: Sequence[Option] = (),
        description: str = "",
        examples: Sequence[str] = (),
        to: str = "",
    ) -> None:
        self.name = name
        self.does = does
        self.summary = summary
        self.group = group
        self.positionals = tuple(positionals)
        self.options = tuple(options)
        self.description = description
        self.examples = tuple(examples)
        self.to = to or name

    @property
    def usage(self) -> str:
        """The command's words in one line."""
        shown = []
        for option in self.options:
            value = f" {option.metavar}" if option.metavar else ""
            shown.append(f"[{option.flags[0]}{value}{'...' if option.kind == 'ids' else ''}]")
        words = [positional.usage for positional in self.positionals]
        parts = [*shown, *words] if any(one.count == "rest" for one in self.positionals) else [*words, *shown]
        return " ".join(["runners-client", self.name, *parts])


#: Options of every command.
COMMON = (
    Option("--socket", "the daemon's socket (default: $RUNNERS_SOCKET, your own, the system's)", "PATH", "socket"),
    Option("-h --help", "this help"),
)


class Words:
    """What was given: switches, options' values and positional words, each by its name."""

    __slots__ = ("_given",)

    def __init__(self) -> None:
        self._given: dict[str, list[str]] = {}

    def add(self, name: str, value: str) -> None:
        """Note one value (or that a switch is on)."""
        self._given.setdefault(name, []).append(value)

    def has(self, name: str) -> bool:
        """Whether it was given at all."""
        return name in self._given

    def text(self, name: str) -> str | None:
        """The last value given."""
        values = self._given.get(name)
        return values[-1] if values else None

    def required(self, name: str) -> str:
        """The value of a positional that the parser has seen to."""
        return self._given[name][-1]

    def number(self, name: str) -> int | None:
        """The last value, a whole number as the parser has seen to."""
        value = self.text(name)
        return None if value is None else int(value)

    def all(self, name: str) -> list[str]:
        """Every value given, in order."""
        return self._given.get(name, [])


def parse(command: Command, arguments: Sequence[str]) -> Words:
    """Read ``arguments``. Raises :class:`runners.errors.InvalidRequest` with the nearest word for a misspelt option."""
    options = {flag: option for option in (*command.options, *COMMON) for flag in option.flags}
    rest = any(positional.count == "rest" for positional in command.positionals)
    words = Words()
    loose: list[str] = []
    queue = list(arguments)
    queue.reverse()
    while queue:
        word = queue.pop()
        if word == "--":
            loose += reversed(queue)
            break
        if len(word) < 2 or word[0] != "-" or (word[1:].isdigit() and word not in options):
            loose.append(word)
            if rest:
                loose += reversed(queue)
                break
            continue
        flag, equals, value = word.partition("=")
        option = options.get(flag)
        if option is None and word[1] != "-" and len(word) > 2 and (option := options.get(word[:2])):
            # `-fn5` is `-f -n5`, `-n5` is `-n 5`.
            flag, equals, value = word[:2], "", word[2:]
            if option.metavar:
                equals = "="
            else:
                queue.append("-" + value)
        if option is None:
            _unknown(command, flag, options)
        if not option.metavar:
            if equals:
                wrong(command, f"{flag} takes no value")
            words.add(option.name, "on")
            continue
        if not equals:
            if not queue or (queue[-1].startswith("-") and not queue[-1][1:2].isdigit() and option.kind != "text"):
                wrong(command, f"{flag} needs a value: {option.metavar}")
            value = queue.pop()
        for one in _values(command, option.kind, flag, value):
            words.add(option.name, one)
        while option.kind == "ids" and queue and is_id(queue[-1]):
            words.add(option.name, queue.pop())
    _place(command, words, loose)
    return words


def is_id(word: str) -> bool:
    """Whether it names a job (``12``) or a pipeline (``p3``)."""
    digits = word.removeprefix("p")
    return digits.isascii() and digits.isdigit() and 0 < len(digits) < 19


def nearest(word: str, known: Iterable[str]) -> str:
    """`` (did you mean X?)``, or nothing when no known word is near."""
    from difflib import get_close_matches

    found = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


def wrong(command: Command, message: str) -> NoReturn:
    """Refuse the command line."""
    from runners.errors import InvalidRequest

    raise InvalidRequest(f"cannot {command.to}: {message}; see `runners-client {command.name} --help`")


def _unknown(command: Command, flag: str, options: dict[str, Option]) -> NoReturn:
    wrong(command, f"there is no option {flag}{nearest(flag, options)}")


def _values(command: Command, kind: str, flag: str, value: str) -> list[str]:
    """The value as it is kept: checked, and lists of ids taken apart."""
    if kind == "number":
        digits = value.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 19):
            wrong(command, f"{flag} takes a whole number, not {value!r}")
    if kind in ("ids", "job", "jobs"):
        ids = value.split(",") if kind == "ids" else [value]
        for id in ids:
            if not is_id(id) or (kind == "job" and id.startswith("p")):
                allowed = "a job's number (12)" if kind == "job" else "a job's number (12) or a pipeline's id (p3)"
                wrong(command, f"{value!r} is not {allowed}")
        return ids
    return [value]


def _place(command: Command, words: Words, loose: list[str]) -> None:
    """Give the loose words to the positionals, in their order."""
    if words.has("help"):
        return
    for positional in command.positionals:
        if positional.count in ("one", "maybe"):
            taken, loose = loose[:1], loose[1:]
        else:
            taken, loose = loose, []
        if not taken and positional.count not in ("any", "maybe"):
            wrong(command, f"{positional.name} is missing")
        for word in taken:
            for value in _values(command, positional.kind, positional.name, word):
                words.add(positional.name, value)
    if loose:
        wrong(command, f"{loose[0]!r} is one word too many")
