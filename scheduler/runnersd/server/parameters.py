"""What a query or a small JSON body may say: each value's kind, how it is read, and how the API's document shows it."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from runners.api import JobState
from runners.errors import InvalidRequest, NotFound
from runners.pipeline import fields
from runners.pipeline.checking import Check
from runners.pipeline.quantities import parse_duration

#: SQLite's integers are signed 64 bits; no id has more digits than these.
_DIGITS = 18
#: Times are before this (Unix seconds); the year 5138.
_LAST_MOMENT = 1e11
#: The longest text in a list of some.
_LONGEST_WORD = 100
#: Reads a value, from a query's text or from JSON; raises ValueError with what is allowed.
Reader = Callable[[Any], Any]


class Target(NamedTuple):
    """What an ID names: one job (`7`), or a pipeline's jobs (`p7`)."""

    kind: Literal["job", "pipeline"]
    number: int

    def __str__(self) -> str:
        return f"p{self.number}" if self.kind == "pipeline" else str(self.number)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One value that a request may carry. ``default`` is what it is when the request does not say."""

    name: str
    read: Reader
    schema: Mapping[str, Any]
    about: str
    default: Any = None


@dataclass(frozen=True, slots=True)
class Parameters:
    """The values that one request may carry, in its query or its body, and no others."""

    known: Mapping[str, Parameter] = field(default_factory=dict)

    @classmethod
    def of(cls, *parameters: Parameter) -> Parameters:
        """These parameters, by name."""
        return cls({one.name: one for one in parameters})

    def read(self, given: Sequence[tuple[str, Any]] | Mapping[str, Any], what: str) -> dict[str, Any]:
        """Every known value, given or default. ``what`` says where they came from, for messages.

        Raises:
            InvalidRequest: one is unknown, given twice, or not of its kind.
        """
        values = {name: one.default for name, one in self.known.items()}
        seen = set()
        for name, value in given.items() if isinstance(given, Mapping) else given:
            if name not in self.known:
                allowed = f"allowed: {', '.join(self.known)}" if self.known else "none is allowed here"
                raise InvalidRequest(f"cannot read the {what}: unknown {_printable(name)}; {allowed}")
            if name in seen:
                raise InvalidRequest(f"cannot read the {what}: {name} is given twice")
            seen.add(name)
            try:
                values[name] = self.known[name].read(value)
            except ValueError as error:
                raise InvalidRequest(f"cannot read the {what}: {name}: {error}") from error
        return values


# -- kinds -------------------------------------------------------------------------------------------------------------


def flag(name: str, about: str) -> Parameter:
    """True or false; `1`, `0` and the bare name in a query."""

    def read(value: Any) -> bool:
        if isinstance(value, bool):
            return value
        if value in ("", "1", "true", "yes"):
            return True
        if value in ("0", "false", "no"):
            return False
        raise ValueError("must be true or false")

    return Parameter(name, read, {"type": "boolean"}, about, False)


def whole(name: str, about: str, low: int, high: int, default: int | None = None) -> Parameter:
    """A whole number from ``low`` to ``high``."""

    def read(value: Any) -> int:
        number = _digits(value) if isinstance(value, str) else value
        if isinstance(number, int) and not isinstance(number, bool) and low <= number <= high:
            return number
        raise ValueError(f"must be a whole number from {low} to {high}")

    return Parameter(name, read, {"type": "integer", "minimum": low, "maximum": high}, about, default)


def text(name: str, about: str, longest: int = 1000, default: str | None = None) -> Parameter:
    """A line of text."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or len(value) > longest or not is_line(value):
            raise ValueError(f"must be a line of text of at most {longest} characters")
        return value

    return Parameter(name, read, {"type": "string", "maxLength": longest}, about, default)


def capability(name: str, about: str) -> Parameter:
    """A CUDA compute capability, as a pipeline file has it. None when it is not given."""

    def read(value: Any) -> str:
        found = fields.capability(value, Check(0.0), ())
        if isinstance(found, str):
            return found
        raise ValueError("must be a CUDA compute capability such as 8.0 or 9.0")

    return Parameter(name, read, {"type": ["string", "number"]}, about)


def choice(name: str, about: str, *options: str) -> Parameter:
    """One of a few words, the first by default."""

    def read(value: Any) -> str:
        if isinstance(value, str) and value in options:
            return value
        raise ValueError(f"must be {' or '.join(options)}")

    return Parameter(name, read, {"type": "string", "enum": list(options)}, about, options[0])


def states(name: str, about: str) -> Parameter:
    """States, separated by commas."""

    def read(value: Any) -> tuple[JobState, ...]:
        words = value.split(",") if isinstance(value, str) else []
        if words and set(words) <= {state.value for state in JobState}:
            return tuple(JobState(word) for word in words)
        raise ValueError(f"must be of {', '.join(state.value for state in JobState)}")

    return Parameter(name, read, {"type": "string"}, about)


def targets(name: str, about: str) -> Parameter:
    """IDs of jobs and pipelines, separated by commas."""

    def read(value: Any) -> tuple[Target, ...]:
        found = tuple(_target(word) for word in value.split(",")) if isinstance(value, str) else ()
        if not found or None in found:
            raise ValueError("must be IDs such as 7 or p3, separated by commas")
        return tuple(one for one in found if one is not None)

    return Parameter(name, read, {"type": "string"}, about)


def one_target(name: str, about: str) -> Parameter:
    """The ID of a job or a pipeline."""

    def read(value: Any) -> Target:
        found = _target(value) if isinstance(value, str) else None
        if found is None:
            raise ValueError("must be an ID such as 7 or p3")
        return found

    return Parameter(name, read, {"type": "string", "pattern": "^p?[0-9]+$"}, about)


def pipeline(name: str, about: str) -> Parameter:
    """A pipeline's id."""

    def read(value: Any) -> int:
        found = _target(value) if isinstance(value, str) else None
        if found is None or found.kind != "pipeline":
            raise ValueError("must be a pipeline's id such as p3")
        return found.number

    return Parameter(name, read, {"type": "string", "pattern": "^p[0-9]+$"}, about)


def signal_number(name: str, about: str) -> Parameter:
    """A signal, by number or name."""

    def read(value: Any) -> int:
        if isinstance(value, str):
            word = value.upper() if value.upper().startswith("SIG") else f"SIG{value.upper()}"
            value = signal.Signals[word].value if word in signal.Signals.__members__ else None
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value < signal.NSIG:
            return value
        raise ValueError("must be a signal such as 2 or SIGINT")

    schema = {"anyOf": [{"type": "integer", "minimum": 1, "maximum": signal.NSIG - 1}, {"type": "string"}]}
    return Parameter(name, read, schema, about)


def duration(name: str, about: str) -> Parameter:
    """Seconds, or a duration as in a pipeline file. None when it is not given."""

    def read(value: Any) -> float:
        return parse_duration(value)

    return Parameter(name, read, {"type": ["number", "string"]}, about)


def moment(name: str, about: str) -> Parameter:
    """Unix seconds. None when it is not given."""

    def read(value: Any) -> float:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _LAST_MOMENT:
            return float(value)
        raise ValueError("must be a time in Unix seconds")

    return Parameter(name, read, {"type": "number", "minimum": 0}, about)


def words(name: str, about: str, most: int) -> Parameter:
    """A list of short texts."""

    def read(value: Any) -> tuple[str, ...]:
        if (
            isinstance(value, list)
            and len(value) <= most
            and all(isinstance(one, str) and len(one) <= _LONGEST_WORD and is_line(one) for one in value)
        ):
            return tuple(value)
        raise ValueError(f"must be a list of at most {most} texts")

    schema = {"type": "array", "maxItems": most, "items": {"type": "string", "maxLength": _LONGEST_WORD}}
    return Parameter(name, read, schema, about, ())


# -- ids ---------------------------------------------------------------------------------------------------------------


def target(word: str) -> Target:
    """What an ID names.

    Raises:
        NotFound: no job or pipeline could have that ID.
    """
    found = _target(word)
    if found is None:
        raise NotFound(f"cannot find {_printable(word)}: an ID is a job's number such as 7, or a pipeline's such as p3")
    return found


def _target(word: str) -> Target | None:
    number = _digits(word.removeprefix("p"))
    if number is None or number < 1:
        return None
    return Target("pipeline" if word.startswith("p") else "job", number)


def _digits(word: str) -> int | None:
    return int(word) if word.isascii() and word.isdigit() and len(word) <= _DIGITS else None


def is_line(value: str) -> bool:
    """Whether text can be stored, logged and shown: one line, no control characters, no halves of surrogate pairs."""
    return re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", value) is None


def _printable(value: object) -> str:
    shown = str(value)
    return ascii(shown if len(shown) <= 60 else f"{shown[:57]}...")
