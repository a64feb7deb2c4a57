"""The pages say what the code does: links lead somewhere, examples are read by the real readers, tables match."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args
from urllib.parse import parse_qsl, urlsplit

import pytest
import yaml

from core.pages import FOLDERS, PAGES, ROOT, anchors, blocks, prose, rows, section, text_of, words_in
from runners import errors, utils
from runners.api import Code, JobState
from runners.cli import main as cli
from runners.cli.commands import COMMANDS, find
from runners.cli.options import parse
from runners.client import Client
from runners.errors import InvalidPipeline, RunnersError
from runners.pipeline.checking import Check
from runners.pipeline.files import load
from runners.pipeline.schema import JOB_KEYS, PIPELINE_KEYS
from runners.spec import JobSpec
from runnersd.config import Config
from runnersd.config_load import load as load_config
from runnersd.inventory import CardState
from runnersd.lifecycle import RETRIED
from runnersd.server import app, metrics, problems
from runnersd.server.openapi import schemas
from runnersd.server.routes import ROUTES

#: Pages whose file names are those of this repository; others speak of their readers' files.
FOR_DEVELOPERS = ("docs/design.md", "scheduler/README.md", "CONTRIBUTING.md")
DIRECTORIES = {
    name: f"/srv/{name.lower()}"
    for name in ("DATA_DIRECTORY", "CACHE_DIRECTORY", "ARTIFACTS_DIRECTORY", "NUSSL_DIRECTORY")
}
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


# -- links and names ---------------------------------------------------------------------------------------------------


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8"))):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        target = (page.parent / parts.path) if parts.path else page
        if not target.exists() or (
            parts.fragment and parts.fragment not in anchors(target.read_text(encoding="utf-8"))
        ):
            broken.append(link)
    assert not broken


def test_every_page_of_docs_is_in_the_index() -> None:
    linked = set(re.findall(r"\]\((\w+\.md)\)", text_of("docs/README.md")))
    assert linked == {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}


@pytest.mark.parametrize("name", FOR_DEVELOPERS)
def test_files_that_are_named_exist(name: str) -> None:
    known = {
        "/" + path.relative_to(ROOT).as_posix()
        for folder in (*FOLDERS, ".")
        for path in ((ROOT / folder).rglob("*") if folder != "." else ROOT.iterdir())
    }
    named = set(re.findall(r"(?<![\w/.<>])[\w/]+\.(?:py|sql|mmd|toml|cfg|lock)\b", prose(text_of(name))))
    assert named, "the page names no file: is the pattern wrong?"
    assert not [one for one in named if not any(path.endswith("/" + one) for path in known)]


@every_page
def test_make_targets_that_are_named_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z_-]+):", text_of("Makefile"), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`make ([a-z][a-z_-]*)", text)) | set(
        re.findall(r"^\$ make ([a-z_-]+)", text, re.MULTILINE)
    )
    assert named <= targets


@every_page
def test_settings_that_are_named_exist(page: Path) -> None:
    unknown = []
    for word in words_in(prose(page.read_text(encoding="utf-8"))):
        match = re.fullmatch(r"([a-z_]+)\.([a-z_]+)(: .*)?", word)
        group = getattr(Config(), match[1], None) if match else None
        if match and hasattr(group, "__dataclass_fields__") and match[2] != "py" and not hasattr(group, match[2]):
            unknown.append(word)
    assert not unknown


def test_the_import_contracts_are_named() -> None:
    contracts = tomllib.loads(text_of("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    named = [row[0] for row in rows(section(text_of("CONTRIBUTING.md"), "Import rules"))]
    assert named == [contract["name"] for contract in contracts]


def test_the_lifecycle_is_drawn_as_generated() -> None:
    [drawn] = blocks(text_of("scheduler/README.md"), "mermaid")
    assert drawn.text == text_of("scheduler/lifecycle.mmd"), "copy scheduler/lifecycle.mmd into scheduler/README.md"


# -- examples ----------------------------------------------------------------------------------------------------------


def written(page: Path, folder: Path) -> dict[str, list[str]]:
    """Write a page's files into the folder; their names by kind: ``file``, ``wrong`` or ``config``."""
    names: dict[str, list[str]] = {"file": [], "wrong": [], "config": []}
    for number, block in enumerate(blocks(page.read_text(encoding="utf-8"), "yaml")):
        match = re.match(r"# (file|wrong|config): (\S+)\n", block.text)
        assert match or page.parent.name != "docs", f"say in its first line which file this is:\n{block.text}"
        kind, name = match.groups() if match else ("file", f"{number}.yml")
        path = folder / name
        assert not path.exists(), f"{name} is there twice"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
        names[kind].append(name)
    return names


@every_page
def test_yaml_is_read_by_the_real_readers(page: Path, tmp_path: Path) -> None:
    names = written(page, tmp_path)
    for name in names["file"]:
        load(tmp_path / name, environment=DIRECTORIES, now=0.0)
    for name in names["wrong"]:
        with pytest.raises(InvalidPipeline):
            load(tmp_path / name, environment=DIRECTORIES, now=0.0)
    for name in names["config"]:
        load_config(config=str(tmp_path / name), environ={})


def test_validate_says_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = ROOT / "docs" / "pipelines.md"
    written(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNNERS_SOCKET", str(tmp_path / "nobody"))
    shown = [block.text.split("\n", 1) for block in blocks(page.read_text(encoding="utf-8"), "console")]
    assert len(shown) >= 4
    for command, output in shown:
        code = cli.run(shlex.split(command.removeprefix("$ runners-client ")))
        said = capsys.readouterr()
        assert (said.out + said.err, code) == (output, 0 if said.out else 2)


def command_lines(text: str) -> Iterator[list[str]]:
    """The words of every `runners-client` that a shell block runs."""
    for block in blocks(text, "console", "bash", "sh", "shell"):
        for line in re.sub(r"\\\n\s*", "", block.text).splitlines():
            line = re.sub(r"^[$#] ", "", line)
            line = re.sub(r"\$\w+", "p1", re.sub(r" [12]>", " >", line))
            if not re.search(r"(^|[ (])runners-client ", line):
                continue
            lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
            lexer.whitespace_split = True
            words: list[str] | None = None
            for word in [*lexer, ";"]:
                if word == "runners-client":
                    words = []
                elif set(word) <= set("();<>|&"):
                    if words:
                        yield words
                    words = None
                elif words is not None:
                    words.append(word)


@every_page
def test_command_lines_are_understood(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for words in command_lines(text):
        command = find(words[0])
        if words[0].startswith("-") or words[0] == "help":
            continue
        assert command is not None, words
        parse(command, words[1:])
    named = set(re.findall(r"`runners-client ([a-z]\w*)", text))
    assert named <= {command.name for command in COMMANDS} | {"help"}


def test_command_lines_are_found() -> None:
    """The search above finds what it should, so that finding nothing wrong means something."""
    given = "```console\n$ x=$(runners-client submit a.yml --json | jq .) # words\n# runners-client logs 3 2>/dev/null\n```\n"
    assert list(command_lines(given)) == [["submit", "a.yml", "--json"], ["logs", "3"]]
    assert len(list(command_lines(text_of("docs/client.md")))) > 25


# -- the client --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_its_options_on_the_page(command: Any) -> None:
    part = section(text_of("docs/client.md"), command.name)
    assert f"`runners-client {command.name}" in part
    shown = [", ".join(words_in(row[0])) for row in rows(part)]
    wanted = []
    for option in command.options:
        value = f" {option.metavar}{'...' if option.kind == 'ids' else ''}" if option.metavar else ""
        wanted.append(", ".join([*option.flags[:-1], option.flags[-1] + value]))
    assert shown == wanted


def test_exit_codes_are_on_the_page() -> None:
    listed = {int(row[0]) for row in rows(section(text_of("docs/client.md"), "Exit codes"))}
    kinds: list[type[RunnersError]] = [RunnersError, *kinds_of_error()]
    assert listed == {0, 130} | {kind.exit for kind in kinds}


# -- states ------------------------------------------------------------------------------------------------------------


def first_words(title: str) -> list[str]:
    return [word for row in rows(section(text_of("docs/states.md"), title)) for word in words_in(row[0])]


def test_every_state_is_described() -> None:
    assert first_words("States") == [state.value for state in JobState]


def test_every_code_is_described_once() -> None:
    told = [*first_words("Why a job waits"), *first_words("While it lives"), *first_words("Why it ended")]
    assert sorted(told) == sorted(code.value for code in Code)
    assert {word for row in rows(section(text_of("docs/states.md"), "Why it ended")) for word in words_in(row[1])} == {
        "succeeded", "failed", "timed_out", "cancelled", "skipped",
    }  # fmt: skip


def test_every_state_of_a_card_is_described() -> None:
    assert first_words("States of a card") == list(get_args(CardState))


def test_the_ends_that_are_retried_are_named() -> None:
    first = section(text_of("docs/states.md"), "Retries").split(".")[0]
    assert set(words_in(first)) - {"retries"} == {code.value for code in RETRIED}


# -- pipeline files ----------------------------------------------------------------------------------------------------


def test_every_key_is_in_the_tables() -> None:
    page = text_of("docs/pipelines.md")
    assert [words_in(row[0])[0] for row in rows(section(page, "Every key of a file"))] == list(PIPELINE_KEYS)
    keys = [words_in(row[0])[0] for row in rows(section(page, "Every key of a job"))]
    assert sorted(keys) == sorted([*JOB_KEYS, "matrix", "pipeline"])


def test_defaults_in_the_table_are_the_real_ones() -> None:
    defaults = {name: field.default for name, field in JobSpec.__dataclass_fields__.items()}
    for cells in rows(section(text_of("docs/pipelines.md"), "Every key of a job")):
        [name], shown = words_in(cells[0]), cells[2]
        if name not in defaults or name in ("name", "command"):
            continue
        if shown == "none":
            assert defaults[name] in (None, ()), name
            continue
        check = Check(0.0)
        assert JOB_KEYS[name].read(yaml.safe_load(shown.strip("`")), check, (name,)) == defaults[name], name
        assert not check.problems


# -- the API -----------------------------------------------------------------------------------------------------------


def kinds_of_error() -> list[type[RunnersError]]:
    return [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, RunnersError) and kind is not RunnersError
    ]


def test_the_routes_are_the_servers() -> None:
    listed = [(*words_in(row[0])[0].split(" "), row[1]) for row in rows(section(text_of("docs/api.md"), "Routes"))]
    served = [(route.method, route.path, route.may.value) for route in ROUTES]
    assert sorted(listed) == sorted(served)


def test_what_a_query_or_body_may_say_is_on_the_page() -> None:
    page = text_of("docs/api.md")
    named = set(re.findall(r"\w+", " ".join([*words_in(prose(page)), *(block.text for block in blocks(page))])))
    for route in ROUTES:
        known = {*route.query.known, *(route.body.known if route.body else ())}
        assert known <= named, f"{route.method} {route.path}: {known - named}"
    assert set(schemas()["Pipeline"]["properties"]) <= {
        word for row in rows(section(page, "Submit")) for word in words_in(row[0])
    }


def test_curl_examples_are_requests_the_server_takes() -> None:
    lines = [line for block in blocks(text_of("docs/api.md"), "console") for line in block.text.splitlines()]
    asked = [shlex.split(line.removeprefix("$ ")) for line in lines if line.startswith("$ curl")]
    assert len(asked) > 15
    for words in asked:
        [url] = [word for word in words if word.startswith("http://d/")]
        body = words[words.index("-d") + 1] if "-d" in words else None
        method = words[words.index("-X") + 1] if "-X" in words else "GET" if body is None else "POST"
        parts = urlsplit(url)
        route, _ = app.find(method, parts.path)
        route.query.read(parse_qsl(parts.query), "query")
        if body is not None:
            said = yaml.safe_load(body)
            assert isinstance(said, dict)
            if route.body is not None:
                route.body.read(said, "body")


def test_errors_are_told_as_they_travel() -> None:
    listed = {words_in(row[0])[0]: (row[1], row[2]) for row in rows(section(text_of("docs/api.md"), "Errors"))}
    here = ("daemon-unreachable", "invalid-config")
    travelling: list[type[RunnersError]] = [RunnersError, *(kind for kind in kinds_of_error() if kind.code not in here)]
    served = {kind.code: (str(kind.status), str(kind.exit)) for kind in travelling}
    served |= {kind.code: (str(kind.status), "") for kind in (problems.MethodNotAllowed, problems.TooSlow)}
    assert listed == served


def test_every_metric_is_on_the_page() -> None:
    made = set(re.findall(r'_metric\("(\w+)"', inspect.getsource(metrics)))
    told = {word for row in rows(section(text_of("docs/api.md"), "Metrics")) for word in words_in(row[0])}
    assert told == {f"runners_{name}" for name in made}


# -- the library -------------------------------------------------------------------------------------------------------


def test_the_clients_methods_are_in_the_table() -> None:
    told = re.findall(r"`(\w+)\(([^)]*)\)`", "".join("|".join(row[:1]) for row in rows(text_of("docs/library.md"))))
    public = {name for name, _ in inspect.getmembers(Client, inspect.isfunction) if not name.startswith("_")}
    assert {name for name, _ in told} == public - {"get", "call", "open", "connect"}
    for name, arguments in told:
        known = [one for one in inspect.signature(getattr(Client, name)).parameters if one != "self"]
        given = [one.strip().rstrip("=") for one in arguments.split(",") if one.strip()]
        assert len(given) == len(known), name
        keywords = [one.strip().rstrip("=") for one in arguments.split(",") if one.strip().endswith("=")]
        assert set(keywords) <= set(known), name


@pytest.mark.parametrize(
    ("page", "least"), [("docs/library.md", 4), ("docs/first_library.md", 3), ("docs/caches.md", 2)]
)
def test_python_examples_use_what_there_is(page: str, least: int) -> None:
    examples = blocks(text_of(page), "python")
    assert len(examples) >= least
    for example in examples:
        tree = ast.parse(example.text)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, name.name) for name in node.names)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "client":
                assert hasattr(Client, node.attr), node.attr


def test_the_first_librarys_names_are_there_and_on_the_page() -> None:
    table = rows(section(text_of("docs/first_library.md"), "What there is"))
    for module, names in table:
        found = importlib.import_module(words_in(module)[0])
        assert [name for name in words_in(names) if not name.startswith("python -m") and not hasattr(found, name)] == []
    by_module = {words_in(module)[0]: set(words_in(names)) for module, names in table}
    public = {
        name for name, value in vars(utils).items() if inspect.isfunction(value) and value.__module__ == utils.__name__
    }
    assert {name for name in public if not name.startswith("_")} | {"env_variables"} == by_module["runners.utils"]


def test_the_environment_file_sets_or_describes_every_variable_on_the_page() -> None:
    page = rows(section(text_of("docs/first_library.md"), "The environment"))
    file = text_of("configs/environment/default.sh")
    for variable in (word for row in page for word in words_in(row[0])):
        assert f"export {variable}=" in file
