"""Reads who is to be told of a job: an address, a web hook, or both, and of what. Pure."""

from __future__ import annotations

import re
from typing import Any, Final

from runners.pipeline.checking import WRONG, Check, Path
from runners.pipeline.fields import is_text
from runners.spec import ON, Notify

#: The parts of `notify` when it is a mapping.
NOTIFY_KEYS: Final = ("email", "webhook", "on")
#: Of an address and of a hook; no mail server and no web server takes a longer one.
_MAX_ADDRESS, _MAX_URL = 254, 2048
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", re.ASCII)


def is_address(text: object) -> bool:
    """Whether it can be an e-mail address: `ann@lab`, without a name beside it.

    >>> is_address("ann@lab.example"), is_address("Ann <ann@lab>"), is_address("ann@lab\\nBcc: all@lab")
    (True, False, False)
    """
    return isinstance(text, str) and len(text) <= _MAX_ADDRESS and _ADDRESS.fullmatch(text) is not None


def is_hook(text: object) -> bool:
    """Whether it can be a web hook: an http or https URL with a host, and no name or password in it.

    >>> is_hook("https://chat.lab/hooks/x"), is_hook("file:///etc/passwd"), is_hook("https://u:p@chat.lab/")
    (True, False, False)
    """
    if not isinstance(text, str) or len(text) > _MAX_URL or not text.isascii() or not text.isprintable() or " " in text:
        return False
    from urllib.parse import urlsplit  # costs more than most pipelines need

    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc and port != 0


def notify(value: Any, check: Check, path: Path) -> Any:
    """An address, a web hook, or a mapping of `email`, `webhook` and `on`."""
    if is_address(value):
        return Notify(email=value)
    if is_hook(value):
        return Notify(webhook=value)
    if not isinstance(value, dict):
        # What is wrong may be a secret all the same: it is not shown.
        return check.wrong(path, f"expected an e-mail address, an http(s) URL, or a mapping of {_listed(NOTIFY_KEYS)}")
    before = check.count
    if "command" in value:
        check.wrong(
            (*path, "command"),
            "a job has no command to tell of its end; a job with `needs: [{job: ..., on: finished}]` is one",
        )
    check.unknown_keys([key for key in value if key != "command"], NOTIFY_KEYS, path)
    email, hook, on = value.get("email"), value.get("webhook"), value.get("on")
    if email is not None and not is_address(email):
        check.wrong((*path, "email"), "expected an e-mail address, such as ann@lab.example")
    if hook is not None and not is_hook(hook):
        check.wrong((*path, "webhook"), "expected an http or https URL, without a name or password before its host")
    events = None if on is None else _events(on, check, (*path, "on"))
    return Notify(email, hook, events) if check.count == before else WRONG


def _events(value: Any, check: Check, path: Path) -> tuple[str, ...] | None:
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list):
        check.expected(path, f"a list of {_listed(ON)}", value)
        return None
    for position, word in enumerate(words):
        if word not in ON:
            near = check.nearest(word, ON) if is_text(word) else None
            hint = f"; did you mean `{near}`?" if near else ""
            check.wrong((*path, position), f"expected {_listed(ON)}{hint}")
    return tuple(word for word in ON if word in words)


def _listed(words: tuple[str, ...]) -> str:
    quoted = [f"`{word}`" for word in words]
    return f"{', '.join(quoted[:-1])} or {quoted[-1]}"
