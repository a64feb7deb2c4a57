"""When jobs will start, in words."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from runners.cli.sentences import queued
from runners.render import foretold
from runners.render.detail import detail
from runners.render.plain import jobs

from .conftest import Responder, job_view, response

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
NOON = time.mktime((2026, 3, 4, 12, 0, 0, 0, 0, -1))
HOUR = 3600.0


@pytest.mark.parametrize(
    ("likely", "between", "said"),
    [
        (None, None, ""),
        (NOON, [NOON, NOON + 1], "now"),
        (NOON + HOUR, [NOON, NOON + 2 * HOUR], "about 13:00, most likely between now and 14:00"),
        (NOON + 2 * HOUR, [NOON + HOUR, NOON + 30 * HOUR], "about 14:00, most likely between 13:00 and Thu 18:00"),
        (NOON + HOUR, None, "about 13:00"),
    ],
)
def test_an_expected_start(likely: float | None, between: Any, said: str) -> None:
    assert foretold.expected(likely, between, NOON) == said


def test_what_nobody_can_tell_is_said() -> None:
    assert foretold.expected(None, [NOON, None], NOON).startswith("nobody can say when")
    assert foretold.expected(None, [NOON + HOUR, None], NOON).startswith("hardly before 13:00; nobody can say when")


def test_a_submission_whose_start_nobody_can_tell_would_wait() -> None:
    job = {"starts_now": False, "reason": {"text": "no"}, "expected_start": None, "expected_start_range": [NOON, None]}
    assert foretold.foreseen(job, {}, NOON)[0].startswith("would wait; nobody can say when")


def test_who_is_ahead() -> None:
    named = [{"id": 7, "name": "fit", "user": "ann"}]
    assert foretold.ahead(cast(Any, {"count": 0, "jobs": []})) == "nobody"
    assert foretold.ahead(cast(Any, {"count": 1, "jobs": named})) == "1 job: 7 fit (ann)"
    assert foretold.ahead(cast(Any, {"count": 3, "jobs": named})) == "3 jobs: 7 fit (ann) and 2 more"


def effect(id: int, before: float | None, after: float | None, **keys: Any) -> Any:
    later = None if before is None or after is None else after - before
    ranges = {f"{name}_range": None if at is None else [at, at] for name, at in (("before", before), ("after", after))}
    return {"id": id, "name": "fit", "user": "ann", "before": before, "after": after, "later": later, **ranges, **keys}


def test_effects_are_a_table() -> None:
    lines = foretold.effects(
        [
            effect(7, NOON + HOUR, None),
            effect(12, NOON + 2 * HOUR, NOON),
            effect(13, NOON, NOON + HOUR),
            effect(14, None, NOON, before_range=[NOON, None]),
            effect(15, NOON, NOON),
        ],
        NOON,
    )
    assert [line.split(None, 3) for line in lines] == [
        ["ID", "NAME", "USER", "STARTS     THEN    DIFFERENCE"],
        ["7", "fit", "ann", "~13:00     -       would not start"],
        ["12", "fit", "ann", "~14:00     now     2h 00m earlier"],
        ["13", "fit", "ann", "now        ~13:00  1h 00m later"],
        ["14", "fit", "ann", "not known  now     not known"],
        ["15", "fit", "ann", "now        now     none"],
    ]
    assert foretold.effects([], NOON) == ["nobody would start earlier or later"]


def test_a_submission_that_is_only_tried() -> None:
    waits = {"id": None, "name": "b", "starts_now": False, "gpus": [], "reason": {"code": "x", "text": "needs 1 card"}}
    waits |= {"expected_start": NOON + HOUR, "expected_start_range": [NOON + HOUR, NOON + 2 * HOUR]}
    starts = {**waits, "name": "a", "starts_now": True, "gpus": ["GPU-b", "GPU-a"]}
    made = {"pipeline": None, "jobs": [starts, waits, {"id": None, "name": "c"}]}
    said = [foretold.foreseen(job, {"GPU-a": 0, "GPU-b": 3}, NOON) for job in made["jobs"]]
    assert queued(made, "p", False, said).splitlines() == [
        "all right, not queued: p: 3 jobs",
        "  a",
        "      would start now on cards 0, 3",
        "  b",
        "      would start about 13:00, most likely between 13:00 and 14:00",
        "      needs 1 card",
        "  c",
    ]


def test_show_has_it_and_the_plain_table_too() -> None:
    job = job_view(3, "queued", expected_start=NOON + HOUR, expected_start_range=[NOON, NOON + 2 * HOUR])
    job |= {"spec": {"command": "true"}, "attempts": [], "events": []}
    job |= {"ahead": {"count": 1, "jobs": [{"id": 2, "name": "fit", "user": "b\x1b[31mob"}]}}
    job |= {"would_start_now": [{"key": "num_gpus", "value": 1, "text": "with 1 card"}]}
    text = ["".join(part for part, _ in line) for line in detail(cast(Any, job), {}, NOON)]
    assert "  starts      about 13:00, most likely between now and 14:00" in text
    assert "  ahead       1 job: 2 fit (b\N{REPLACEMENT CHARACTER}[31mob)" in text
    assert "  would start now with 1 card" in text
    head, row = (line.split() for line in jobs([cast(Any, job)], {}, NOON))
    assert row[head.index("STARTS_IN")] == "~1h00m"


def test_a_dry_change_asks_and_does_not_change(cli: Cli, responder: Responder) -> None:
    responder.will(response({"dry_run": True, "effects": [effect(7, NOON, NOON + HOUR)], "jobs": []}))
    done = cli("priority", "7", "-5", "--dry-run", "--socket", str(responder.path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "not done: what it would mean for 7 and for others"
    assert responder.lines() == ["PATCH /v1/jobs/7 HTTP/1.1"]
    assert responder.bodies() == [{"priority": -5, "dry_run": True}]
    done = cli("cancel", "7", "--dry-run", "--json", "--socket", str(responder.path))
    assert responder.bodies()[1] == {"dry_run": True}
    assert json.loads(done.stdout)["answers"][0]["id"] == "7"
