"""What scripts do with configurations: read YAML with the directories in it, write it, merge, flatten, show."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

#: The environment variables that are looked for in YAML files, and replaced by their values.
env_variables = ["DATA_DIRECTORY", "CACHE_DIRECTORY", "ARTIFACTS_DIRECTORY", "NUSSL_DIRECTORY"]

log = logging.getLogger(__name__)

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


# -- mappings ----------------------------------------------------------------------------------------------------------


def deep_update(source: MutableMapping[Any, Any], overrides: Mapping[Any, Any]) -> MutableMapping[Any, Any]:
    """Update a nested dictionary or similar mapping. Modifies ``source`` in place.

    A mapping over a mapping is merged into it; anything else takes the place of what was there.

    >>> deep_update({"train": {"lr": 0.1, "epochs": 5}}, {"train": {"lr": 0.01}, "seed": 0})
    {'train': {'lr': 0.01, 'epochs': 5}, 'seed': 0}

    Args:
        source: The dictionary that gets updated.
        overrides: What to update in it. It is not changed, and shares no mapping with ``source`` afterwards.

    Returns:
        The updated ``source``.
    """
    for key, value in overrides.items():
        if not isinstance(value, Mapping):
            source[key] = value
            continue
        below = source.get(key)
        source[key] = deep_update(below if isinstance(below, MutableMapping) else {}, value)
    return source


def flatten(d: Mapping[Any, Any], parent_key: str = "", sep: str = "_") -> dict[Any, Any]:
    """Flatten a dictionary, so that it only has one level, recursively.

    >>> flatten({"key1": {"key2": {"key3": "val"}}})
    {'key1_key2_key3': 'val'}

    Lists stay as they are, and so do empty dictionaries, of which nothing would be left.

    Args:
        d: The dictionary to flatten.
        parent_key: What goes before every key.
        sep: What stands between the keys.

    Returns:
        The flattened dictionary.

    Raises:
        ValueError: two keys would become the same one, as `{"a": {"b": 1}, "a_b": 2}`; both are named.
    """
    flat: dict[Any, Any] = {}
    places: dict[Any, tuple[str, ...]] = {}
    for key, value, place in _leaves(d, parent_key, sep, ()):
        if key in flat:
            first, second = (" > ".join(steps) for steps in (places[key], place))
            raise ValueError(f"cannot flatten: `{first}` and `{second}` both become {key!r}; rename one of them")
        flat[key], places[key] = value, place
    return flat


def _leaves(
    d: Mapping[Any, Any], parent_key: str, sep: str, above: tuple[str, ...]
) -> Iterator[tuple[Any, Any, tuple[str, ...]]]:
    """What is to stand in the flat dictionary: keys, values, and where each stood."""
    for key, value in d.items():
        name = f"{parent_key}{sep}{key}" if parent_key else key
        place = (*above, str(key))
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, str(name), sep, place)
        else:
            yield name, value, place


# -- YAML --------------------------------------------------------------------------------------------------------------


def load_yaml(path_to_yml: str | os.PathLike[str], env_variables: Sequence[str] = env_variables) -> Any:
    """Load a YAML file, with the environment variables in it replaced as :func:`modify_yml_with_env` does.

    Plain YAML is read, and `!!python/tuple`. Nothing in a file is ever executed.

    Args:
        path_to_yml: Path to the YAML file.
        env_variables: The variables to replace.

    Returns:
        What the file holds, typically a dictionary.

    Raises:
        OSError: it cannot be read.
        runners.errors.InvalidRequest: it is not YAML, or names a variable that is not set; with the line.
    """
    from .errors import InvalidRequest
    from .plain_yaml import parse

    path = os.fspath(path_to_yml)
    with open(path, encoding="utf-8-sig") as file:
        try:
            return parse(modify_yml_with_env(file.read(), env_variables))
        except UnicodeDecodeError:
            raise InvalidRequest(f"cannot use {path}: it is not a text file in UTF-8") from None
        except InvalidRequest as error:
            raise InvalidRequest(f"cannot use {path}: {error}") from None


def dump_yaml(data: Any, path_to_yml: str | os.PathLike[str]) -> None:
    """Dump data to a YAML file, which :func:`load_yaml` reads back as it was, tuples too. Keys keep their order.

    Args:
        data: What to dump, typically a dictionary. It may hold plain values, lists, tuples and mappings; numbers of
            numpy, which come back as plain ones; and paths, which come back as text.
        path_to_yml: Where to save it. What was there before stays whole when the data cannot be dumped.

    Raises:
        OSError: it cannot be written.
        runners.errors.InvalidRequest: the data holds what YAML has no plain form for.
    """
    from .errors import InvalidRequest
    from .plain_yaml import dump

    try:
        text = dump(data)
    except InvalidRequest as error:
        raise InvalidRequest(f"cannot write {os.fspath(path_to_yml)}: {error}") from None
    with open(path_to_yml, "w", encoding="utf-8") as file:
        file.write(text)


def modify_yml_with_env(yml: str, env_variables: Sequence[str]) -> str:
    """Replace `${NAME}` by the value of the environment variable, for the names given, outside of comments.

    Any other `${X}` is left as it is. The variables are described in configs/environment/default.sh.

    >>> os.environ["DATA_DIRECTORY"] = "/srv/data"
    >>> modify_yml_with_env("folder: ${DATA_DIRECTORY}/musdb  # in ${DATA_DIRECTORY}", ["DATA_DIRECTORY"])
    'folder: /srv/data/musdb  # in ${DATA_DIRECTORY}'

    Args:
        yml: YAML code, not parsed.
        env_variables: The names to replace.

    Returns:
        The code with the values in it.

    Raises:
        runners.errors.InvalidRequest: a variable that is not set, or empty, is named; the message has its line. It
            never becomes an empty string: `${DATA_DIRECTORY}/musdb` is not `/musdb`. Or its value would begin a comment
            where it stands, and be cut there.
    """
    from .errors import InvalidRequest
    from .plain_yaml import comments

    if not env_variables or "${" not in yml:
        return yml
    pattern = re.compile(r"\$\{(" + "|".join(map(re.escape, env_variables)) + r")\}")
    commented = comments(yml)

    def value(match: re.Match[str]) -> str:
        if any(begin <= match.start() < end for begin, end in commented):
            return match[0]
        found = os.environ.get(match[1])
        if not found:
            line = yml.count("\n", 0, match.start()) + 1
            raise InvalidRequest(f"line {line}: {match[0]} has no value: set {match[1]} in your environment")
        return found

    filled = pattern.sub(value, yml)
    _refuse_comments(yml, filled, commented, pattern)
    return filled


def _refuse_comments(yml: str, filled: str, commented: Sequence[tuple[int, int]], pattern: re.Pattern[str]) -> None:
    """Check that no value that was put in has a comment in it, which YAML would leave out."""
    from .errors import InvalidRequest
    from .plain_yaml import comments

    starts = [begin for begin, _ in comments(filled)]
    moved = 0
    for match in pattern.finditer(yml):
        if any(begin <= match.start() < end for begin, end in commented):
            continue
        value = os.environ[match[1]]
        place = match.start() + moved
        moved += len(value) - len(match[0])
        if any(place <= begin < place + len(value) for begin in starts):
            line = yml.count("\n", 0, match.start()) + 1
            raise InvalidRequest(
                f"line {line}: the value of {match[1]} has a ` #`, which begins a comment there; put {match[0]} and "
                "what is written with it into quotes"
            )


def parse_yaml(path_to_yml: str | os.PathLike[str], jobs: bool = True) -> dict[str, Any]:
    """Parse a YAML file, with the environment variables replaced, and put it into the form that scripts expect.

    Args:
        path_to_yml: Path to the file.
        jobs: Whether a file that defines no `jobs` becomes a list of one. Defaults to True. A list at the top of a file
            becomes `jobs` whatever this is.

    Returns:
        The dictionary in the file; `{'jobs': [...]}` where that is all there is.

    Raises:
        OSError: it cannot be read.
        runners.errors.InvalidRequest: it is not YAML, or neither a mapping nor a list, or names a variable that is not
            set.
    """
    from .errors import InvalidRequest

    data = load_yaml(path_to_yml, env_variables)
    if isinstance(data, list):
        return {"jobs": data}
    if not isinstance(data, dict):
        raise InvalidRequest(f"cannot use {os.fspath(path_to_yml)}: expected a mapping or a list of jobs")
    return {"jobs": [data]} if jobs and "jobs" not in data else data


# -- words -------------------------------------------------------------------------------------------------------------


def make_random_string(length: int = 10) -> str:
    """A random alphanumeric string: lower-case letters and digits, which every file system keeps apart.

    A seed does not touch it: two experiments with the same seed get different strings.

    >>> len(make_random_string(20))
    20

    Args:
        length: Length of the string. Defaults to 10.

    Returns:
        The string.
    """
    import secrets

    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def disp_script(spec: Mapping[str, Any]) -> None:
    """Display the arguments of a script in a readable fashion in logging, a line each. Values of `env` are left out.

    Args:
        spec: The script's parameters.
    """
    width = max((len(str(name)) for name in spec), default=0)
    lines = [f"{name!s:<{width}}  {_shown(name, value)}" for name, value in spec.items()]
    log.info("script:\n%s", "\n".join(f"  {line}" for line in lines) or "  (no arguments)")


def _shown(name: Any, value: Any) -> str:
    return ", ".join(map(str, value)) if name == "env" and isinstance(value, Mapping) else str(value)
