"""The kinds of value a setting takes. Pure: a value as YAML gave it in, the daemon's value out.

Every kind is a function that raises ValueError with what is allowed; `runnersd.config` says where.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from string import Template
from typing import Any

from runners.pipeline.notify import is_address, is_hook
from runners.pipeline.quantities import parse_duration, parse_size
from runners.spec import ON
from runnersd.notices.notice import NAMES

#: Reads one value.
Kind = Callable[[Any], Any]


def maybe(kind: Kind) -> Kind:
    """That kind, or null."""
    return lambda value: None if value is None else kind(value)


def choice(*allowed: str) -> Kind:
    """One of a few words."""

    def parse(value: Any) -> str:
        if isinstance(value, str) and value in allowed:
            return value
        raise ValueError(f"must be {' or '.join(allowed)}")

    return parse


def integer(at_least: int = 0) -> Kind:
    """A whole number."""

    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value <= 1 << 53:
            raise ValueError(f"must be a whole number, at least {at_least}")
        return value

    return parse


def duration(at_least: float = 0.0) -> Kind:
    """Seconds, from a number or `90s`, `30m`, `12h`, `2d`, `1:30:00`."""

    def parse(value: Any) -> float:
        seconds = parse_duration(value)
        if seconds < at_least:
            raise ValueError(f"must be at least {at_least:g}s")
        return seconds

    return parse


def size(at_least: int = 0) -> Kind:
    """Bytes, from a number or `512MiB`, `8GiB`."""

    def parse(value: Any) -> int:
        size = parse_size(value)
        if size < at_least:
            raise ValueError(f"must be at least {at_least} bytes")
        return size

    return parse


def listing(of: Kind) -> Kind:
    """A list of that kind."""

    def parse(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError("must be a list")
        return tuple(of(item) for item in value)

    return parse


def flag(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def text(value: Any) -> str:
    """Text; a whole number counts as its digits, as for a card's index."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError("must be text")
    return value


def group_name(value: Any) -> str:
    """The name of a Unix group."""
    name = text(value)
    if not re.fullmatch(r"[^\s:/,]+", name):
        raise ValueError("must be the name of a group")
    return name


def absolute_path(value: Any) -> str:
    """A path that means the same wherever the daemon was started."""
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError("must be an absolute path")
    return value


def command(value: Any) -> str | tuple[str, ...]:
    """A shell command, or a list of arguments."""
    if isinstance(value, list):
        if not value:
            raise ValueError("must name a program")
        return tuple(text(part) for part in value)
    return text(value)


def address(value: Any) -> str:
    """An e-mail address."""
    if not is_address(value):
        raise ValueError("must be an e-mail address, such as ann@lab.example")
    return str(value)


def hook(value: Any) -> str:
    """Where a web hook is: often a secret, so what is wrong with it is not shown."""
    if not is_hook(value):
        raise ValueError("must be an http or https URL, without a name or password before its host")
    return str(value)


def server(value: Any) -> str:
    """A host, perhaps with a port: `mail.lab`, `mail.lab:587`, `[::1]:25`."""
    found = (
        re.fullmatch(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:/@\[\]]+)(?::([0-9]{1,5}))?", value)
        if isinstance(value, str)
        else None
    )
    if found is None or not 0 < int(found[1] or 1) < 65536:
        raise ValueError("must be a host, or host:port")
    return str(value)


def variable(value: Any) -> str:
    """The name of an environment variable."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("must be the name of an environment variable")
    return value


def events(value: Any) -> tuple[str, ...]:
    """Of what somebody is told: a word, or a list of them."""
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or any(word not in ON for word in words):
        raise ValueError(f"must be a list of {', '.join(ON)}")
    return tuple(word for word in ON if word in words)


def template(value: Any) -> str:
    """Text with `$name` or `${name}` for what a notice can say; `$$` is a dollar sign."""
    found = Template(text(value))
    if not found.is_valid():
        raise ValueError("has a $ that begins no name; write $$ for a dollar sign")
    unknown = sorted(set(found.get_identifiers()) - set(NAMES))
    if unknown:
        raise ValueError(f"has no {', '.join('$' + name for name in unknown)}; allowed are {', '.join(NAMES)}")
    return found.template


def mail_template(value: Any) -> str:
    """An e-mail address in which `${user}` is the name of a job's user."""
    found = Template(text(value))
    if not found.is_valid() or set(found.get_identifiers()) - {"user"} or not is_address(found.substitute(user="ann")):
        raise ValueError("must be an e-mail address, such as ${user}@lab.example")
    return found.template
