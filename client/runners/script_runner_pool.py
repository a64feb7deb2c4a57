"""Runs lists of scripts through the daemon, in sequence or side by side."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import JobView
    from .client import Client
    from .spec import PipelineSpec

#: In place of the exit code of a script that was never started: a blocking one above it failed, or it was cancelled.
NOT_STARTED = 125

log = logging.getLogger(__name__)


class ScriptRunnerPool:
    """Runs scripts with their arguments, at most ``max_workers`` at once, on cards that the daemon keeps for them.

    Args:
        max_workers: How many scripts run at the same time. Defaults to 10.
    """

    def __init__(self, max_workers: int = 10) -> None:
        if max_workers < 1:
            raise ValueError(f"max_workers is {max_workers}: at least one script must run at a time")
        self.max_workers = max_workers

    def submit(self, scripts: Sequence[Mapping[str, Any]]) -> list[int]:
        """Run all scripts, and come back when the last is over.

        The list is walked in order. A script that is ``blocking`` holds up what is below it until it has ended well; if
        it fails, what is below is not run. A script with ``num_gpus`` waits until the daemon can give it so many cards,
        which are its own until it ends. A daemon is started where none answers. Ctrl-C leaves the scripts running.

        Args:
            scripts: What to run: each a mapping with the keys of a pipeline file's job, such as `script` and `config`,
                or `command`. What it does not say comes from :data:`runners.config.default_script_args`.

        Returns:
            The exit codes, in the order of the list; 125 for a script that was never started. A script with a `matrix`
            has one for each combination.

        Raises:
            runners.errors.InvalidPipeline: something in the list is wrong, with every mistake. Nothing was run.
        """
        if not scripts:
            return []
        from . import own_daemon
        from .utils import disp_script

        client = own_daemon.answering()
        spec = _pipeline(scripts, self.max_workers, client)
        for script in scripts:
            disp_script(script)
        ours = _submission(spec)
        [made] = client.submit([ours])
        log.info("%s: %d scripts, as jobs %d to %d", made["pipeline"], len(made["jobs"]),
                 made["jobs"][0]["id"], made["jobs"][-1]["id"])  # fmt: skip
        return [_code(job) for job in client.wait(made["pipeline"], each=_tell)]


def job_runner(script: Mapping[str, Any]) -> int:
    """Run one script through the daemon, and return its exit code when it is over.

    Args:
        script: What to run, as in the list of :meth:`ScriptRunnerPool.submit`.
    """
    return ScriptRunnerPool(max_workers=1).submit([script])[0]


def _pipeline(scripts: Sequence[Mapping[str, Any]], max_workers: int, client: Client) -> PipelineSpec:
    """The scripts as a pipeline, read by the reader of pipeline files."""
    import yaml

    from . import config
    from .cli.submission import experiments_of
    from .errors import InvalidPipeline, InvalidRequest, Problem
    from .pipeline.files import load_text

    document = {
        "name": "scripts",
        "num_jobs": max_workers,
        "defaults": dict(config.default_script_args),
        "jobs": [dict(script) for script in scripts],
    }
    try:
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode()
    except yaml.YAMLError as error:
        raise InvalidRequest(f"cannot run the scripts: they hold what is not plain data: {error}") from None
    directories = client.status(limit=1)["daemon"].get("directories", {})
    try:
        environment = config.job_environment(dict(os.environ))
        loaded = load_text(text, file="scripts", environment=environment, daemon_directories=directories)
        experiments = experiments_of([loaded])
    except InvalidPipeline as error:
        # There is no file that a line could be looked up in.
        problems = [Problem(one.path.replace("jobs[", "scripts[", 1), one.message) for one in error.problems]
        raise InvalidPipeline("cannot run the scripts:", problems) from None
    if experiments is None:
        return loaded.spec
    client.submit([_submission(loaded.spec)], dry_run=True)  # what the daemon refuses is not made
    [spec] = experiments.make(config.code_directory or os.getcwd())
    return spec


def _submission(spec: PipelineSpec) -> dict[str, Any]:
    from . import config
    from .cli.submission import surroundings
    from .pipeline.files import to_wire

    ours = surroundings()
    environment = config.job_environment(ours.env)
    return to_wire(spec, cwd=config.code_directory or ours.cwd, environment=environment, umask=ours.umask)


def _tell(job: JobView) -> None:
    log.log(
        logging.INFO if job["state"] == "succeeded" else logging.WARNING,
        "job %d (%s) %s: %s; its output: runners-client logs %d",
        job["id"], job["name"], job["state"], job["reason"]["text"], job["id"],
    )  # fmt: skip


def _code(job: JobView) -> int:
    if job["started_at"] is None:
        return NOT_STARTED
    code = job["exit_code"]
    return 1 if code is None else code
