"""The program `runnersd doctor`: look, check, print, and exit 1 when there is a failure."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import runners
from runners.errors import InvalidConfig
from runners.render.terminal import output
from runners.render.words import clean
from runnersd.config_load import load
from runnersd.doctor import report
from runnersd.doctor.examination import examine
from runnersd.doctor.finding import Finding, Level
from runnersd.doctor.gather import gather


def doctor(
    *,
    config: str | None,
    socket: str | None,
    state_dir: str | None,
    as_json: bool,
    environment: Mapping[str, str] = os.environ,
) -> int:
    """Examine the machine for a daemon with these flags, and print what was found. Returns the exit status."""
    problem = None
    try:
        configured = load(config=config, socket=socket, state_dir=state_dir, environ=environment)
    except InvalidConfig as error:
        # The rest is examined with what every key is by default.
        problem = str(error)
        without = {name: value for name, value in environment.items() if name != "RUNNERS_CONFIG"}
        configured = load(socket=socket, state_dir=state_dir, environ=without, read_file=_nothing)
    groups = [
        (group, [_shown(one) for one in found]) for group, found in examine(gather(configured, problem, environment))
    ]
    name = os.uname().nodename
    if as_json:
        head = {"version": runners.__version__, "host": name}
        sys.stdout.write(json.dumps(report.document(groups, head), indent=2) + "\n")
    else:
        terminal = output()
        title = f"runnersd doctor · runners {runners.__version__} · {name}"
        drawn = report.drawn(
            groups, title, terminal.width, colour=terminal.colour, unicode=terminal.unicode, root=os.geteuid() == 0
        )
        for line in drawn if terminal.interactive else report.plain(groups):
            sys.stdout.write(line + "\n")
    sys.stdout.flush()
    return int(any(one.level is Level.FAILURE for _name, findings in groups for one in findings))


def _shown(finding: Finding) -> Finding:
    """Without what would move a terminal's cursor: some of the text is the engine's."""
    text = "\n".join(clean(line) for line in finding.text.splitlines())
    return replace(finding, text=text, fix=tuple(map(clean, finding.fix)))


def _nothing(path: Path) -> NoReturn:
    raise FileNotFoundError(path)
