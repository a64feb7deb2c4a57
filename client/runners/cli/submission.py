"""What a submission says beside its jobs: where it comes from, and what its files leave to the daemon."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, NamedTuple

from runners.errors import InvalidPipeline, InvalidRequest, Problem, RunnersError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runners.api import DaemonView
    from runners.client import Client
    from runners.experiments.submission import Experiments
    from runners.pipeline.files import Loaded


#: Where the daemon finds a mistake: in which pipeline, in which of its jobs, at which key.
_PLACE = re.compile(r"(?:pipelines\[(\d{1,9})\]\.?)?(?:jobs\[(\d{1,9})\](?:\.(\w+))?)?(.*)", re.ASCII | re.DOTALL)


class Surroundings(NamedTuple):
    """What the jobs will have of ours: the directory, the whole environment, and the umask."""

    cwd: str
    env: dict[str, str]
    umask: int


def surroundings() -> Surroundings:
    """Ours. A variable that is not UTF-8 cannot travel as JSON; it is named on standard error and left out."""
    umask = os.umask(0o077)
    os.umask(umask)
    env = {}
    for name, value in os.environ.items():
        try:
            f"{name}{value}".encode()
        except UnicodeEncodeError:
            sys.stderr.write(f"runners-client: the jobs will not have the variable {name!a}: it is not UTF-8\n")
        else:
            env[name] = value
    return Surroundings(_directory(), env, umask)


def load_all(files: list[str], client: Client) -> list[Loaded]:
    """The pipelines of files. Raises :class:`InvalidPipeline` with every mistake of all of them.

    Directories that our environment does not set, and what scripts are that say nothing else, are the daemon's, where
    one answers.
    """
    from runners.pipeline.files import load_located, reading_once  # brings YAML, which `run` has no use for

    daemon: DaemonView | None = None
    loaded: list[Loaded] = []
    messages: list[str] = []
    read_file = reading_once()
    for file in files:
        wrong: InvalidPipeline | None = None
        try:
            found = load_located(file, environment=os.environ, read_file=read_file)
        except InvalidPipeline as error:
            wrong = error
        if wrong is not None or found.scripts:
            daemon = daemon or _who_answers(client)
            directories, script_args = daemon.get("directories"), daemon.get("default_script_args")
            if script_args or (wrong is not None and directories):
                wrong = None
                try:
                    found = load_located(
                        file, environment=os.environ, daemon_directories=directories, script_args=script_args,
                        read_file=read_file,
                    )  # fmt: skip
                except InvalidPipeline as error:
                    wrong = error
        if wrong is None:
            loaded.append(found)
        else:
            messages.append(str(wrong))
    if messages:
        raise InvalidPipeline("\n".join(messages))
    return loaded


def experiments_of(loaded: Sequence[Loaded]) -> Experiments | None:
    """The experiments that jobs of pipelines name, looked at; None where there are none.

    Raises:
        InvalidPipeline: some will not do.
    """
    if not any(job.experiment or job.comet_offline for one in loaded for job in one.spec.jobs):
        return None
    from runners.experiments.submission import Experiments

    return Experiments(loaded)


def of_files(error: InvalidPipeline, files: list[str], loaded: Sequence[Loaded]) -> InvalidPipeline:
    """What the daemon says of JSON, said of the lines of the files it was made of."""
    found = dict.fromkeys(_of_file(problem, files, loaded) for problem in error.problems)
    return InvalidPipeline(str(error).partition("\n")[0], list(found))


def _of_file(problem: Problem, files: list[str], loaded: Sequence[Loaded]) -> Problem:
    match = _PLACE.match(problem.path)
    pipeline, job, key, rest = match.groups() if match else (None, None, None, "")
    number = int(pipeline or 0)
    if number >= len(files) or (pipeline is None and len(files) > 1):
        return problem
    if job is not None and int(job) < len(loaded[number].spec.jobs):
        path = ("jobs", int(job), key) if key else ("jobs", int(job))
        return loaded[number].locate(path, problem.message)
    return Problem(": ".join(filter(None, (files[number], rest))), problem.message)


def _who_answers(client: Client) -> DaemonView:
    try:
        return client.status(limit=1)["daemon"]
    except RunnersError:  # checking a file needs no daemon; queueing it will say that there is none
        return {"version": "", "pid": 0, "uptime": 0.0, "engine": ""}


def _directory() -> str:
    """The working directory by the name that the person knows, where `$PWD` tells the truth."""
    try:
        here = os.getcwd()
    except FileNotFoundError:
        raise InvalidRequest("cannot submit: the working directory is gone; go to one that is there") from None
    named = os.environ.get("PWD", "")
    try:
        same = os.path.isabs(named) and os.path.samefile(named, here)
    except OSError:
        same = False
    return named if same else here
