"""Where settings come from: flags beat the variables RUNNERS_*, and those beat the file. What reads is only here."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from runners.errors import InvalidConfig, Problem
from runners.paths import LOCK_DIR, SYSTEM_CONFIG, SYSTEM_SOCKET, SYSTEM_STATE
from runners.pipeline import reader
from runnersd.config import Config, Paths, build
from runnersd.config_sections import KeyPath

#: Reads a file's bytes; raises OSError.
ReadFile = Callable[[Path], bytes]


def load(
    *,
    config: str | None = None,
    socket: str | None = None,
    state_dir: str | None = None,
    environ: Mapping[str, str] = os.environ,
    system: bool | None = None,
    read_file: ReadFile = Path.read_bytes,
) -> Config:
    """The settings of the daemon that these flags, variables and file ask for.

    ``config``, ``socket`` and ``state_dir`` are the flags. ``system`` is whether the daemon serves the whole machine;
    without it, whether this process is root's. A file that was named must exist; the one at its default place need not.

    Raises:
        InvalidConfig: something in them is wrong, with every problem of the file.
    """
    system = os.geteuid() == 0 if system is None else system
    named = config or environ.get("RUNNERS_CONFIG")
    file = Path(named).absolute() if named else _default_file(environ, system)
    found = _from_file(file, read_file, must_exist=bool(named))
    chosen_state = state_dir or environ.get("RUNNERS_STATE_DIR")
    state = Path(chosen_state).absolute() if chosen_state else _default_state(environ, system)
    chosen_socket = socket or environ.get("RUNNERS_SOCKET") or found.socket.path
    listen = Path(chosen_socket).absolute() if chosen_socket else _default_socket(environ, system, state)
    locks = Path(environ.get("RUNNERS_LOCK_DIR") or LOCK_DIR).absolute()
    return replace(found, system=system, paths=Paths(file, listen, state, locks))


def _from_file(file: Path, read_file: ReadFile, *, must_exist: bool) -> Config:
    try:
        content = read_file(file)
    except FileNotFoundError as error:
        if not must_exist:
            return Config()
        raise InvalidConfig(f"cannot read {file}: there is no such file; check --config and $RUNNERS_CONFIG") from error
    except OSError as error:
        raise InvalidConfig(f"cannot read {file}: {error.strerror or error}") from error
    found, problems = _parse(content, str(file))
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        listed = sorted(problems, key=lambda problem: problem.line)
        raise InvalidConfig("\n".join([f"cannot use {file}: {count}", *map(str, listed)]))
    return found


def _parse(content: bytes, file: str) -> tuple[Config, list[Problem]]:
    """The settings in a file's bytes, and everything wrong with them. A file of comments alone changes nothing."""
    problems: list[Problem] = []
    if all(
        not line.strip() or line.lstrip().startswith(b"#") or line.strip() == b"---" for line in content.split(b"\n")
    ):
        return Config(), problems
    root = reader.read(content, file, {}, problems.append)
    if root is None or problems:
        return Config(), problems
    lines: dict[KeyPath, int] = {}
    data = _plain(root, (), lines)
    return build(data, lambda path: lines.get(path, 0), file)


def _plain(node: reader.Node, path: KeyPath, lines: dict[KeyPath, int]) -> Any:
    """The node as plain mappings, lists and scalars; ``lines`` takes the line of every key."""
    lines.setdefault(path, node.line)
    if isinstance(node, reader.Scalar):
        return node.value
    if isinstance(node, reader.Listing):
        return [_plain(item, (*path, position), lines) for position, item in enumerate(node.items)]
    plain = {}
    for name, entry in node.entries.items():
        lines[(*path, name)] = entry.line
        plain[name] = _plain(entry.node, (*path, name), lines)
    return plain


def _default_file(environ: Mapping[str, str], system: bool) -> Path:
    return Path(SYSTEM_CONFIG) if system else _xdg(environ, "XDG_CONFIG_HOME", ".config") / "runners" / "runnersd.yml"


def _default_state(environ: Mapping[str, str], system: bool) -> Path:
    return Path(SYSTEM_STATE) if system else _xdg(environ, "XDG_STATE_HOME", ".local/state") / "runners"


def _default_socket(environ: Mapping[str, str], system: bool, state: Path) -> Path:
    if system:
        return Path(SYSTEM_SOCKET)
    runtime = Path(environ.get("XDG_RUNTIME_DIR", ""))
    # A relative one is to be ignored, as the XDG specification asks.
    return runtime / "runners" / "runnersd.sock" if runtime.is_absolute() else state / "runnersd.sock"


def _xdg(environ: Mapping[str, str], variable: str, under_home: str) -> Path:
    value = Path(environ.get(variable, ""))
    if value.is_absolute():
        return value
    home = environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir
    return Path(home) / under_home
