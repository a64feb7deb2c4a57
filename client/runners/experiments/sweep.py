"""The pipeline that a sweep is: each stage for every combination, one stage after the other, as a barrier.

An experiment's `sweep` says what to vary, and what runs:

    sweep:
      over: {train_config.lr: [0.1, 0.01], seed: [0, 1, 2]}      # or a list of such; every combination
      train: {command: "python train.py ${EXPERIMENT_PATH}", num_gpus: 1}
      analyze: {command: "python report.py ${EXPERIMENT_PATHS}"}

The first library's form is a list of what to vary, whose stages are the scripts of these names.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from runners.errors import InvalidPipeline, InvalidRequest, Problem

from . import configs

if TYPE_CHECKING:
    from runners.pipeline.files import Loaded
    from runners.pipeline.reader import Node

#: In the order they run in. The last one is one job for all experiments.
STAGES = ("cache", "train", "evaluate", "analyze")
#: What `sweep` may say beside its stages.
KEYS = ("over", "defaults", "num_jobs")
#: Holds lists of mappings that are varied together, not multiplied.
JOINT = "multiple_parameters"
_OF_THE_CACHE = ("populate_cache", "num_cache_workers")


def pipeline(path: str, *, num_gpus: int | None = None, num_jobs: int | None = None) -> Loaded:
    """The pipeline of a sweep's file, checked; nothing is made. The arguments take the place of what the file says.

    Raises:
        OSError: it cannot be read.
        InvalidRequest: it is no experiment, or has no usable `sweep`.
        InvalidPipeline: a stage will not do, with every problem at its line.
    """
    import yaml

    from runners.pipeline.files import load_text
    from runners.pipeline.reader import read

    config = configs.read_config(path)
    try:
        document = document_of(config, os.path.basename(path), num_gpus, num_jobs)
    except InvalidRequest as error:
        raise InvalidRequest(f"cannot sweep {path}: {error}") from None
    with open(path, "rb") as file:
        root = read(file.read(), path, {}, lambda problem: None)
    stages = [job["name"] for job in document["jobs"]]

    def at_home(problem: Problem) -> Problem:
        steps = _steps(problem.path, stages)
        return Problem(".".join(steps), problem.message, path, _line(root, steps))

    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode()
    try:
        loaded = load_text(text, file=path, environment=os.environ)
    except InvalidPipeline as error:
        raise InvalidPipeline(f"cannot sweep {path}:", [at_home(problem) for problem in error.problems]) from None
    return loaded._replace(locate=lambda place, message: at_home(loaded.locate(place, message)))


def document_of(
    config: Mapping[str, Any], file: str, num_gpus: int | None = None, num_jobs: int | None = None
) -> dict[str, Any]:
    """The sweep of a configuration as a pipeline file, whose experiments are those of ``file``.

    Raises:
        InvalidRequest: there is no `sweep`, or it says what it cannot.
    """
    sweep = config.get("sweep")
    if sweep is None:
        raise InvalidRequest("it has no `sweep`: expected what to vary, such as `sweep: {over: {seed: [0, 1]}, ...}`")
    if not configs.is_new(config):
        raise InvalidRequest(f"it is made already; write `experiment_key: {configs.PLACEHOLDER}` for new experiments")
    given = _first_form(sweep) if isinstance(sweep, list) else sweep
    if not isinstance(given, dict):
        raise InvalidRequest(f"`sweep`: expected a mapping with `over` and stages, found {sweep!r}")
    unknown = [key for key in given if key not in (*KEYS, *STAGES)]
    if unknown:
        raise InvalidRequest(f"`sweep` has the unknown key {unknown[0]!r}; it may have {', '.join((*KEYS, *STAGES))}")
    stages = [name for name in STAGES if given.get(name) is not None]
    if not stages:
        raise InvalidRequest(f"`sweep` has no stage; at least one of {', '.join(STAGES)}")
    matrix = [dict(one) for one in combinations(given.get("over"), config)]
    jobs = [_stage(name, given[name], file, matrix, num_gpus) for name in stages]
    document: dict[str, Any] = {"name": os.path.splitext(file)[0], "jobs": jobs}
    for key, value in (("num_jobs", num_jobs or given.get("num_jobs")), ("defaults", given.get("defaults"))):
        if value is not None:
            document[key] = value
    return document


def combinations(over: Any, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination of what is varied: of a mapping, or of each of a list of them in turn.

    >>> combinations({"lr": [0.1, 0.01], "seed": 3}, {"train": {"lr": 1, "seed": 0}})
    [{'lr': 0.1, 'seed': 3}, {'lr': 0.01, 'seed': 3}]
    >>> combinations({"multiple_parameters": [{"lr": 1, "seed": 1}, {"lr": 2, "seed": 2}]}, {"lr": 0, "seed": 0})
    [{'lr': 1, 'seed': 1}, {'lr': 2, 'seed': 2}]

    Raises:
        InvalidRequest: nothing is varied, or something that the configuration does not have.
    """
    items = over if isinstance(over, list) else [over]
    if not items or not all(isinstance(item, dict) and item for item in items):
        raise InvalidRequest("`sweep.over`: expected a mapping of keys to lists of values, or a list of such")
    found = [combination for item in items for combination in _product(item)]
    for key in dict.fromkeys(key for combination in found for key in combination):
        if "." not in key and not configs.has(config, key):
            raise InvalidRequest(
                f"`sweep.over`: the experiment has no key {key!r} anywhere; name one that it has, or a dotted path"
            )
    return found


def _product(item: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    axes: list[list[dict[str, Any]]] = []
    for key, value in item.items():
        values = value if isinstance(value, list) else [value]
        if not values:
            raise InvalidRequest(f"`sweep.over.{key}`: an empty list makes no experiments")
        if JOINT not in str(key):
            axes.append([{str(key): one} for one in values])
        elif all(isinstance(one, dict) and one for one in values):
            axes.append(values)
        else:
            raise InvalidRequest(f"`sweep.over.{key}`: expected a list of mappings")
    for parts in itertools.product(*axes):
        yield {key: value for part in parts for key, value in part.items()}


def _first_form(sweep: list[Any]) -> dict[str, Any]:
    """A list of what to vary, as the first library had it: its stages are scripts."""
    if not all(isinstance(item, dict) for item in sweep):
        raise InvalidRequest("`sweep`: expected a list of mappings")
    over = [{key: value for key, value in item.items() if key not in _OF_THE_CACHE} for item in sweep]
    each = {"config": "-p ${EXPERIMENT_PATH}"}
    given: dict[str, Any] = {
        "over": over,
        "train": {"script": "train", **each},
        "evaluate": {"script": "evaluate", **each},
        "analyze": {"script": "analyze", "config": "-p ${EXPERIMENT_PATHS}"},
    }
    if any(item.get("populate_cache") for item in sweep):
        workers = max(int(item.get("num_cache_workers") or 1) for item in sweep)
        given["cache"] = {"script": "cache", **each, "num_gpus": 0, "num_workers": workers}
    return given


def _stage(name: str, given: Any, file: str, matrix: list[dict[str, Any]], num_gpus: int | None) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise InvalidRequest(f"`sweep.{name}`: expected a mapping of job keys, found {given!r}")
    taken = [key for key in ("name", "matrix", "experiment", "blocking", "needs", "pipeline") if key in given]
    if taken:
        raise InvalidRequest(f"`sweep.{name}.{taken[0]}`: that is the sweep's to say; leave it out")
    if name == "analyze":
        return {"name": name, "num_gpus": 0, **given, "blocking": True}
    cards = {} if num_gpus is None or name == "cache" else {"num_gpus": num_gpus}
    return {"name": name, **given, **cards, "experiment": file, "matrix": matrix, "blocking": True}


def _steps(path: str, stages: list[str]) -> list[str]:
    """A key path of the pipeline as one of the experiment's file: `jobs[1].num_gpus` is `sweep.train.num_gpus`."""
    first, _, rest = path.partition(".")
    if not first.startswith("jobs["):
        return ["sweep", *filter(None, path.split("."))]
    stage = stages[int(first[5:].partition("]")[0])]
    if rest.startswith(("matrix", "experiment")):
        return ["sweep", "over"]
    return ["sweep", stage, *filter(None, [rest.partition("[")[0]])]


def _line(root: Node | None, steps: list[str]) -> int:
    """Where a key stands, or the last one on the way to it that is there; 1 at worst."""
    line, at = 1, root
    for step in steps:
        entry = getattr(at, "entries", {}).get(step)
        if entry is None:
            break
        line, at = entry.line, entry.node
    return line
