"""Reads a pipeline file from disk, and makes of it what `POST /v1/pipelines` takes."""

from __future__ import annotations

import errno
import gc
import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from runners.errors import InvalidPipeline, Problem
from runners.pipeline import schema
from runners.pipeline.checking import Enough, Path
from runners.pipeline.expand import Expansion
from runners.pipeline.library import ReadFile
from runners.pipeline.reader import MAX_BYTES
from runners.pipeline.substitution import directory_values
from runners.spec import PipelineSpec


class Loaded(NamedTuple):
    """A file's pipeline; ``locate``: what is wrong at a key path of its document, said of a line of a file; each job's
    values of its matrix, by key; and whether any job has a `script`."""

    spec: PipelineSpec
    locate: Callable[[Path, str], Problem]
    combinations: Sequence[Mapping[str, Any]]
    scripts: bool


def load(
    path: str | os.PathLike[str],
    *,
    environment: Mapping[str, str],
    daemon_directories: Mapping[str, str] | None = None,
    now: float | None = None,
) -> PipelineSpec:
    """The pipeline in a file and in the files it names, checked.

    ``environment`` is the submitter's: `${DATA_DIRECTORY}` and its sisters come from it, else from
    ``daemon_directories`` (by the same names). ``now`` is Unix seconds, for `begin: +2h`; the clock's by default.

    Raises:
        InvalidPipeline: it cannot be read, or is wrong; the problems name every mistake by file, line and key path.
    """
    return load_located(path, environment=environment, daemon_directories=daemon_directories, now=now).spec


def load_located(
    path: str | os.PathLike[str],
    *,
    environment: Mapping[str, str],
    daemon_directories: Mapping[str, str] | None = None,
    script_args: Mapping[str, Any] | None = None,
    now: float | None = None,
    read_file: ReadFile | None = None,
) -> Loaded:
    """As :func:`load`, for a caller who may learn later that something in the pipeline will not do.

    ``script_args`` are what jobs with a `script` are when the file says nothing else. ``read_file`` reads files in
    place of the disk: :func:`reading_once`, for a caller who loads a pipeline twice.

    Raises:
        InvalidPipeline: as :func:`load`.
    """
    return _load(os.fspath(path), read_file or _read_file, environment, daemon_directories, now, script_args)


def reading_once() -> ReadFile:
    """Reads each file once, however often it is asked for: a pipe has its text only once."""
    known: dict[tuple[str, bool], tuple[str, bytes]] = {}

    def read(path: str, regular: bool) -> tuple[str, bytes]:
        if (path, regular) not in known:
            known[path, regular] = _read_file(path, regular)
        return known[path, regular]

    return read


def load_text(
    text: bytes,
    *,
    file: str,
    environment: Mapping[str, str],
    daemon_directories: Mapping[str, str] | None = None,
    now: float | None = None,
) -> Loaded:
    """The pipeline in a text that is in no file, as :func:`load_located` reads one: ``file`` is what messages call it.

    Files that it names are relative to the working directory.
    """

    def read_file(path: str, regular: bool) -> tuple[str, bytes]:
        return _read_file(path, regular) if regular else (file, text)

    return _load(file, read_file, environment, daemon_directories, now)


def _load(
    file: str,
    read_file: ReadFile,
    environment: Mapping[str, str],
    daemon_directories: Mapping[str, str] | None,
    now: float | None,
    script_args: Mapping[str, Any] | None = None,
) -> Loaded:
    directories = directory_values(environment, daemon_directories or {})
    expansion = Expansion(read_file, directories, time.time() if now is None else now, script_args or {})
    spec = None
    collecting = gc.isenabled()
    gc.disable()  # a large file makes a million objects that all stay: looking for garbage takes a third of the time
    try:
        expansion.run(file)
        spec = schema.read_pipeline(expansion.document, expansion.check, missing=expansion.jobs.missing)
    except OSError as error:
        raise InvalidPipeline(f"cannot read {file}: {error.strerror or error}") from None
    except Enough:
        spec = None
    finally:
        if collecting:
            gc.enable()
    if spec is None or expansion.check.count:
        raise InvalidPipeline(f"cannot use {file}:", _in_order(expansion.check.problems, expansion.library.files))
    return Loaded(spec, expansion.source.locate, expansion.jobs.combinations, expansion.scripts)


def _read_file(path: str, regular: bool) -> tuple[str, bytes]:
    """A file's true path and its content, no more of it than says that it is too large.

    The outermost may be a pipe (`submit <(generate)`); one that a file names must not be: reading it could hang.
    """
    if regular and not stat.S_ISREG(os.stat(path).st_mode) and not os.path.isdir(path):
        raise OSError(errno.EINVAL, "Not a regular file")
    with open(path, "rb") as stream:
        return os.path.realpath(path), stream.read(MAX_BYTES + 1)


def _in_order(problems: Sequence[Problem], files: Sequence[str]) -> list[Problem]:
    """By file, as they were first read, and line."""
    order = {file: position for position, file in enumerate(files)}
    return sorted(problems, key=lambda problem: (order.get(problem.file, len(order)), problem.line))


def to_wire(
    spec: PipelineSpec,
    *,
    cwd: str,
    environment: Mapping[str, str],
    umask: int = 0o022,
    after: Sequence[int | str] = (),
    hold: bool = False,
    priority: int | None = None,
) -> dict[str, Any]:
    """What `POST /v1/pipelines` takes: the pipeline, and where and how it is submitted.

    ``environment`` holds UTF-8 only: a variable that is not cannot travel as JSON, and the daemon refuses it.
    """
    wire: dict[str, Any] = {
        "name": spec.name,
        "num_jobs": spec.num_jobs,
        "jobs": [job.to_json() for job in spec.jobs],
        "barriers": [{"first": barrier.first, "last": barrier.last, "on": barrier.on} for barrier in spec.barriers],
        "items": list(spec.items),
        "cwd": cwd,
        "env": dict(environment),
        "umask": umask,
        "after": list(after),
        "hold": hold,
    }
    if priority is not None:
        wire["priority"] = priority
    return wire
