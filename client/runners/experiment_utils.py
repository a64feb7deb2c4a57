"""Loads experiments, makes the new ones, and saves their configurations.

An experiment's file is YAML with an `info`:

    info:
      project_name: musdb
      experiment_key: ${EXPERIMENT_KEY}                                  # until it has one
      output_folder: ${ARTIFACTS_DIRECTORY}/musdb/${EXPERIMENT_KEY}
    train_config: {learning_rate: 0.001}
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any


def load_experiment(path_to_yml_file: str | os.PathLike[str]) -> tuple[dict[str, Any], Any, str]:
    """Load an experiment, given the path to its configuration.

    If there is no key in `info.experiment_key`, or only the placeholder `${EXPERIMENT_KEY}`, then this is a new
    experiment. It gets a random key, which takes the placeholder's place everywhere, and a folder: its
    `info.output_folder`, else `<artifacts directory>/<project_name>/<key>`. Its configuration is saved there.

    If Comet is wanted, the experiment is Comet's too, under the same key. It is *online* where `COMET_API_KEY` is set.
    It is *offline*, an archive in the folder that `comet upload` takes, where `info.comet_offline` or the job's
    `comet_offline` says so, or where Comet does not answer. An experiment that was made before is gone on with.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with open(f"{folder}/new.yml", "w") as file:
    ...     _ = file.write(f"info: {{output_folder: '{folder}/${{EXPERIMENT_KEY}}'}}")
    >>> config, exp, path = load_experiment(f"{folder}/new.yml")
    >>> path == f"{folder}/{config['info']['experiment_key']}/config.yml"
    True
    >>> load_experiment(path) == (config, None, path)
    True

    Args:
        path_to_yml_file: Path to the file with the experiment's configuration.

    Returns:
        3-element tuple containing

        - config (dict): the configuration of the experiment.
        - exp (comet_ml.CometExperiment): the experiment on Comet if it is wanted, otherwise None.
        - path_to_yml_file (str): the path to the saved configuration; it is another than was given if the experiment
          was a new one.

    Raises:
        OSError: the file cannot be read, or the folder not written.
        runners.errors.InvalidRequest: the file is no configuration of an experiment; the message says why.
    """
    from .errors import InvalidRequest
    from .experiments import comet, configs, job
    from .experiments.folder import save_config

    path = os.fspath(path_to_yml_file)
    config = configs.read_config(path)
    if configs.is_new(config):
        config = new_experiment(config, path)
        path = save_config(config)
        located = config
    else:
        try:
            located = configs.placed(config, config["info"]["experiment_key"], _artifacts())
        except InvalidRequest as error:
            raise InvalidRequest(f"cannot use {path}: {error}") from None
    exp = comet.connect(located)
    if exp is not None:
        _log(config, exp, path)
    job.joined(located, exp)
    return config, exp, path


def save_experiment(config: Mapping[str, Any], exp: Any = None) -> str:
    """Save an experiment's configuration to its folder, `info.output_folder`, as `config.yml`.

    Args:
        config: The configuration, with all that is needed to make the experiment again with the code there is.
        exp: The experiment on Comet, if it has one. The parameters there become those of the configuration, flattened:
            `train_config_learning_rate`.

    Returns:
        Path to the file that the configuration was saved to.

    Raises:
        OSError: the file cannot be written.
        ValueError: two of its keys would be one parameter.
        runners.errors.InvalidRequest: it has no `info`, no folder, or a folder that is another experiment's.
    """
    from .experiments.folder import save_config

    parameters(config)
    path = save_config(config)
    if exp is not None:
        _log(config, exp, path)
    return path


def new_experiment(config: Mapping[str, Any], file: str) -> dict[str, Any]:
    """A new experiment's configuration, with its key and its folder. Nothing is written. ``file`` is for messages.

    Raises:
        runners.errors.InvalidRequest: it has no folder to be put into, or two of its keys would be one parameter.
    """
    from .errors import InvalidRequest
    from .experiments import configs
    from .utils import make_random_string

    try:
        made = configs.placed(config, make_random_string(configs.KEY_LENGTH), _artifacts())
        parameters(made)
    except (InvalidRequest, ValueError) as error:
        raise InvalidRequest(f"cannot use {file}: {error}") from None
    return made


def parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as Comet has it, one level deep.

    >>> parameters({"train_config": {"learning_rate": 0.001}})
    {'train_config_learning_rate': 0.001}

    Raises:
        ValueError: two of its keys would be one parameter.
    """
    from .utils import flatten

    return flatten(config)


def _log(config: Mapping[str, Any], exp: Any, path: str) -> None:
    exp.log_parameters(parameters(config))
    exp.log_asset(path, "config.yml", overwrite=True)


def _artifacts() -> str | None:
    from . import config

    return os.environ.get("ARTIFACTS_DIRECTORY") or config.artifacts_directory
