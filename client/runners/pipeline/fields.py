"""Reads one value of a job: is it of the right type and range, and what does it become? Pure.

Each reader takes a plain value (as JSON has it), the check it belongs to and the value's key path; it gives the value
as :class:`runners.spec.JobSpec` keeps it, or tells the check what is wrong and gives :data:`WRONG`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import Any

from runners.pipeline.checking import UNPRINTABLE, WRONG, Check, Path, shown
from runners.pipeline.quantities import MOMENT_FORMS, parse_duration, parse_moment, parse_size
from runners.spec import Need

#: The kernel takes no longer argument or environment string (MAX_ARG_STRLEN, less its NUL).
MAX_TEXT = 128 * 1024 - 1
MAX_NAME = 250  #: of a job, without its matrix values
_MAX_DOTS = 60  #: each may be the end of a nested item's name
MAX_FULL_NAME = 4096  #: with them
MAX_NEEDS = 10_000  #: of one job; a name may stand for any number
MAX_PORTS = 32  #: of one container

_FULL_NAME = re.compile(r"([A-Za-z0-9._-]+)(\[.*\])?", re.ASCII | re.DOTALL)
_GPU = re.compile(r"0|[1-9][0-9]{0,3}|(GPU|MIG)-[0-9A-Za-z/_-]{1,80}", re.ASCII)
_CAPABILITY = re.compile(r"([1-9][0-9]?)(?:\.(0|[1-9][0-9]?))?", re.ASCII)
_PORT = re.compile(r"([1-9][0-9]{0,4})(?::([1-9][0-9]{0,4}))?", re.ASCII)
_ENV_KEY = re.compile(r"[^=\s]+")
_NOT_TEXT = re.compile(r"[\x00\ud800-\udfff]")


#: Reads one value; see above.
Reader = Callable[[Any, Check, Path], Any]


def is_text(value: object) -> bool:
    """Whether it is a string the kernel, UTF-8 and SQLite can all hold: no NUL, no half of a surrogate pair."""
    return isinstance(value, str) and ((value.isascii() and "\0" not in value) or _NOT_TEXT.search(value) is None)


def text(what: str = "text", longest: int = MAX_TEXT) -> Reader:
    """A non-empty string. ``longest`` is in bytes of UTF-8."""

    def read(value: Any, check: Check, path: Path) -> Any:
        if not isinstance(value, str) or not value.strip():
            return check.expected(path, what, value)
        if not is_text(value):
            return check.wrong(path, f"expected {what}, found a NUL or a broken character in {shown(value)}")
        if len(value) * 4 > longest and len(value.encode()) > longest:
            return check.wrong(path, f"longer than {longest} bytes, the most that can be passed on: {shown(value)}")
        return value

    return read


def whole(low: int, high: int) -> Reader:
    """A whole number from ``low`` to ``high``. A boolean is none."""

    def read(value: Any, check: Check, path: Path) -> Any:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        return check.expected(path, f"a whole number from {low} to {high}", value)

    return read


def number_of_cpus(value: Any, check: Check, path: Path) -> Any:
    """More than zero CPUs, fractions allowed."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 100_000:
        return float(value)
    return check.expected(path, "a number of CPUs above 0, such as 4 or 0.5", value)


def capability(value: Any, check: Check, path: Path) -> Any:
    """A CUDA compute capability as `major.minor`. A number is what it prints as: 8 is 8.0, and 8.10 is 8.1."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    match = _CAPABILITY.fullmatch(str(value)) if number or isinstance(value, str) else None
    if match is None:
        return check.expected(path, "a CUDA compute capability such as 8.0 or 9.0", value)
    return f"{match[1]}.{match[2] or 0}"


def flag(value: Any, check: Check, path: Path) -> Any:
    """True or false, nothing else."""
    return value if isinstance(value, bool) else check.expected(path, "true or false", value)


def choice(*options: str) -> Reader:
    """One of a few words."""

    def read(value: Any, check: Check, path: Path) -> Any:
        if isinstance(value, str) and value in options:
            return value
        near = check.nearest(value, options)
        hint = f"; did you mean `{near}`?" if near else ""
        return check.wrong(path, f"expected {' or '.join(f'`{word}`' for word in options)}, found {shown(value)}{hint}")

    return read


def duration(positive: bool = False) -> Reader:
    """Seconds, from any of the forms of a duration."""

    def read(value: Any, check: Check, path: Path) -> Any:
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            return check.wrong(path, f"found {shown(value)}, {error}")
        if positive and seconds == 0:
            return check.wrong(path, f"expected a duration above 0, found {shown(value)}")
        return seconds

    return read


def size(value: Any, check: Check, path: Path) -> Any:
    """Bytes, from any of the forms of a size; not zero."""
    try:
        found = parse_size(value)
    except ValueError as error:
        return check.wrong(path, f"found {shown(value)}, {error}")
    return found or check.wrong(path, f"expected a size above 0, found {shown(value)}")


def begin(value: Any, check: Check, path: Path) -> Any:
    """Unix seconds, from themselves, an ISO time (local where it names no zone) or `+2h` from now."""
    if isinstance(value, str) and value.startswith("+"):
        try:
            return check.now + parse_duration(value[1:])
        except ValueError as error:
            return check.wrong(path, f"found {shown(value)}, {error}")
    try:
        return parse_moment(value, check.now)
    except ValueError:
        return check.expected(path, MOMENT_FORMS, value)


def job_name(value: Any, check: Check, path: Path) -> Any:
    """A job's name as it travels: `train`, `item.train`, `train[lr=0.1]`."""
    match = _FULL_NAME.fullmatch(value) if isinstance(value, str) and len(value) <= MAX_FULL_NAME else None
    if match is None or len(match[1]) > MAX_NAME or (match[2] and UNPRINTABLE.search(match[2])):
        return check.expected(path, f"a name of letters, digits, `.`, `_` and `-`, at most {MAX_NAME} of them", value)
    if match[1].count(".") > _MAX_DOTS:
        return check.wrong(path, f"more than {_MAX_DOTS} dots in the name {shown(value)}")
    if value == "all":
        return check.wrong(path, "a job cannot be named `all`: in `needs` it means every job above")
    return value


def plain_name(value: Any, check: Check, path: Path) -> Any:
    """A job's name as a file gives it: without matrix values."""
    if isinstance(value, str) and "[" in value:
        return check.expected(path, "a name of letters, digits, `.`, `_` and `-`", value)
    return job_name(value, check, path)


def env(value: Any, check: Check, path: Path) -> Any:
    """A mapping of variables to text."""
    if not isinstance(value, dict):
        return check.expected(path, "a mapping of variables to values", value)
    before = check.count
    for key, item in value.items():
        here = (*path, key if isinstance(key, str) else shown(key))
        if not isinstance(key, str) or not is_text(key) or not _ENV_KEY.fullmatch(key):
            check.expected(here, "the name of a variable, without blanks or `=`", key)
        elif item is None:
            check.wrong(here, "has no value; write '' for an empty one")
        elif not isinstance(item, str):
            check.expected(here, "text", item)
        elif not is_text(item):
            check.wrong(here, "expected text, found a NUL or a broken character")
        elif len(item) * 4 > MAX_TEXT and len(key.encode()) + 1 + len(item.encode()) > MAX_TEXT:
            check.wrong(here, f"longer than {MAX_TEXT} bytes, the most that can be passed on")
    return value if check.count == before else WRONG


def _texts(value: list[Any], what: str, check: Check, path: Path) -> list[str] | None:
    """The list, when all of its items are text (empty ones too)."""
    before = check.count
    for position, item in enumerate(value):
        if not is_text(item):
            check.expected((*path, position), what, item)
        elif len(item) * 4 > MAX_TEXT and len(item.encode()) > MAX_TEXT:
            check.wrong((*path, position), f"longer than {MAX_TEXT} bytes, the most that can be passed on")
    return value if check.count == before else None


_command_line = text("a command")


def command(value: Any, check: Check, path: Path) -> Any:
    """A string for `sh -c`, or a list of arguments that runs as it is."""
    if not isinstance(value, list):
        return _command_line(value, check, path)
    if not value or not value[0]:
        return check.wrong(path, "expected a command, found an empty one")
    words = _texts(value, "text", check, path)
    return tuple(words) if words is not None else WRONG


def arguments(value: Any, check: Check, path: Path) -> Any:
    """`config`: a string split as a shell would, or a list of arguments."""
    if isinstance(value, list):
        words = _texts(value, "text", check, path)
        return tuple(words) if words is not None else WRONG
    if value == "":
        return ()
    line = text("a string of arguments, or a list")(value, check, path)
    if line is WRONG:
        return WRONG
    try:
        return tuple(shlex.split(line))
    except ValueError as error:
        return check.wrong(path, f"cannot split {shown(value)} into arguments: {str(error).lower()}")


_script_line = text("a script: a module of `scripts`, or a path such as dir/x.py")


def script(value: Any, check: Check, path: Path) -> Any:
    """`prepare` is the module scripts.prepare; anything with a `/` or a `.py` is a file. Gives the first arguments."""
    found = _script_line(value, check, path)
    if found is WRONG:
        return WRONG
    if found.startswith("-"):
        return check.wrong(path, f"a script's name cannot begin with `-`: {shown(value)}")
    if "/" in found or found.endswith(".py"):
        return ("python", found)
    if len(found.split()) > 1:
        return check.wrong(path, f"a script takes its arguments from `config`, found {shown(value)}")
    return ("python", "-m", f"scripts.{found}")


def gpus(value: Any, check: Check, path: Path) -> Any:
    """Explicit cards: indices or UUIDs, as a list or separated by commas."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",", 1024)]
    elif isinstance(value, int):
        value = [value]
    if not isinstance(value, list):
        return check.expected(path, "indices or UUIDs of cards", value)
    found: list[str] = []
    before = check.count
    for position, item in enumerate(value):
        small = isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 10_000
        name = str(item) if small else item
        if not isinstance(name, str) or not _GPU.fullmatch(name):
            check.expected((*path, position), "the index or the UUID of a card", item)
        elif name in found:
            check.wrong((*path, position), f"names the card {shown(name)} twice")
        elif len(found) >= 1024:
            return check.wrong(path, "more than 1024 cards")
        else:
            found.append(name)
    return tuple(found) if check.count == before else WRONG


def mounts(value: Any, check: Check, path: Path) -> Any:
    """A list of `host:container[:ro]`."""
    if not isinstance(value, list):
        return check.expected(path, "a list of `host:container[:ro]`", value)
    before = check.count
    for position, item in enumerate(value):
        parts = item.split(":") if is_text(item) else []
        places = len(parts) in (2, 3) and parts[0].strip() and parts[1].startswith("/")
        if not places or parts[2:] not in ([], ["ro"], ["rw"]):
            check.expected((*path, position), "`host:/container` or `host:/container:ro`", item)
    return tuple(value) if check.count == before else WRONG


def ports(value: Any, check: Check, path: Path) -> Any:
    """A list of `8888`, or `8889:8888` for another one outside. Each becomes `outside:inside`."""
    if isinstance(value, (str, int)):
        value = [value]
    if not isinstance(value, list):
        return check.expected(path, "a list of ports, `8888` or `outside:inside`", value)
    if len(value) > MAX_PORTS:
        return check.wrong(path, f"more than {MAX_PORTS} ports")
    before = check.count
    found: dict[str, str] = {}
    for position, item in enumerate(value):
        here = (*path, position)
        match = _PORT.fullmatch(str(item)) if isinstance(item, (str, int)) and not isinstance(item, bool) else None
        outside, inside = (match[1], match[2] or match[1]) if match else ("0", "0")
        if match is None or not 0 < int(outside) < 65536 or not 0 < int(inside) < 65536:
            check.expected(here, "a port such as 8888, or `outside:inside`", item)
        elif int(outside) < 1024:
            check.wrong(here, f"port {outside} of the machine is the system's: name one from 1024 on, as 8080:{inside}")
        elif outside in found:
            check.wrong(here, f"opens port {outside} of the machine twice")
        else:
            found[outside] = inside
    return tuple(f"{outside}:{inside}" for outside, inside in found.items()) if check.count == before else WRONG


_need_on = choice("success", "finished")


def needs(value: Any, check: Check, path: Path) -> Any:
    """`all`, a name, or a list of names and `{job: name, on: finished}`."""
    if isinstance(value, (str, dict)):
        value = [value]
    if not isinstance(value, list):
        return check.expected(path, "a list of job names, or `all`", value)
    if len(value) > MAX_NEEDS:
        return check.wrong(
            path, f"{len(value)} needs; at most {MAX_NEEDS}, but the name of a matrix or item is only one"
        )
    before = check.count
    found: dict[Need, None] = {}
    for position, item in enumerate(value):
        here = (*path, position)
        name, on = item, "success"
        if isinstance(item, dict):
            check.unknown_keys(item, ("job", "on"), here)
            if "job" not in item:
                check.wrong(here, "says not which `job` is needed")
                continue
            name, on = item["job"], _need_on(item.get("on", "success"), check, (*here, "on"))
            here = (*here, "job")
        if not isinstance(name, str) or not name or len(name) > MAX_FULL_NAME or not is_text(name):
            check.expected(here, "the name of a job, or `all`", name)
        elif on is not WRONG:
            found[Need(name, on)] = None  # type: ignore[arg-type]  # `_need_on` gave one of the two
    return tuple(found) if check.count == before else WRONG
