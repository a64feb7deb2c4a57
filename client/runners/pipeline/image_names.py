"""What can be the name of a container image: `lab/torch:2.1`, `host:5000/a/b@sha256:…`, an image's id. Pure.

The names become parts of URLs, so nothing that is not one may reach an engine.
"""

from __future__ import annotations

import re
from typing import Any

from runners.pipeline.checking import Check, Path, shown

#: The engine's own grammar: a host with a dot, a port or any capitals; a path in lower case; a tag; a digest.
_LABEL = r"(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_NAME = re.compile(
    rf"(?P<name>(?:{_HOST}/)?{_PART}(?:/{_PART})*)(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@sha(?:256|512):[0-9a-f]{{64,128}})?",
    re.ASCII,
)
#: The most that an engine takes of a name, without tag and digest.
_LONGEST = 255


def is_image_name(text: str) -> bool:
    """Whether an engine would take it for a name of an image, or for its id."""
    found = _NAME.fullmatch(text) if len(text) <= 4 * _LONGEST else None
    return found is not None and len(found["name"]) <= _LONGEST


def image_name(value: Any, check: Check, path: Path) -> Any:
    """The name of an image, as a reader of a job's key."""
    if isinstance(value, str) and is_image_name(value):
        return value
    lower = isinstance(value, str) and is_image_name(value.lower())
    hint = "; names are in lower case" if lower else ""
    return check.wrong(path, f"expected the name of an image, such as lab/torch:2.1, found {shown(value)}{hint}")
