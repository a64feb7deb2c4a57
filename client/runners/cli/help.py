"""`--help`, from the table of commands."""

from __future__ import annotations

import sys

from .commands import COMMANDS, GROUPS, find
from .options import COMMON, Command, Option, nearest


def show_help(name: str | None) -> int:
    """The list of commands, or one command's words."""
    if name is None:
        sys.stdout.write(overview())
        return 0
    command = find(name)
    if command is None:
        from runners.errors import InvalidRequest

        raise InvalidRequest(f"cannot help: there is no command {name}{nearest(name, [one.name for one in COMMANDS])}")
    sys.stdout.write(of_command(command))
    return 0


def overview() -> str:
    """Every command in a line, in groups."""
    lines = ["usage: runners-client COMMAND ...", "", "Queues and runs jobs on this machine's cards.", ""]
    for group in GROUPS:
        lines.append(f"{group}:")
        lines += [f"  {command.name:<11} {command.summary}" for command in COMMANDS if command.group == group]
        lines.append("")
    lines += [
        "`runners-client COMMAND --help` tells more. A job is named by its number (12), a pipeline by its id (p3).",
        "Exit codes: 0 done, 1 a job did not succeed, 2 wrong request, 3 no daemon, 4 not allowed, 5 no such job.",
        "",
    ]
    return "\n".join(lines)


def of_command(command: Command) -> str:
    """One command: usage, what it does, its words, examples."""
    summary = command.summary[:1].upper() + command.summary[1:] + "."
    lines = [f"usage: {command.usage}", "", summary]
    if command.description:
        lines += command.description.split("\n")
    rows = [(one.name, one.help) for one in command.positionals if one.help]
    rows += [(_flags(option), option.help) for option in (*command.options, *COMMON)]
    widest = max(len(left) for left, _help in rows)
    lines += ["", *(f"  {left:<{widest}}  {help}" for left, help in rows)]
    if command.examples:
        lines += ["", "Examples:", *(f"  runners-client {example}" for example in command.examples)]
    return "\n".join([*lines, ""])


def _flags(option: Option) -> str:
    value = f" {option.metavar}" if option.metavar else ""
    return ", ".join(option.flags) + value
