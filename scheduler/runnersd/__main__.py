"""`runnersd`: flags, variables and the file become a configuration, and the daemon runs until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence

import runners
from runners.errors import RunnersError
from runners.standard_streams import open_closed_streams
from runnersd.config import Config
from runnersd.config_load import load
from runnersd.logs import set_up


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon, or examine the machine for one.

    Exit status 0 when asked to stop, 1 when it could not go on, 2 for a wrong flag or file; for `doctor` 1 when there
    is a failure.
    """
    open_closed_streams()
    parser = _parser()
    flags = parser.parse_args(argv)
    if flags.command == "doctor":
        from runnersd.doctor.command import doctor

        return doctor(config=flags.config, socket=flags.socket, state_dir=flags.state_dir, as_json=flags.json)
    if flags.json:
        parser.error("--json goes with doctor")

    def configured() -> Config:
        return load(config=flags.config, socket=flags.socket, state_dir=flags.state_dir, environ=os.environ)

    try:
        config = configured()
    except RunnersError as error:
        print(f"runnersd: {error}", file=sys.stderr)  # noqa: T201
        return error.exit
    if flags.check_config:
        assert config.paths is not None, "load says where the daemon lives"
        print(f"{config.paths.file}: ok" if config.paths.file.exists() else "ok: every key has its default")  # noqa: T201
        return 0
    set_up(config.log)
    # The daemon's own files are nobody else's; what a job creates follows its submitter's umask.
    os.umask(0o077)
    try:
        import uvloop
        from runnersd.daemon import run  # isort: skip  (heavy: `--check-config` and `--version` answer without it)
    except ModuleNotFoundError as missing:
        how = "`pip install 'runnersd[daemon]'` brings it"
        print(f"runnersd: cannot start: {missing.name} is missing; {how}", file=sys.stderr)  # noqa: T201
        return 1

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(run(config, configured))
    except RunnersError as error:
        print(f"runnersd: {error}", file=sys.stderr)  # noqa: T201
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="runnersd", description="Runs queued jobs on this machine's GPUs.")
    parser.add_argument(
        "command",
        nargs="?",
        choices=["doctor"],
        help="doctor: examine this machine and say what mends it; runs nothing",
    )
    parser.add_argument("--config", metavar="F", help="the configuration file")
    parser.add_argument("--socket", metavar="P", help="where to listen")
    parser.add_argument("--state-dir", metavar="D", help="where jobs, logs and results are kept")
    parser.add_argument("--check-config", action="store_true", help="say whether the configuration is right, and exit")
    parser.add_argument("--json", action="store_true", help="with doctor: one JSON document and nothing else")
    parser.add_argument("--version", action="version", version=f"runnersd {runners.__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
