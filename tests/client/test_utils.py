"""`runners.utils` and `runners.config`: what the first library's documentation says of each name, quoted, and its faults."""

from __future__ import annotations

import doctest
import inspect
import logging
import os
import random
import string
import subprocess
import sys
from collections import OrderedDict, defaultdict
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.pages import ROOT
from runners import config, run_in_docker, utils
from runners.errors import InvalidRequest
from runners.plain_yaml import comments, dump, parse

DIRECTORIES = ["DATA_DIRECTORY", "CACHE_DIRECTORY", "ARTIFACTS_DIRECTORY", "NUSSL_DIRECTORY"]


@pytest.fixture(autouse=True)
def directories(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in DIRECTORIES:
        monkeypatch.setenv(name, f"/srv/{name.lower().removesuffix('_directory')}")


# -- the names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("deep_update", "(source, overrides)"),
        ("disp_script", "(spec)"),
        ("dump_yaml", "(data, path_to_yml)"),
        ("flatten", "(d, parent_key='', sep='_')"),
        ("load_yaml", f"(path_to_yml, env_variables={DIRECTORIES})"),
        ("make_random_string", "(length=10)"),
        ("modify_yml_with_env", "(yml, env_variables)"),
        ("parse_yaml", "(path_to_yml, jobs=True)"),
    ],
)
def test_signatures_are_the_documentations(name: str, signature: str) -> None:
    parameters = inspect.signature(getattr(utils, name)).parameters.values()
    bare = [one.replace(annotation=inspect.Parameter.empty) for one in parameters]
    assert str(inspect.Signature(bare)) == signature


def test_the_variables_are_the_documentations() -> None:
    """'List of environment variables to look for and replace.'"""
    assert utils.env_variables == DIRECTORIES
    # 'Arguments given by default when running a script.'
    assert config.default_script_args == {"blocking": False, "num_gpus": 0, "num_workers": 1, "run_in": "host"}


@pytest.mark.parametrize("module", [utils, config, run_in_docker], ids=lambda module: module.__name__)
def test_the_examples_in_the_docstrings_are_true(module: Any) -> None:
    found = doctest.testmod(module)
    assert (found.failed, found.attempted > 0) == (0, True)


def test_directories_come_from_the_environment_and_are_none_without() -> None:
    """artifacts_directory: 'Good to know where these are so that you know where your results are.' cache_directory:
    'It's good to know where they are so you can free up hard drive space'. dataset_directory: 'This folder is where all of
    your data lives'. nussl_directory: 'This is optional'. code_directory: 'It now just uses the current working directory.'
    All are '= None' where nothing sets them."""
    code = (
        "from runners import config as c\n"
        "print([c.artifacts_directory, c.cache_directory, c.code_directory, c.dataset_directory, c.nussl_directory])"
    )
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "client"), "CACHE_DIRECTORY": ""}
    run = [sys.executable, "-c", code]
    assert subprocess.run(run, env=env, capture_output=True, text=True, check=True).stdout == f"{[None] * 5}\n"
    env |= {"DATA_DIRECTORY": "/d", "CACHE_DIRECTORY": "/c", "ARTIFACTS_DIRECTORY": "/a", "NUSSL_DIRECTORY": "/n"}
    said = subprocess.run(run, env=env, capture_output=True, text=True, check=True).stdout
    assert said == "['/a', '/c', None, '/d', '/n']\n"


@pytest.mark.parametrize(
    "module",
    ["config", "experiment_utils", "utils", "docker_runner", "run_in_docker", "run_in_host", "script_runner_pool"],
)
def test_nothing_heavy_is_imported(module: str) -> None:
    """Importable without comet_ml, Docker or a GPU; and at the price of a few files."""
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('comet_ml', 'docker', 'aiodocker', 'aiohttp', 'GPUtil', 'pynvml', 'zarr', 'numpy'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        f"import runners.{module}\n"
        "heavy = {'asyncio', 'yaml', 'subprocess', 'ssl', 'http.client', 'runnersd'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "client")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


# -- mappings ----------------------------------------------------------------------------------------------------------


def test_deep_update() -> None:
    """'Update a nested dictionary or similar mapping. Modify source in place.' Returns the 'Updated source dictionary.'"""
    source: dict[str, Any] = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    below = source["a"]
    assert utils.deep_update(source, {"a": {"c": {"f": 4}}, "g": [5]}) is source
    assert source == {"a": {"b": 1, "c": {"d": 2, "f": 4}}, "e": 3, "g": [5]}
    assert source["a"] is below


def test_deep_update_has_not_the_first_ones_faults() -> None:
    assert utils.deep_update({"a": {"b": 1}}, {"a": {}}) == {"a": {"b": 1}}, "an empty override changes nothing"
    assert utils.deep_update({"a": 1}, {"a": {"b": 2}}) == {"a": {"b": 2}}, "a mapping over a scalar is no error"
    assert utils.deep_update({"a": {"b": 1}}, {"a": 2}) == {"a": 2}
    assert utils.deep_update({}, {"a": {}}) == {"a": {}}
    overrides = {"a": {"b": 1}}
    source = utils.deep_update({}, overrides)
    source["a"]["b"] = 2
    assert overrides == {"a": {"b": 1}}, "the overrides are not the source's afterwards"


def test_flatten() -> None:
    """'Flattens a dictionary so that it only has one level. A sequence of keys will result in a key that is like ...'"""
    assert utils.flatten({"key1": {"key2": {"key3": "val"}}}) == {"key1_key2_key3": "val"}
    assert utils.flatten({"a": {"b": 1}}, parent_key="p", sep=".") == {"p.a.b": 1}
    assert utils.flatten({"a": [{"b": 1}], "c": None}) == {"a": [{"b": 1}], "c": None}
    assert utils.flatten({}) == {}


def test_flatten_has_not_the_first_ones_faults() -> None:
    with pytest.raises(ValueError, match="`a > b_c` and `a_b > c` both become 'a_b_c'"):
        utils.flatten({"a": {"b_c": 1}, "a_b": {"c": 2}})
    assert utils.flatten({"a": {"b_c": 1}, "a_b": {"c": 2}}, sep=".") == {"a.b_c": 1, "a_b.c": 2}
    assert utils.flatten({"a": {}, "b": {"c": {}}}) == {"a": {}, "b_c": {}}, "what is empty does not vanish"
    assert utils.flatten({"a": {1: {2: "x"}}, 3: "y"}) == {"a_1_2": "x", 3: "y"}


# -- YAML --------------------------------------------------------------------------------------------------------------


def test_modify_yml_with_env() -> None:
    """'Replaces specific substrings in a string or elsewhere with their corresponding environment variables.'"""
    yml = "a: ${DATA_DIRECTORY}/x\nb: [${CACHE_DIRECTORY}, '${ARTIFACTS_DIRECTORY}/${NUSSL_DIRECTORY}']\n"
    assert (
        utils.modify_yml_with_env(yml, utils.env_variables)
        == "a: /srv/data/x\nb: [/srv/cache, '/srv/artifacts//srv/nussl']\n"
    )
    assert utils.modify_yml_with_env(yml, ["CACHE_DIRECTORY"]) == yml.replace("${CACHE_DIRECTORY}", "/srv/cache")
    assert utils.modify_yml_with_env(
        "${HOME} ${EXPERIMENT_KEY} {DATA_DIRECTORY} $DATA_DIRECTORY", utils.env_variables
    ) == ("${HOME} ${EXPERIMENT_KEY} {DATA_DIRECTORY} $DATA_DIRECTORY")
    assert utils.modify_yml_with_env("x", []) == "x"


def test_another_variable_may_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EXPERIMENT_KEY", "k3y")
    (tmp_path / "x.yml").write_text("folder: ${ARTIFACTS_DIRECTORY}/${EXPERIMENT_KEY}")
    found = utils.load_yaml(tmp_path / "x.yml", [*utils.env_variables, "EXPERIMENT_KEY"])
    assert found == {"folder": "/srv/artifacts/k3y"}


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_without_a_value_never_becomes_an_empty_string(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str | None
) -> None:
    """The first one made `/musdb` of `${DATA_DIRECTORY}/musdb`."""
    monkeypatch.delenv("DATA_DIRECTORY")
    if value is not None:
        monkeypatch.setenv("DATA_DIRECTORY", value)
    (tmp_path / "x.yml").write_text("# ${DATA_DIRECTORY}\na: 1\nb: ${DATA_DIRECTORY}/musdb\n")
    with pytest.raises(InvalidRequest) as caught:
        utils.load_yaml(tmp_path / "x.yml")
    assert str(caught.value).startswith(
        f"cannot use {tmp_path}/x.yml: line 3: ${{DATA_DIRECTORY}} has no value: set DATA"
    )


@pytest.mark.parametrize(
    ("yml", "left"),
    [
        ("a: 1  # ${DATA_DIRECTORY}", 1),
        ("# ${DATA_DIRECTORY}\n  # ${DATA_DIRECTORY}\na: ${DATA_DIRECTORY}", 2),
        ("a: '# ${DATA_DIRECTORY}'", 0),
        ("a: x#${DATA_DIRECTORY}", 0),
        ("a: |\n  # ${DATA_DIRECTORY}\n  echo\n# ${DATA_DIRECTORY}\nb: 1", 1),
        ("ä: ü  # ö ${DATA_DIRECTORY}\r\nb: ${DATA_DIRECTORY} # ${DATA_DIRECTORY}", 2),
        ("{a: ${DATA_DIRECTORY}, # ${DATA_DIRECTORY}\n b: [${DATA_DIRECTORY}]}", 1),
        ("a: [\n# ${DATA_DIRECTORY}\n'", 1),
    ],
)  # fmt: skip
def test_comments_are_left_alone(yml: str, left: int) -> None:
    assert utils.modify_yml_with_env(yml, utils.env_variables).count("${DATA_DIRECTORY}") == left


def test_load_yaml_reads_what_the_first_one_read(tmp_path: Path) -> None:
    """'Parsed and loaded YAML into a dictionary.' Configurations use `!!python/tuple`."""
    path = tmp_path / "x.yml"
    path.write_text(
        "shape: !!python/tuple [1, [2, 3]]\n1: {a: 0.5, b: yes, c: ~}\ntext: 'x'\nbase: &b {k: 1}\nmore: {<<: *b, l: 2}\n"
    )
    assert utils.load_yaml(path) == {
        "shape": (1, [2, 3]), 1: {"a": 0.5, "b": True, "c": None}, "text": "x", "base": {"k": 1}, "more": {"k": 1, "l": 2},
    }  # fmt: skip
    assert utils.load_yaml(str(path))["shape"] == (1, [2, 3])
    path.write_text("")
    assert utils.load_yaml(path) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not valid YAML: while parsing a flow sequence"),
        ("a: 1\n b: 2", "line 2: not valid YAML: mapping values are not allowed"),
        ("a: !!python/object/apply:os.system ['echo x']", "line 1: not valid YAML: could not determine a constructor"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
        ("a: 1\n---\nb: 2", "but found another document"),
        ("[" * 200 + "]" * 200, "nested over 100 levels deep"),
        ("a: *b", "undefined alias"),
    ],
)
def test_what_is_not_plain_yaml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.yml").write_text(text)
    with pytest.raises(InvalidRequest) as caught:
        utils.load_yaml(tmp_path / "x.yml")
    assert str(caught.value).startswith(f"cannot use {tmp_path}/x.yml: ")
    assert message in str(caught.value)


def test_a_hundred_kilobytes_of_brackets_crash_nothing(tmp_path: Path) -> None:
    """PyYAML's composer in C dies of it."""
    (tmp_path / "x.yml").write_text("[" * 100_000)
    with pytest.raises(InvalidRequest, match="nested over"):
        utils.load_yaml(tmp_path / "x.yml")


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRequest, match="UTF-8"):
        utils.load_yaml(tmp_path / "x.yml")
    with pytest.raises(FileNotFoundError):
        utils.load_yaml(tmp_path / "none.yml")


def test_a_value_is_not_cut_where_it_would_begin_a_comment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIRECTORY", "/srv/disk #1")
    file = tmp_path / "x.yml"
    file.write_text("# ${DATA_DIRECTORY}\na: '${DATA_DIRECTORY}/x'\nb: |\n  ${DATA_DIRECTORY}\n")
    assert utils.load_yaml(file) == {"a": "/srv/disk #1/x", "b": "/srv/disk #1\n"}
    file.write_text("a: ${CACHE_DIRECTORY}\nb: ${DATA_DIRECTORY}/x\n")
    with pytest.raises(InvalidRequest, match="line 2: the value of DATA_DIRECTORY has a ` #`, .*; put .* into quotes"):
        utils.load_yaml(file)
    file.write_text("a: ${CACHE_DIRECTORY} # of ${DATA_DIRECTORY}\n")
    assert utils.load_yaml(file) == {"a": "/srv/cache"}


def test_what_stands_for_a_plain_value_is_dumped_as_one(tmp_path: Path) -> None:
    import numpy

    file = tmp_path / "x.yml"
    data = {
        "n": numpy.int64(3), "small": numpy.uint8(200), "half": numpy.float32(0.5), "yes": numpy.bool_(True),
        "at": Path("/srv/x"), "zero": numpy.array(7), "deep": [(numpy.int32(1), Path("y"))],
    }  # fmt: skip
    utils.dump_yaml(data, file)
    assert utils.load_yaml(file) == {
        "n": 3, "small": 200, "half": 0.5, "yes": True, "at": "/srv/x", "zero": 7, "deep": [(1, "y")],
    }  # fmt: skip
    for unplain in (numpy.zeros(3), numpy.longdouble(1), object()):
        with pytest.raises(InvalidRequest, match="cannot be written as YAML"):
            utils.dump_yaml({"a": unplain}, file)


def test_dump_yaml(tmp_path: Path) -> None:
    """'Dump data to a yml file at a specified location.'"""
    data = {"z": 1, "a": {"shape": (1, 2), "text": "ü", "list": [1.5, None, True]}}
    utils.dump_yaml(data, tmp_path / "x.yml")
    text = (tmp_path / "x.yml").read_text()
    assert text.startswith("z: 1\na:\n"), "keys keep their order"
    assert "ü" in text
    assert utils.load_yaml(tmp_path / "x.yml") == data
    shared = [1]
    utils.dump_yaml({"a": shared, "b": shared}, str(tmp_path / "x.yml"))
    assert "&" not in (tmp_path / "x.yml").read_text()


def test_what_is_a_kind_of_plain_data_is_dumped_as_that(tmp_path: Path) -> None:
    """A configuration may have come from anywhere."""

    class Text(str):
        pass

    class Rate(float):
        def __repr__(self) -> str:
            return "Rate"

    class Pair(NamedTuple):
        low: int
        high: int

    data = {"a": OrderedDict(z=1, b=2), "b": defaultdict(dict, c={}), "t": Text("1"), "r": Rate(0.5), "p": Pair(1, 2)}
    utils.dump_yaml(data, tmp_path / "x.yml")
    assert (tmp_path / "x.yml").read_text().startswith("a:\n  z: 1\n  b: 2\n")
    loaded = utils.load_yaml(tmp_path / "x.yml")
    assert loaded == {"a": {"z": 1, "b": 2}, "b": {"c": {}}, "t": "1", "r": 0.5, "p": (1, 2)}
    with pytest.raises(InvalidRequest):
        utils.dump_yaml({"a": HTTPStatus.OK}, tmp_path / "x.yml")


def test_what_cannot_be_dumped_leaves_the_file_whole(tmp_path: Path) -> None:
    (tmp_path / "x.yml").write_text("before")
    circle: list[Any] = []
    circle.append(circle)
    for data in ({"a": object()}, circle):
        with pytest.raises(InvalidRequest, match=r"cannot write .*x\.yml: it cannot be written as YAML"):
            utils.dump_yaml(data, tmp_path / "x.yml")
    assert (tmp_path / "x.yml").read_text() == "before"


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.text(string.ascii_letters), inner, max_size=3),
    max_leaves=15,
)  # fmt: skip


@given(PLAIN)
def test_what_is_dumped_is_read_back_as_it_was(data: Any) -> None:
    assert parse(dump(data)) == data


@given(st.text(st.sampled_from("a: #'\"\n[]{}|-$")))
def test_comments_are_found_in_any_text(text: str) -> None:
    for begin, end in comments(text):
        assert text[begin:end].lstrip(" \t").startswith("#")
        assert "\n" not in text[begin:end]


def test_parse_yaml(tmp_path: Path) -> None:
    """'Whether to convert it so that it's a sequence of jobs if jobs is not defined in spec. Defaults to True.'"""
    path = tmp_path / "x.yml"
    path.write_text("script: prepare\nconfig: -y ${DATA_DIRECTORY}/x.yml\n")
    alone = {"script": "prepare", "config": "-y /srv/data/x.yml"}
    assert utils.parse_yaml(path) == {"jobs": [alone]}
    assert utils.parse_yaml(path, jobs=False) == alone
    path.write_text("num_jobs: 2\njobs: [{script: a}, {script: b}]\n")
    assert utils.parse_yaml(path) == {"num_jobs": 2, "jobs": [{"script": "a"}, {"script": "b"}]}
    path.write_text("- script: a\n- script: b\n")
    assert utils.parse_yaml(path) == {"jobs": [{"script": "a"}, {"script": "b"}]}
    path.write_text("just text")
    with pytest.raises(InvalidRequest, match="expected a mapping or a list of jobs"):
        utils.parse_yaml(path)


# -- words -------------------------------------------------------------------------------------------------------------


def test_make_random_string() -> None:
    """'Makes a random alphanumeric string of some length.' 'Defaults to 10.'"""
    assert len(utils.make_random_string()) == 10
    assert [len(utils.make_random_string(length)) for length in (0, 1, 40)] == [0, 1, 40]
    assert set(utils.make_random_string(2000)) == set(string.ascii_lowercase + string.digits)


def test_a_seed_does_not_make_two_strings_the_same() -> None:
    """Two experiments with one seed must not share a folder."""
    made = set()
    for _ in range(3):
        random.seed(0)
        made.add(utils.make_random_string())
    assert len(made) == 3


def test_disp_script(caplog: pytest.LogCaptureFixture) -> None:
    """'Displays the arguments for a script in a readable fashion in logging.'"""
    with caplog.at_level(logging.INFO, "runners.utils"):
        utils.disp_script({"script": "train", "num_gpus": 2, "env": {"COMET_API_KEY": "secret"}})
        utils.disp_script({})
    [first, second] = [record.getMessage() for record in caplog.records]
    assert first == "script:\n  script    train\n  num_gpus  2\n  env       COMET_API_KEY"
    assert "no arguments" in second
