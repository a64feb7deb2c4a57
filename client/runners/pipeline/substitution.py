"""The two kinds of placeholder in a pipeline file: `${DATA_DIRECTORY}` and its sisters, and `${{ matrix.k }}`. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from runners.pipeline.fields import MAX_TEXT

#: The variables that are replaced in the text of a file. Any other `${X}` is left for the shell.
DIRECTORIES: Final = ("DATA_DIRECTORY", "CACHE_DIRECTORY", "ARTIFACTS_DIRECTORY", "NUSSL_DIRECTORY")

_DIRECTORY = re.compile(r"\$\{(" + "|".join(DIRECTORIES) + r")\}")
_PLACEHOLDER = re.compile(r"\$\{\{([^{}]*)\}\}")
_MATRIX_KEY = re.compile(r"\s*matrix\.([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)\s*", re.ASCII)


#: Stand around a variable's name while YAML is scanned: within `[ ]` and `{ }` a brace of `${X}` would end the text.
_OPENS, _CLOSES = "\ue000", "\ue001"
_OURS = "|".join((*DIRECTORIES, "EXPERIMENT_KEY", "EXPERIMENT_PATH", "EXPERIMENT_PATHS"))
_TO_MASK = re.compile(r"\$\{(" + _OURS + r")\}")
_MASKED = re.compile(_OPENS + "(" + _OURS + ")" + _CLOSES)


def masked(source: str) -> str:
    """A file's text in which our variables' placeholders are plain words to YAML, comments and quotes included."""
    if "${" not in source or _OPENS in source or _CLOSES in source:
        return source
    return _TO_MASK.sub(rf"{_OPENS}\1{_CLOSES}", source)


def unmasked(text: str) -> str:
    """The placeholders of a text out of a :func:`masked` file, as they were written."""
    return _MASKED.sub(r"${\1}", text) if _OPENS in text else text


def grown(text: str, values: Mapping[str, str]) -> int:
    """The most characters that a text can have once values are put into it. Millions of them must not be tried."""
    return len(text) + text.count("${") * max(map(len, values.values()), default=0)


def directory_values(*sources: Mapping[str, str]) -> dict[str, str]:
    """The directories' values, from the first source that has one. An empty value is none: `${X}/y` is never `/y`."""
    values: dict[str, str] = {}
    for source in reversed(sources):
        values.update({name: source[name] for name in DIRECTORIES if source.get(name)})
    return values


def replace_directories(text: str, values: Mapping[str, str], missing: Callable[[str], None]) -> str:
    """The text with the directories in it. One without a value is told to ``missing`` by its name, and left."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in values:
            missing(name)
            return match[0]
        return values[name]

    return _DIRECTORY.sub(value, text) if "${" in text else text


def has_placeholder(text: str) -> bool:
    """Whether there is a `${{ ... }}` in the text, or the beginning of one."""
    return "${{" in text


def whole_placeholder(text: str) -> str | None:
    """The matrix key of a text that is one `${{ matrix.k }}` and nothing else."""
    match = _PLACEHOLDER.fullmatch(text.strip())
    key = _MATRIX_KEY.fullmatch(match[1]) if match else None
    return key[1] if key else None


def replace_matrix(text: str, combination: Mapping[str, str], wrong: Callable[[str], None]) -> str:
    """The text for one combination of the matrix. What cannot be replaced is told to ``wrong``, and left."""
    if "${{" not in text:
        return text
    if grown(text, combination) > MAX_TEXT:
        wrong(f"longer than {MAX_TEXT} bytes with the matrix's values in it")
        return text

    def value(match: re.Match[str]) -> str:
        key = _MATRIX_KEY.fullmatch(match[1])
        if key is None:
            wrong(f"found {match[0][:60]!r}; only `${{{{ matrix.<key> }}}}` is known")
        elif key[1] not in combination:
            known = f"the matrix has {', '.join(combination)}" if combination else "the job has no `matrix`"
            wrong(f"unknown matrix key {key[1][:60]!r}: {known}")
        else:
            return combination[key[1]]
        return match[0]

    if "${{" in _PLACEHOLDER.sub("", text):
        wrong("found a `${{` that is not closed; write `${{ matrix.<key> }}`")
        return text
    return _PLACEHOLDER.sub(value, text)
