"""`runners-client`: finds the command, runs it, and turns what went wrong into a sentence and an exit code."""

from __future__ import annotations

import os
import sys

from .commands import COMMANDS, find
from .options import nearest, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from .options import Words

#: Done by completion scripts alone, and shown nowhere: `runners-client __complete -- WORDS...`.
COMPLETE = "__complete"


def main() -> NoReturn:
    """The program: :func:`run`, then out, without taking the interpreter apart first (a tenth of `status`)."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        from runners.standard_streams import open_closed_streams

        open_closed_streams()
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = code or 1
    os._exit(code)


def run(arguments: Sequence[str]) -> int:
    """Do what one command line says and return its exit code: 0, or 1 to 5 as the contract says."""
    given = list(arguments)
    try:
        _lenient_output()
        code = _command(given)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read us (`| head`) has seen enough. Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except Exception as error:
        from runners.errors import RunnersError

        if isinstance(error, RunnersError):
            complain(error)
            return error.exit
        if isinstance(error, OSError):
            sys.stderr.write(f"runners-client: {_os_error(error)}\n")
            return 1
        raise


def complain(error: Exception) -> None:
    """An error's sentence, to standard error."""
    sys.stderr.write(f"runners-client: {error}\n")


def _command(given: list[str]) -> int:
    common: list[str] = []  # --socket may also come before the command
    while given and given[0].startswith("-"):
        word = given.pop(0)
        if word in ("-h", "--help"):
            given.insert(0, "help")
        elif word in ("-V", "--version"):
            from runners import __version__

            print(f"runners-client {__version__}")
            return 0
        elif word == "--socket" and given:
            common += [word, given.pop(0)]
        elif word.startswith("--socket="):
            common.append(word)
        elif word == "--socket":
            _refuse("cannot begin: --socket needs a value: PATH; see `runners-client --help`")
        else:
            known = [f"--{name}" for name in ("help", "socket", "version")]
            _refuse(f"cannot begin: there is no option {word}{nearest(word, known)}; see `runners-client --help`")
    if not given:
        from .help import overview

        sys.stderr.write(overview())
        return 2
    if given[0] == "help":
        from .help import show_help

        return show_help(given[1] if given[1:] else None)
    name, rest = given[0], given[1:]
    if name == COMPLETE:
        from .completion import complete

        return complete(rest)
    command = find(name)
    if command is None:
        near = nearest(name, [command.name for command in COMMANDS])
        _refuse(f"cannot do {name!r}: there is no such command{near}; see `runners-client --help`")
    try:
        words = parse(command, common + rest)
    except Exception as error:
        if command.name == "run":  # like any other failure before the job started
            complain(error)
            return 125
        raise
    if words.has("help"):
        from .help import show_help

        return show_help(command.name)
    module, _, function = command.does.partition(":")
    return _load(module, function)(words)


def _load(module: str, function: str) -> Callable[[Words], int]:
    """The function that does a command; only now is what it needs imported."""
    full = f"{__package__}.{module}"
    __import__(full)
    found: Callable[[Words], int] = getattr(sys.modules[full], function)
    return found


def _refuse(message: str) -> NoReturn:
    from runners.errors import InvalidRequest

    raise InvalidRequest(message)


def _lenient_output() -> None:
    """Names that the terminal's encoding lacks are shown with question marks, not refused."""
    for stream in (sys.stdout, sys.stderr):
        if stream.encoding.lower() not in ("utf-8", "utf8"):
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure:
                reconfigure(errors="replace")


def _os_error(error: OSError) -> str:
    what = f"use {error.filename}" if error.filename else "write"
    return f"cannot {what}: {error.strerror or error}"
