"""Placeholders and matrices, by themselves."""

from __future__ import annotations

from typing import Any

import pytest

from runners.pipeline.matrix import combinations, filled, label
from runners.pipeline.reader import read
from runners.pipeline.substitution import directory_values, replace_directories, replace_matrix, whole_placeholder


def matrix(text: str, most: int = 1000) -> tuple[list[str], list[str]]:
    """The labels of a matrix's combinations, and what is wrong with it."""
    node = read(text.encode(), "f.yml", {}, lambda problem: pytest.fail(str(problem)))
    assert node is not None
    wrong: list[str] = []
    found = combinations(node, 1, most, lambda message, line, path: wrong.append(f"{line} {list(path)} {message}"))
    return [label(combination) for combination in found], wrong


def test_the_first_key_changes_slowest() -> None:
    assert matrix("{lr: [0.001, 1e-4], fold: [0, 1, 2]}") == (
        [f"[lr={lr},fold={fold}]" for lr in ("0.001", "1e-4") for fold in (0, 1, 2)], [],
    )  # fmt: skip


def test_values_are_as_written() -> None:
    written = ["0.0001", "1e-4", "yes", "010", "0x1F", "1:30", "2026-01-31", "null", "1.50", "~"]
    assert matrix(f"{{a: [{', '.join(written)}]}}") == ([f"[a={text}]" for text in written], [])


def test_a_label_is_one_printable_line() -> None:
    assert matrix('{a: ["x\\ny\\t z", "\\e[31m", "p/q, r]"]}')[0] == ["[a=x y z]", "[a=?[31m]", "[a=p/q, r]]"]


def test_a_list_names_its_combinations() -> None:
    assert matrix("[{lr: 1, fold: 0}, {fold: 2}]") == (["[lr=1,fold=0]", "[fold=2]"], [])


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("5", ["1 [] expected a mapping of lists, or a list of mappings, found 5"]),
        ("{}", ["1 [] expected at least one key, found an empty mapping"]),
        ("[]", ["1 [] expected at least one combination, found an empty list"]),
        ("{a: 5}", ["1 ['a'] expected a list of values, found 5"]),
        ("{a: []}", ["1 ['a'] expected a list of values, found an empty list"]),
        ("a: [1]\nb:\n- 2\n- [3]\n- {}\n", ["4 ['b', 1] expected a plain value, found a list", "5 ['b', 2] expected a plain value, found an empty mapping"]),
        ("a:\n- 1\n- 2\n- 1\n", ["4 ['a', 2] the value '1' is there twice"]),
        ("{a b: [1]}", ["1 ['a b'] expected a key of letters, digits, `_` and `-`, found 'a b'"]),
        ("- a\n- {}\n- {a: [1]}\n", ["1 [0] expected a mapping of values, found 'a'", "2 [1] expected a mapping of values, found an empty mapping", "3 [2, 'a'] expected a plain value, found a list"]),
        ("- {a: 1}\n- {a: 2}\n- {a: 1}\n", ["3 [2] this combination is there twice"]),
        ("{a: [1, 2, 3], b: [1, 2, 3], c: [1, 2]}", ["1 [] makes 18 jobs; at most 10 fit into one pipeline"]),
        ("{" + ", ".join(f"k{n}: [1, 2]" for n in range(500)) + "}", ["1 [] makes far too many jobs; at most 10 fit into one pipeline"]),
        ("[" + ", ".join(f"{{k: {n}}}" for n in range(11)) + "]", ["1 [] makes 11 jobs; at most 10 fit into one pipeline"]),
    ],
)  # fmt: skip
def test_mistakes_of_a_matrix(text: str, wrong: list[str]) -> None:
    assert matrix(text, most=10) == ([], wrong)


UNCLOSED = "found a `${{` that is not closed; write `${{ matrix.<key> }}`"


@pytest.mark.parametrize(
    ("text", "result", "wrong"),
    [
        ("a ${{ matrix.lr }}${{matrix.f-1}} b", "a 0.1x b", []),
        ("${X} $X {{ matrix.lr }} $${{ matrix.lr }}", "${X} $X {{ matrix.lr }} $0.1", []),
        ("${{ matrix.x }}", "${{ matrix.x }}", ["unknown matrix key 'x': the matrix has lr, f-1"]),
        ("${{ env.X }}", "${{ env.X }}", ["found '${{ env.X }}'; only `${{ matrix.<key> }}` is known"]),
        ("${{ }}", "${{ }}", ["found '${{ }}'; only `${{ matrix.<key> }}` is known"]),
        ("${{ matrix.lr", "${{ matrix.lr", [UNCLOSED]),
        ("${{ matrix.lr }} ${{ matrix.x", "${{ matrix.lr }} ${{ matrix.x", [UNCLOSED]),
        ("${{ matrix.lr } x", "${{ matrix.lr } x", [UNCLOSED]),
        ("${{ matrix.lr }}" * 50_000, "${{ matrix.lr }}" * 50_000, ["longer than 131071 bytes with the matrix's values in it"]),
    ],
)  # fmt: skip
def test_placeholders_of_the_matrix(text: str, result: str, wrong: list[str]) -> None:
    told: list[str] = []
    assert replace_matrix(text, {"lr": "0.1", "f-1": "x"}, told.append) == result
    assert told == wrong


def test_without_a_matrix_there_is_nothing_to_put_in() -> None:
    told: list[str] = []
    replace_matrix("${{ matrix.lr }}", {}, told.append)
    assert told == ["unknown matrix key 'lr': the job has no `matrix`"]


@pytest.mark.parametrize(("typed", "result"), [(True, [2, "x2", {"k": 2}]), (False, ["2", "x2", {"k": "2"}])])
def test_a_number_that_is_one_placeholder_stays_a_number(typed: bool, result: Any) -> None:
    node = read(b"{g: [2]}", "f.yml", {}, lambda problem: pytest.fail(str(problem)))
    assert node is not None
    (combination,) = combinations(node, 1, 9, lambda *told: pytest.fail(str(told)))
    plain = ["${{ matrix.g }}", "x${{ matrix.g }}", {"k": " ${{ matrix.g }}" if typed else "${{ matrix.g }}"}]
    assert filled(plain, combination, typed, lambda *told: pytest.fail(str(told))) == result
    assert whole_placeholder("${{ matrix.g }}") == "g"
    assert whole_placeholder("${{ matrix.g }}${{ matrix.g }}") is None


def test_directories_come_from_the_first_that_has_one_and_empty_is_none() -> None:
    values = directory_values(
        {"DATA_DIRECTORY": "/mine", "CACHE_DIRECTORY": "", "HOME": "/h"},
        {"DATA_DIRECTORY": "/theirs", "CACHE_DIRECTORY": "/cache"},
    )
    assert values == {"DATA_DIRECTORY": "/mine", "CACHE_DIRECTORY": "/cache"}
    missing: list[str] = []
    text = replace_directories("${DATA_DIRECTORY}/a ${NUSSL_DIRECTORY} ${HOME}", values, missing.append)
    assert (text, missing) == ("/mine/a ${NUSSL_DIRECTORY} ${HOME}", ["NUSSL_DIRECTORY"])
