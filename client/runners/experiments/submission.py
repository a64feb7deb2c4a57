"""The experiments that a pipeline's jobs name: looked at when its file is checked, made when it is submitted.

By whoever submits, with their rights: the daemon only learns each job's key and path.
"""

from __future__ import annotations

import contextlib
import copy
import getpass
import hashlib
import itertools
import os
import platform
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from runners.errors import InvalidPipeline, InvalidRequest, Problem

from . import configs, folder
from .comet import OFFLINE

if TYPE_CHECKING:
    from runners.pipeline.files import Loaded
    from runners.spec import JobSpec, PipelineSpec

    from .code import Code

#: What stands for the path of an experiment's configuration, beside the key's placeholder.
_PATH = "${EXPERIMENT_PATH}"
_PATHS = "${EXPERIMENT_PATHS}"


@dataclass(slots=True)
class Wanted:
    """One experiment, and the jobs of a pipeline (by position) that work on it. ``path`` is that of its saved file."""

    config: dict[str, Any]
    path: str
    new: bool
    jobs: list[int] = field(default_factory=list)

    @property
    def key(self) -> str:
        return str(self.config["info"]["experiment_key"])


class Experiments:
    """Those of some pipelines that are submitted together. Looking at them makes nothing."""

    def __init__(self, loaded: Sequence[Loaded]) -> None:
        """Look at every file that a job names.

        Raises:
            InvalidPipeline: some will not do, with every problem, each at its line of a pipeline file.
        """
        look = _Look()
        self._specs = [one.spec for one in loaded]
        self._wanted = [look.wanted(one) for one in loaded]
        self._written: list[str] = []
        if look.problems:
            raise InvalidPipeline("cannot use the experiments:", list(dict.fromkeys(look.problems)))

    def make(self, directory: str) -> list[PipelineSpec]:
        """Make those that are new, and note the submission; the pipelines with the keys and paths in their jobs.

        ``directory`` is where it is submitted from: that of the code.

        Raises:
            OSError: a folder cannot be made or written.
        """
        from .code import Code, code_of

        code = code_of(directory) if any(self._wanted) else Code({}, b"")
        return [self._pipeline(*each, code) for each in zip(self._specs, self._wanted, strict=True)]

    def undo(self) -> None:
        """Remove what was written of new ones: their jobs were refused."""
        for path in self._written:
            with contextlib.suppress(OSError):
                os.unlink(path)
        for home in {os.path.dirname(path) for path in self._written}:
            with contextlib.suppress(OSError):
                os.rmdir(home)

    def _pipeline(self, spec: PipelineSpec, wanted: Sequence[Wanted], code: Code) -> PipelineSpec:
        jobs = [with_comet(job) for job in spec.jobs]
        for one in wanted:
            home = os.path.dirname(one.path)
            diff = f"code-{hashlib.sha256(code.diff).hexdigest()[:10]}.diff" if code.diff else None
            if one.new:
                self._written += [os.path.join(home, name) for name in (folder.CONFIG, folder.RECORD, diff) if name]
                folder.save_config(one.config)
            if diff is not None:
                with open(os.path.join(home, diff), "wb") as file:
                    file.write(code.diff)
            for at in one.jobs:
                jobs[at] = with_experiment(jobs[at], one.key, one.path)
                _note(home, spec.name, jobs[at], code, diff)
        paths = [one.path for one in wanted]
        return replace(spec, jobs=tuple(with_paths(job, paths) for job in jobs))


def with_comet(job: JobSpec) -> JobSpec:
    """A job that says in its environment what its `comet_offline` says."""
    return replace(job, env={**(job.env or {}), OFFLINE: "1"}) if job.comet_offline else job


def with_experiment(job: JobSpec, key: str, path: str) -> JobSpec:
    """A job with its experiment's key and path: in its environment, and where placeholders stand for them."""

    def put(text: str) -> str:
        return text.replace(configs.PLACEHOLDER, key).replace(_PATH, path)

    command = put(job.command) if isinstance(job.command, str) else tuple(put(word) for word in job.command)
    env = {name: put(value) for name, value in (job.env or {}).items()}
    return replace(
        job,
        command=command,
        env={**env, "EXPERIMENT_KEY": key, "EXPERIMENT_PATH": path},
        workdir=put(job.workdir) if job.workdir else job.workdir,
        mounts=tuple(put(mount) for mount in job.mounts),
        experiment=path,
    )


def with_paths(job: JobSpec, paths: Sequence[str]) -> JobSpec:
    """A job with the paths of all its pipeline's experiments in its command, where `${EXPERIMENT_PATHS}` stands: in a
    text quoted for the shell, in a list a word each."""
    if isinstance(job.command, str):
        return replace(job, command=job.command.replace(_PATHS, shlex.join(paths)))
    words = [(word,) if word != _PATHS else tuple(paths) for word in job.command]
    return replace(job, command=tuple(itertools.chain.from_iterable(words)))


class _Look:
    """Looks at the experiments of pipelines, each file read once. Nothing is made."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._configs: dict[str, dict[str, Any]] = {}
        self._places: set[str] = set()

    def wanted(self, one: Loaded) -> list[Wanted]:
        """The experiments of one pipeline. Jobs that name the same file share one for each combination."""
        found: dict[tuple[str, str], Wanted] = {}
        for at, job in enumerate(one.spec.jobs):
            if job.experiment is None:
                continue
            beside = one.locate(("jobs", at, "experiment"), "").file
            path = os.path.join(os.path.dirname(beside), job.experiment)
            try:
                config = self._config(path)
                values = one.combinations[at]
                changes = {key: values[key] for key in values if "." in key or configs.has(config, key)}
                combination = sorted(values.items()) if configs.is_new(config) else []
                identity = (os.path.realpath(path), repr(combination))
                if identity not in found:
                    found[identity] = self._one(path, config, changes)
                found[identity].jobs.append(at)
            except (InvalidRequest, OSError) as error:
                why = f"cannot read {path}: {error.strerror or error}" if isinstance(error, OSError) else str(error)
                self.problems.append(one.locate(("jobs", at, "experiment"), why))
        return list(found.values())

    def _config(self, path: str) -> dict[str, Any]:
        if path not in self._configs:
            self._configs[path] = configs.read_config(path)
        return copy.deepcopy(self._configs[path])

    def _one(self, path: str, config: dict[str, Any], changes: Mapping[str, Any]) -> Wanted:
        from runners.experiment_utils import new_experiment

        if not configs.is_new(config):
            if changes:
                raise InvalidRequest(
                    f"cannot use {path}: it is made already, so a matrix cannot change its {', '.join(changes)}; "
                    f"write `experiment_key: {configs.PLACEHOLDER}` for new ones"
                )
            return Wanted(config, os.path.abspath(path), new=False)
        try:
            configs.change(config, changes)
        except InvalidRequest as error:
            raise InvalidRequest(f"cannot use {path}: {error}") from None
        made = new_experiment(config, path)
        place = folder.place_for(made)
        if place in self._places:
            raise InvalidRequest(
                f"cannot use {path}: its experiments would share the folder {os.path.dirname(place)}; "
                f"put {configs.PLACEHOLDER} into `info.output_folder`"
            )
        self._places.add(place)
        return Wanted(made, place, new=True)


def _note(home: str, pipeline: str, job: JobSpec, code: Code, diff: str | None) -> None:
    """Write down who submits which job on an experiment, and with which code."""
    folder.note(
        home, "submitted", at=time.time(), user=getpass.getuser(), host=platform.node(), pipeline=pipeline,
        name=job.name, command=job.command, run_in=job.run_in, image=job.image, code=code.facts or None, diff=diff,
    )  # fmt: skip
