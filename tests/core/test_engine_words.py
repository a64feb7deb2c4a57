"""What an engine, a registry or an image says becomes part of sentences that everybody reads: in a harmless form."""

from __future__ import annotations

import json

import pytest

from runnersd.machine.docker.errors import LONGEST, one_line
from runnersd.machine.docker.result import gate_failure, start_failure

EVIL = "boo\x1b[2J\x1b]0;title\x07\r\nroot@host:~# \x00\x9b31m\u202eevil\ud800" + "x" * 100_000
ENDED = {"State": {"Status": "exited", "ExitCode": 125, "Error": ""}}


def harmless(text: str) -> bool:
    json.dumps(text).encode()
    text.encode()  # no half of a pair, which the database does not take
    return text.isprintable() and len(text) <= LONGEST + 200


@pytest.mark.parametrize(
    "text",
    [
        one_line(EVIL),
        gate_failure(ENDED, EVIL),
        gate_failure(ENDED, f"cannot run \x1b[31m{EVIL}"),
        gate_failure({"State": {**ENDED["State"], "Error": EVIL}}, ""),
        start_failure({"State": {**ENDED["State"], "Error": EVIL}}, ""),
        start_failure(ENDED, EVIL),
    ],
)
def test_nothing_that_moves_a_cursor_or_fills_a_screen(text: str) -> None:
    assert harmless(text), text[:200]


def test_plain_words_stay_as_they_are() -> None:
    assert one_line("pull access denied for x,\n repository does not exist") == (
        "pull access denied for x, repository does not exist"
    )
    assert gate_failure(ENDED, "cannot run mypy: no such program in the image").startswith("cannot run mypy")
