"""Reading a command line: what is taken, and what is said of what is not."""

from __future__ import annotations

import pytest

from runners.cli.commands import COMMANDS, GROUPS, find
from runners.cli.help import of_command, overview
from runners.cli.options import COMMON, Words, parse
from runners.errors import InvalidRequest


def read(line: str) -> Words:
    name, *rest = line.split()
    command = find(name)
    assert command is not None
    return parse(command, rest)


def refused(line: str) -> str:
    with pytest.raises(InvalidRequest) as raised:
        read(line)
    return str(raised.value)


def test_switches_values_and_positionals_in_any_order() -> None:
    words = read("submit a.yml --priority -5 --hold b.yml --name=x")
    assert words.all("FILE") == ["a.yml", "b.yml"]
    assert words.number("priority") == -5
    assert words.has("hold")
    assert not words.has("json")
    assert words.text("name") == "x"


@pytest.mark.parametrize(
    "line", ["logs -fn5 3", "logs -f -n5 3", "logs 3 -f -n 5", "logs --follow --tail=5 3", "logs -n5 -f -- 3"]
)
def test_short_options_together(line: str) -> None:
    words = read(line)
    assert (words.has("follow"), words.number("tail"), words.required("ID")) == (True, 5, "3")


@pytest.mark.parametrize(
    ("line", "after", "files"),
    [
        ("submit --after 1 p2 3 a.yml", ["1", "p2", "3"], ["a.yml"]),
        ("submit a.yml --after 1,p2", ["1", "p2"], ["a.yml"]),
        ("submit --after 1 a.yml --after 2", ["1", "2"], ["a.yml"]),
        ("submit --after=1 -- 2", ["1"], ["2"]),
    ],
)
def test_ids_go_on_as_long_as_they_are_ids(line: str, after: list[str], files: list[str]) -> None:
    words = read(line)
    assert words.all("after") == after
    assert words.all("FILE") == files


@pytest.mark.parametrize(
    "line",
    [
        "run --gpus 2 -- python x.py --gpus 7 -h",
        "run -g2 python x.py --gpus 7 -h",
        "run -g 2 -- python x.py --gpus 7 -h",
    ],
)
def test_a_commands_own_options_are_its_own(line: str) -> None:
    words = read(line)
    assert words.number("gpus") == 2
    assert words.all("CMD") == ["python", "x.py", "--gpus", "7", "-h"]
    assert not words.has("help")


def test_a_negative_number_is_no_option() -> None:
    words = read("priority 12 -10")
    assert (words.required("ID"), words.number("N")) == ("12", -10)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("submit a.yml --folow", "no option --folow; did you mean --follow?"),
        ("submit a.yml --zzzzzzz", "no option --zzzzzzz; see"),
        ("submit", "FILE is missing"),
        ("run", "CMD is missing"),
        ("run --gpus", "--gpus needs a value: N"),
        ("run --gpus --json x", "--gpus needs a value: N"),
        ("run --gpus two x", "--gpus takes a whole number, not 'two'"),
        ("run --gpus ٣ x", "--gpus takes a whole number"),
        ("status --json=yes", "--json takes no value"),
        ("status banana", "'banana' is not a job's number (12) or a pipeline's id (p3)"),
        ("logs p3", "'p3' is not a job's number (12)"),
        ("show 12 13", "'13' is one word too many"),
        ("show 1" + "0" * 20, "is not a job's number"),
        ("submit a.yml --after x", "'x' is not a job's number"),
        ("gpus 3", "'3' is one word too many"),
        ("priority 12", "N is missing"),
        ("priority 12 high", "N takes a whole number, not 'high'"),
    ],
)
def test_what_is_wrong_is_said(line: str, said: str) -> None:
    message = refused(line)
    assert said in message
    command = find(line.split()[0])
    assert command is not None
    assert message.startswith(f"cannot {command.to}: ")
    assert message.endswith(f"see `runners-client {line.split()[0]} --help`")


def test_help_wins_over_what_is_missing() -> None:
    assert read("show --help").has("help")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_is_whole(command: object) -> None:
    """Its options differ, its group exists, its help fits a terminal, and its examples parse."""
    assert isinstance(command, type(COMMANDS[0]))
    flags = [flag for option in (*command.options, *COMMON) for flag in option.flags]
    assert len(flags) == len(set(flags))
    assert command.group in GROUPS
    text = of_command(command)
    assert all(len(line) <= 100 for line in text.splitlines() if not line.startswith("usage")), text
    for flag in flags:
        assert flag in text
    import shlex

    for example in command.examples:
        name, *rest = shlex.split(example.partition(" > ")[0].partition(" 2>")[0].partition(" &&")[0])
        assert name == command.name
        parse(command, rest)


def test_the_overview_has_every_command_and_exit_code() -> None:
    text = overview()
    assert all(f"\n  {command.name} " in text for command in COMMANDS)
    assert all(len(line) <= 105 for line in text.splitlines())
    assert "3 no daemon" in text
