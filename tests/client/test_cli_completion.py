"""Completion: what fits, and that bash, zsh and fish really offer it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from runners.cli.commands import COMMANDS
from runners.cli.completion import SCRIPTS, offers

from .conftest import ROOT, Responder, gpu_view, job_view, response, status_view


@pytest.fixture
def jobs(responder: Responder, monkeypatch: pytest.MonkeyPatch) -> Responder:
    """A daemon with a running, a queued and a failed job."""
    monkeypatch.setenv("RUNNERS_SOCKET", str(responder.path))
    views = [job_view(12, "running"), job_view(13, "queued"), job_view(140, "failed", pipeline="p2")]
    return responder.will(response({**status_view(views), "gpus": [gpu_view(0), gpu_view(7)]}))


def words(line: str) -> list[str]:
    """What may stand in place of the last word of a line."""
    return [word for word, _about in offers(line.split(" "))]


def test_commands() -> None:
    assert words("") == [command.name for command in COMMANDS]
    assert words("re") == ["release", "retry", "reserve", "resume"]
    assert words("--so") == ["--socket"]
    assert words("--socket /x st") == ["status"]
    assert words("nothing ") == []


def test_options_once() -> None:
    assert words("submit --f") == ["--follow"]
    assert "--json" in words("status -")
    assert "--json" not in words("status --json -")
    assert words("submit --after 1 --af") == ["--after"]


def test_values(jobs: Responder) -> None:
    assert words("submit ") == [":file"]
    assert words("submit a.yml b") == [":file"]
    assert words("submit --socket ") == [":file"]
    assert words("submit --name ") == []
    assert words("submit --after ") == ["12", "13", "140", "p1", "p2"]
    assert words("submit --after 12 ") == ["13", "140", "p1", "p2", ":file"]
    assert words("completion ") == list(SCRIPTS)
    assert words("completion bash ") == []
    assert words("drain ") == ["0", "7"]
    assert words("drain 0 ") == ["7"]
    assert words("run --gpus 1 -- ") == [":command"]
    assert words("run ") == [":command"]
    assert words("run python ") == [":file"]
    assert words("update 12 time_l") == ["time_limit="]
    assert words("update 12 time_limit=") == []
    assert words("priority 13 ") == []
    assert words("plot -o ") == [":file"]
    assert words("plot --m") == ["--machine"]
    assert words("usage --by ") == ["user", "pipeline", "script"]


def test_ids_fit_the_command(jobs: Responder) -> None:
    assert words("logs 1") == ["12", "13", "140"]
    assert words("show ") == ["12", "13", "140", "p1", "p2"]
    assert words("cancel ") == ["12", "13", "p1"]
    assert words("cancel 12 ") == ["13", "p1"]
    assert words("retry ") == ["140", "p2"]
    assert words("plot 12 ") == ["140", "p1", "p2"]
    assert words("hold ") == ["13", "p1"]
    assert words("release ") == []
    assert dict(offers(["show", "14"])) == {"140": "job140, failed, ann"}


def test_without_a_daemon_there_are_no_ids_and_no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNERS_SOCKET", "/nowhere/s")
    assert words("cancel ") == []
    assert words("drain ") == []


@pytest.fixture
def shell_env(jobs: Responder, tmp_path: Path) -> Mapping[str, str]:
    """A shell whose path has our program, in a folder with two files."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "runners-client"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m runners.cli "$@"\n')
    program.chmod(0o755)
    (tmp_path / "train one.yml").touch()
    (tmp_path / "train.yml").touch()
    return {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "client"),
        "HOME": str(tmp_path),
        "TERM": "dumb",
        "LC_ALL": "C.UTF-8",
    }


#: A line as typed, and what a shell offers for its last word.
LINES = [
    ("runners-client can", ["cancel"]),
    ("runners-client cancel ", ["12", "13", "p1"]),
    ("runners-client submit --fol", ["--follow"]),
    ("runners-client submit tr", ["train one.yml", "train.yml"]),
    ("runners-client update 12 time_l", ["time_limit="]),
    ("runners-client completion z", ["zsh"]),
]


@pytest.mark.parametrize(("line", "offered"), LINES)
def test_bash_offers_it(shell_env: Mapping[str, str], tmp_path: Path, line: str, offered: list[str]) -> None:
    script = (
        "source <(runners-client completion bash)\n"
        "COMP_LINE=$1 COMP_POINT=${#1}\n"
        'eval "$(complete -p runners-client | sed "s/.*-F \\([^ ]*\\).*/\\1/")"\n'
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    assert lines_of(["bash", "--norc", "-c", script, "bash", line], shell_env, tmp_path) == offered


def test_bash_gives_the_rest_of_an_assignment(shell_env: Mapping[str, str], tmp_path: Path) -> None:
    script = (
        "source <(runners-client completion bash)\n"
        'COMP_LINE="runners-client submit --after=1" COMP_POINT=${#COMP_LINE}\n'
        "_runners_client\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    assert lines_of(["bash", "--norc", "-c", script], shell_env, tmp_path) == ["12", "13", "140"]


def need(shell: str) -> None:
    """A shell that a laptop may lack; where the tests install what they need, it is there."""
    if shutil.which(shell) is None:
        say = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        say(f"{shell} is not installed: run tests/install-packages.sh as root")


@pytest.mark.parametrize(("line", "offered"), LINES)
def test_fish_offers_it(shell_env: Mapping[str, str], tmp_path: Path, line: str, offered: list[str]) -> None:
    need("fish")
    script = "runners-client completion fish | source; complete -C $argv[1]"
    found = lines_of(["fish", "--no-config", "-c", script, line], shell_env, tmp_path)
    assert [word.partition("\t")[0].replace("\\ ", " ") for word in found] == offered


@pytest.mark.parametrize(("line", "offered"), LINES)
def test_zsh_offers_it(shell_env: Mapping[str, str], tmp_path: Path, line: str, offered: list[str]) -> None:
    """In a real zsh on a pseudo-terminal of its own, with `compadd` saying what it is given."""
    need("zsh")
    (tmp_path / ".zshrc").write_text(
        "PS1=; PS2=; unsetopt beep\n"
        "autoload -Uz compinit; compinit -u -D\n"
        "source <(runners-client completion zsh)\n"
        "compadd() {\n"
        '  local -a taken; builtin compadd -A taken "$@"; print -rl -- $taken >> $OUT; builtin compadd "$@"\n'
        "}\n"
        # Keys typed before the line editor has the terminal would be the kernel's to interpret.
        "zle-line-init() { print -rn '<edits>' }; zle -N zle-line-init\n"
        "all-typed() { print -rn '<typed>' }; zle -N all-typed; bindkey '^X' all-typed\n"
    )
    driver = (
        "zmodload zsh/zpty; zpty z zsh -i\n"
        'zpty -r -m z got "*<edits>*" || exit 3\n'
        "zpty -w -n z \"$1\"$'\\t\\C-x'\n"
        'zpty -r -m z got "*<typed>*" || exit 4\n'
    )
    out = tmp_path / "offered"
    out.touch()
    env = {**shell_env, "ZDOTDIR": str(tmp_path), "OUT": str(out)}
    lines_of(["zsh", "-f", "-c", driver, "zsh", line], env, tmp_path)
    found = dict.fromkeys(word.replace("\\ ", " ") for word in out.read_text().splitlines() if word)
    assert [word for word in found if word not in ("bin", "offered")] == offered


@pytest.mark.parametrize("shell", list(SCRIPTS))
def test_the_scripts_are_the_shells_own_language(shell: str) -> None:
    if shutil.which(shell) is None:
        assert SCRIPTS[shell].count("__complete") == 1
        return
    done = subprocess.run([shell, "-n"], input=SCRIPTS[shell], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def lines_of(command: list[str], env: Mapping[str, str], folder: Path) -> list[str]:
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", done.stderr
    return sorted(done.stdout.splitlines(), key=lambda word: (word.startswith("p"), word))
