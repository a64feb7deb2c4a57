"""Attempts added up, and what a command is called by."""

from __future__ import annotations

import doctest
from array import array

import pytest

from runnersd.past import accounts
from runnersd.past.accounts import Account, script_of


@pytest.mark.parametrize(
    ("command", "script"),
    [
        ("python train.py --lr 0.1", "train.py"),
        ("/opt/env/bin/python3.11 -u src/train.py", "src/train.py"),
        (("python", "-m", "scripts.prepare", "-y", "x.yml"), "scripts.prepare"),
        ("CUDA_LAUNCH_BLOCKING=1 OMP_NUM_THREADS=2 torchrun --nproc-per-node 2 train.py", "train.py"),
        ("uv run python -m pkg.train a.py", "pkg.train"),
        ("python -c 'import x; run(\"a.py\")'", "python"),
        ("bash -c 'cat a.sh'", "bash"),
        ("python", "python"),
        ("./sweep.sh 3", "./sweep.sh"),
        ("sort numbers.py", "sort"),
        ("A=1", "A=1"),
        ("exit 3", "exit"),
        ("", ""),
        ("  \n", ""),
        (("a b c", "d"), "a b c"),
        ("x" * 100_000 + " y", "x" * 100_000),
    ],
)
def test_a_command_is_called_by_its_script_or_first_word(command: str | tuple[str, ...], script: str) -> None:
    assert script_of(command) == script


def test_examples_are_true() -> None:
    assert doctest.testmod(accounts).failed == 0


def test_accounts_add_up() -> None:
    one = Account(
        jobs=2, attempts=3, ended=2, failed=1, card_seconds=100.0, busy=3000.0, measured=50.0, idle=20.0, energy=7.0,
        waits=array("d", [1.0, 2.0]),
    )  # fmt: skip
    other = Account(
        jobs=1, attempts=1, ended=1, preempted=1, contaminated=1, card_seconds=50.0, busy=4000.0, measured=50.0,
        waits=array("d", [30.0]),
    )  # fmt: skip
    total = Account()
    for account in (one, other):
        total.add(account)
    assert (total.jobs, total.attempts, total.ended, total.preempted, total.contaminated) == (3, 4, 3, 1, 1)
    assert (total.card_seconds, total.idle, total.energy) == (150.0, 20.0, 7.0)
    assert (total.mean_wait, total.median_wait) == (11.0, 2.0)
    assert total.efficiency == 70.0
    assert total.failure_share == pytest.approx(1 / 3)
    assert list(one.waits) == [1.0, 2.0], "what is added is left as it was"


def test_what_is_not_known_is_none() -> None:
    nothing = Account()
    nothing.add(Account())
    known = (nothing.mean_wait, nothing.median_wait, nothing.efficiency, nothing.failure_share)
    assert (*known, nothing.idle, nothing.energy) == (None,) * 6
