"""Where things are, and what a script gets that says nothing itself.

The directories come from the environment, as `configs/environment/default.sh` sets it; one that is not set is None.
They may be set here too, before a job is made: what is here goes into the environment of jobs that
:class:`runners.docker_runner.DockerRunner` and :class:`runners.script_runner_pool.ScriptRunnerPool` make.
"""

from __future__ import annotations

import os
from typing import Any

#: Where experiments leave their results, each in a folder of its own. Containers have it at the same place, and at
#: `/storage/artifacts`. From `$ARTIFACTS_DIRECTORY`.
artifacts_directory: str | None = os.environ.get("ARTIFACTS_DIRECTORY") or None

#: Where zarr caches of inputs and targets are. They can be made again, and grow large. Containers have it at the same
#: place, and at `/storage/cache`. From `$CACHE_DIRECTORY`.
cache_directory: str | None = os.environ.get("CACHE_DIRECTORY") or None

#: Where the scripts are: `/workspace` in a container, which starts there. None is the current working directory.
code_directory: str | None = None

#: Where data to train on and to evaluate with is. Containers have it at the same place, and at `/storage/data`. From
#: `$DATA_DIRECTORY`.
dataset_directory: str | None = os.environ.get("DATA_DIRECTORY") or None

#: A working copy of nussl, to be imported in place of the installed one. Containers have it on `PYTHONPATH`. From
#: `$NUSSL_DIRECTORY`.
nussl_directory: str | None = os.environ.get("NUSSL_DIRECTORY") or None

#: What a script is run with where it does not say otherwise.
default_script_args: dict[str, Any] = {"blocking": False, "num_gpus": 0, "num_workers": 1, "run_in": "host"}


def job_environment(environment: dict[str, str]) -> dict[str, str]:
    """``environment`` with the directories that are set here, under their variables' names.

    >>> job_environment({"HOME": "/home/ada"})["HOME"]
    '/home/ada'
    """
    set_here = {
        "DATA_DIRECTORY": dataset_directory,
        "CACHE_DIRECTORY": cache_directory,
        "ARTIFACTS_DIRECTORY": artifacts_directory,
        "NUSSL_DIRECTORY": nussl_directory,
    }
    return {**environment, **{name: str(value) for name, value in set_here.items() if value}}
