"""`submit` and `validate`: pipeline files, read here, queued by the daemon."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from runners.api import JobView
from runners.client import Client
from runners.errors import DaemonUnreachable, InvalidPipeline, InvalidRequest
from runners.events import EventStream
from runners.following import subscribe
from runners.pipeline.files import Loaded, to_wire
from runners.render.terminal import redraws
from runners.spec import PipelineSpec

from .options import Words
from .sentences import advice, print_json, queued, say, summary
from .submission import Surroundings, experiments_of, load_all, of_files, surroundings
from .wait import left_running, until_over, verdict


def submit(words: Words) -> int:
    """Queue all the files' jobs, or none; then wait for them or watch them, if asked to."""
    files, client = words.all("FILE"), Client(words.text("socket"))
    if words.text("name") and len(files) > 1:
        raise InvalidRequest(f"cannot submit: --name is one pipeline's name, and there are {len(files)} files")
    return queue(client, files, load_all(files, client), words)


def queue(client: Client, files: list[str], loaded: Sequence[Loaded], words: Words) -> int:
    """Queue what was read from files, as the options of `submit` say, with the experiments that it names made."""
    dry_run = words.has("dry-run")
    experiments = experiments_of(loaded)
    ours = surroundings()
    wires = _wires([one.spec for one in loaded], ours, words)
    stays = (words.has("wait") or words.has("follow")) and not dry_run
    stream = subscribe(client) if stays else None
    try:
        names = [wire["name"] for wire in wires]
        try:
            if experiments is not None and not dry_run:
                client.submit(wires, dry_run=True)  # what the daemon refuses is not made
                wires = _wires(experiments.make(ours.cwd), ours, words)
            made = client.submit(wires, dry_run=dry_run)
        except InvalidRequest as error:
            if experiments is not None:
                experiments.undo()
            if isinstance(error, InvalidPipeline):
                raise of_files(error, files, loaded) from None
            raise
        except DaemonUnreachable:
            if dry_run:  # the files are right, and that much can be said
                _show([_made_of(one.spec) for one in loaded], names, words)
            raise
        if dry_run and not words.has("json"):
            _foresee(made, names, client)
            return 0
        if stream is None:
            _show(made, names, words)
            return 0
        return _stay(client, stream, made, names, words)
    finally:
        if stream is not None:
            stream.close()


def _wires(specs: Sequence[PipelineSpec], ours: Surroundings, words: Words) -> list[dict[str, Any]]:
    """What is sent: the pipelines, with what the command line and the surroundings say."""
    wires = [
        to_wire(
            spec,
            cwd=ours.cwd,
            environment=ours.env,
            umask=ours.umask,
            after=[int(id) if id.isdigit() else id for id in words.all("after")],
            hold=words.has("hold"),
            priority=words.number("priority"),
        )
        for spec in specs
    ]
    name = words.text("name")
    if name:
        wires[0]["name"] = name
    return wires


def validate(words: Words) -> int:
    """Check files, and show what they would queue."""
    files, client = words.all("FILE"), Client(words.text("socket"))
    loaded = load_all(files, client)
    experiments_of(loaded)
    specs = [one.spec for one in loaded]
    if words.has("json"):
        documents = [_document(spec) for spec in specs]
        print_json(documents[0] if len(documents) == 1 else {"pipelines": documents})
        return 0
    for spec in specs:
        sys.stdout.write(queued(_made_of(spec), spec.name, sys.stdout.isatty()) + "\n")
    return 0


def _made_of(spec: PipelineSpec) -> dict[str, Any]:
    return {"pipeline": None, "jobs": [{"id": None, "name": job.name} for job in spec.jobs]}


def _foresee(made: Sequence[dict[str, Any]], names: Sequence[str], client: Client) -> None:
    """What the daemon says of jobs that are not queued: when each would start, and why not now."""
    from runners.render.foretold import foreseen

    cards = any(job.get("gpus") for one in made for job in one["jobs"])
    indices = {gpu["uuid"]: gpu["index"] for gpu in client.gpus()} if cards else {}
    for one, name in zip(made, names, strict=True):
        said = [foreseen(job, indices, time.time()) for job in one["jobs"]]
        sys.stdout.write(queued(one, name, sys.stdout.isatty(), said) + "\n")


def _document(spec: PipelineSpec) -> dict[str, Any]:
    return {"name": spec.name, "num_jobs": spec.num_jobs, "jobs": [job.to_json() for job in spec.jobs]}


def _show(made: Sequence[dict[str, Any]], names: Sequence[str], words: Words) -> None:
    if words.has("json"):
        print_json(made[0] if len(made) == 1 else {"pipelines": list(made)})
        return
    for one, name in zip(made, names, strict=True):
        sys.stdout.write(queued(one, name, sys.stdout.isatty()) + "\n")


def _stay(
    client: Client, stream: EventStream, made: Sequence[dict[str, Any]], names: Sequence[str], words: Words
) -> int:
    """Until all jobs are over. Ctrl-C leaves them running."""
    json, live = words.has("json"), words.has("follow")
    ids = [one["pipeline"] for one in made]
    numbers = [job["id"] for one in made for job in one["jobs"]]
    try:
        if live and not json and redraws(sys.stdout):
            from .follow import follow_live

            jobs = follow_live(client, stream, made, names)
        else:
            if not json:
                _show(made, names, words)
                sys.stdout.flush()
            lines = "none" if json else "all" if live else "ended"
            jobs = until_over(client, ids, lines=lines, stream=stream, queued=numbers)
    except KeyboardInterrupt:
        return left_running(ids)
    if json:
        _show(_with_ends(made, jobs), names, words)
    else:
        say(f"{' '.join(ids)}: {summary(jobs)}")
        if advice(jobs):
            say(advice(jobs))
    return verdict(jobs)


def _with_ends(made: Sequence[dict[str, Any]], jobs: Sequence[JobView]) -> list[dict[str, Any]]:
    """The answer to the submission, each job with how it ended."""
    ends = {job["id"]: job for job in jobs}
    return [
        {
            "pipeline": one["pipeline"],
            "jobs": [
                {**job, "state": ends[job["id"]]["state"], "exit_code": ends[job["id"]]["exit_code"]}
                for job in one["jobs"]
            ],
        }
        for one in made
    ]
