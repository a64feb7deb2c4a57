"""What an experiment's configuration says: who it is, where its folder is, and what a sweep changes of it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from runners.errors import InvalidRequest

#: Stands for the key, in an experiment's file and in a pipeline's, until the experiment has one.
PLACEHOLDER = "${EXPERIMENT_KEY}"
#: Characters of the keys that we make. Comet takes keys of 32 to 50 letters and digits.
KEY_LENGTH = 32

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
_COMETS_KEY = re.compile(r"[A-Za-z0-9]{32,50}", re.ASCII)


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The configuration in an experiment's file, its directories replaced, its `info` looked at.

    Raises:
        OSError: it cannot be read.
        InvalidRequest: it is not YAML, no mapping, names a directory that is not set, or has no usable `info`.
    """
    from runners.utils import load_yaml

    config = load_yaml(path)
    try:
        info_of(config)
    except InvalidRequest as error:
        raise InvalidRequest(f"cannot use {os.fspath(path)}: {error}") from None
    return dict(config)


def info_of(config: object) -> dict[str, Any]:
    """The `info` of a configuration.

    Raises:
        InvalidRequest: there is none, or what it says cannot be used.
    """
    if not isinstance(config, dict):
        raise InvalidRequest("expected a mapping with `info`")
    info = config.get("info")
    if not isinstance(info, dict):
        found = "no `info`" if info is None else f"`info` is {info!r}"
        raise InvalidRequest(f"{found}: expected a mapping with `project_name`, `output_folder` and `experiment_key`")
    for name in ("project_name", "output_folder"):
        if not isinstance(info.get(name), str | None):
            raise InvalidRequest(f"info.{name}: expected text, found {info[name]!r}")
    key = info.get("experiment_key")
    if not is_new(config) and not (isinstance(key, str) and _KEY.fullmatch(key)):
        raise InvalidRequest(
            f"info.experiment_key: expected letters, digits, `.`, `_` and `-`, found {key!r}; "
            f"leave it out, or write {PLACEHOLDER}, for a new experiment"
        )
    return info


def is_new(config: Mapping[str, Any]) -> bool:
    """Whether an experiment has yet to be made: it has no key, or only the placeholder for one.

    >>> is_new({"info": {}}), is_new({"info": {"experiment_key": "${EXPERIMENT_KEY}"}})
    (True, True)
    >>> is_new({"info": {"experiment_key": "k3y"}})
    False
    """
    return config["info"].get("experiment_key") in (None, "", PLACEHOLDER)


def fits_comet(key: str) -> bool:
    """Whether Comet takes it for an experiment's key.

    >>> fits_comet("abc"), fits_comet("a" * 32)
    (False, True)
    """
    return _COMETS_KEY.fullmatch(key) is not None


def placed(config: Mapping[str, Any], key: str, artifacts: str | None) -> dict[str, Any]:
    """A new experiment's configuration with its key everywhere that the placeholder stands, and its folder.

    Without an `output_folder` that is `<artifacts>/<project_name>/<key>`; a relative one is below ``artifacts``, and
    below the working directory where that is None. A `sweep` is no part of the experiments that it makes.

    >>> placed({"info": {"project_name": "musdb"}, "model": "${EXPERIMENT_KEY}.pth"}, "k3y", "/srv")
    {'info': {'project_name': 'musdb', 'experiment_key': 'k3y', 'output_folder': '/srv/musdb/k3y'}, 'model': 'k3y.pth'}

    Raises:
        InvalidRequest: there is no folder to put it into.
    """
    made: dict[str, Any] = with_key({name: value for name, value in config.items() if name != "sweep"}, key)
    info = made["info"]
    info["experiment_key"] = key
    folder = info.get("output_folder")
    if folder is None and not artifacts:
        raise InvalidRequest("no `info.output_folder`: name one, or set ARTIFACTS_DIRECTORY")
    if folder is None:
        folder = os.path.join(info.get("project_name") or "experiments", key)
    info["output_folder"] = os.path.abspath(os.path.join(artifacts or "", folder))
    return made


def with_key(value: Any, key: str) -> Any:
    """Plain data with the key in place of its placeholder. Nothing is shared with what was given.

    >>> with_key({"path": ["${EXPERIMENT_KEY}/best.pth"], "seed": 0}, "k3y")
    {'path': ['k3y/best.pth'], 'seed': 0}
    """
    if isinstance(value, str):
        return value.replace(PLACEHOLDER, key)
    if isinstance(value, list | tuple):
        return type(value)(with_key(item, key) for item in value)
    if isinstance(value, dict):
        return {with_key(name, key): with_key(item, key) for name, item in value.items()}
    return value


def override(config: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a dotted key, in place. Its last part may be new; what is above it must be there.

    A number in a form that YAML takes for text (`1e-4`) becomes one where a number was.

    >>> config = {"train_config": {"lr": 0.1}}
    >>> override(config, "train_config.lr", 0.01)
    >>> config
    {'train_config': {'lr': 0.01}}

    Raises:
        InvalidRequest: it leads through what is not a mapping.
    """
    *above, last = path.split(".")
    at: Any = config
    for position, step in enumerate(above):
        at = at.get(step) if isinstance(at, dict) else None
        if not isinstance(at, dict):
            raise InvalidRequest(
                f"cannot set {path}: `{'.'.join(above[: position + 1])}` is no mapping in the experiment"
            )
    at[last] = _like(at.get(last), value)


def _like(before: Any, value: Any) -> Any:
    if isinstance(value, str) and isinstance(before, int | float) and not isinstance(before, bool):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def change(config: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Set values in place: at dotted keys, and of keys without dots every one of that name, however deep.

    Raises:
        InvalidRequest: a dotted key leads through what is not a mapping.
    """
    for key, value in changes.items():
        if "." in key:
            override(config, key, value)
        else:
            for mapping in _holding(config, key):
                mapping[key] = _like(mapping[key], value)


def has(config: Mapping[str, Any], name: str) -> bool:
    """Whether there is a key of that name, however deep. A `sweep` does not count.

    >>> has({"train_config": {"lr": 1}, "sweep": {"over": {"lr_max": [2]}}}, "lr")
    True
    >>> has({"train_config": {"lr": 1}, "sweep": {"over": {"lr_max": [2]}}}, "lr_max")
    False
    """
    return any(_holding({key: value for key, value in config.items() if key != "sweep"}, name))


def _holding(at: Any, name: str) -> list[dict[str, Any]]:
    """Every mapping that has the key."""
    found: list[dict[str, Any]] = []
    below = at.values() if isinstance(at, dict) else at if isinstance(at, list | tuple) else ()
    if isinstance(at, dict) and name in at:
        found.append(at)
    for item in below:
        found += _holding(item, name)
    return found
