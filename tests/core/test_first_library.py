"""The first library's documentation, name by name: there, documented here too, and quoted by the test that exercises it."""

from __future__ import annotations

import importlib
import inspect

import pytest

from core.pages import ROOT

#: What is documented, by module; and the tests that exercise it and quote what its documentation says.
NAMES = {
    "config": "artifacts_directory cache_directory code_directory dataset_directory default_script_args nussl_directory",
    "docker_runner": "DockerRunner DockerRunner.run",
    "experiment_utils": "load_experiment save_experiment",
    "run_in_docker": "run_in_docker",
    "script_runner_pool": "ScriptRunnerPool ScriptRunnerPool.submit job_runner",
    "utils": "deep_update disp_script dump_yaml env_variables flatten load_yaml make_random_string modify_yml_with_env parse_yaml",
}
TESTS = [
    ROOT / "tests" / name
    for name in (
        "client/test_experiments.py", "client/test_utils.py", "daemon/test_library.py", "daemon/test_library_containers.py",
    )
]  # fmt: skip
EVERY = [(module, name) for module, names in NAMES.items() for name in names.split()]


@pytest.mark.parametrize(("module", "name"), EVERY, ids=[f"{module}.{name}" for module, name in EVERY])
def test_every_documented_name_is_there_documented_and_tested(module: str, name: str) -> None:
    found = importlib.import_module(f"runners.{module}")
    source = inspect.getsource(found)
    at: object = found
    for part in name.split("."):
        at = getattr(at, part)
    if callable(at):
        assert inspect.getdoc(at)
    else:
        lines = source[: source.index(f"\n{name}")].splitlines()
        assert lines[-1].startswith("#:"), "a variable's documentation stands above it"
    tests = "".join(path.read_text(encoding="utf-8") for path in TESTS)
    assert name.rpartition(".")[2] in tests
