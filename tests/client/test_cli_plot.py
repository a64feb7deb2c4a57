"""`plot` on the command line: what goes together, what is asked of the daemon, and what is left out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT, Responder, gpu_view, job_view, response
from .plotted import SUBMITTED, history, job, telemetry

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "say which jobs, or --machine"),
        (["12", "--machine"], "--machine stands for all jobs"),
        (["12", "--since", "7d"], "--since goes with --machine"),
        (["--machine", "--attempt", "1"], "--attempt goes with one job"),
        (["12", "-o", "a.png", "--terminal"], "--terminal draws no file"),
        (["12", "-o", "a.gif"], "must end in one of .png, .svg, .pdf"),
        (["12", "-o", "a"], "must end in one of .png, .svg, .pdf"),
        (["twelve"], "'twelve' is not a job's number"),
        (["--machine", "--since", "soon"], "--since takes how long ago"),
    ],
)
def test_what_does_not_go_together_is_refused(cli: Cli, words: list[str], complaint: str) -> None:
    done = cli("plot", *words, "--socket", "/nowhere")
    assert done.returncode == 2 and complaint in done.stderr, done


def test_jobs_are_drawn_in_a_pipe_as_plain_text(cli: Cli, responder: Responder) -> None:
    waiting = {**job_view(13, "queued"), "spec": {}, "attempts": [], "events": []}
    one = job(12, "train", waited=60.0, lasted=600.0)
    responder.will(
        response({"jobs": [one, waiting]}), response(one),
        response(telemetry(12, 1, waited=60.0, lasted=600.0)), response(waiting),
    )  # fmt: skip
    done = cli("plot", "p1", "--socket", str(responder.path))
    assert done.returncode == 0, done
    assert responder.lines()[2] == "GET /v1/jobs/12/telemetry?points=900 HTTP/1.1"
    shown = done.stdout.splitlines()
    assert shown[:2] == ["12 train", "ann, succeeded, waited 1m 00s, ran 10m 00s, card 0"]
    assert max(map(len, shown)) <= 80 and "\x1b" not in done.stdout
    assert done.stderr == "runners-client: left out, for they have not started: 13\n"


def test_the_width_and_the_encoding_are_what_the_terminal_says(
    cli: Cli, responder: Responder, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = job(12, "train")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    for words in (["12"], ["12", "--attempt", "2"]):
        responder.will(response(one), response(one), response(telemetry(12, 1)))
        done = cli("plot", *words, "--socket", str(responder.path))
        assert done.returncode == 0 and done.stdout.isascii() and "@" in done.stdout
        assert 100 < max(map(len, done.stdout.splitlines())) <= 120
    assert responder.lines()[-1] == "GET /v1/jobs/12/telemetry?attempt=2&points=900 HTTP/1.1"


def test_a_job_that_never_ran_cannot_be_drawn(cli: Cli, responder: Responder, tmp_path: Path) -> None:
    responder.will(response({**job_view(13, "queued"), "spec": {}, "attempts": [], "events": []}))
    done = cli("plot", "13", "--socket", str(responder.path))
    assert done.returncode == 2 and "job 13 has not started" in done.stderr
    one, empty = job(12, "train"), telemetry(12, 0, samples=0)
    responder.will(response(one), response(one), response(empty))
    done = cli("plot", "12", "-o", str(tmp_path / "a.png"), "--socket", str(responder.path))
    assert done.returncode == 1 and "cannot draw job 12: no measurements are kept" in done.stderr
    responder.will(response(one), response(one), response(empty))
    assert "no measurements are kept of it" in cli("plot", "12", "--socket", str(responder.path)).stdout


def test_too_many_jobs_are_refused(cli: Cli, responder: Responder) -> None:
    jobs = [job(id, "train") for id in range(1, 18)]
    each: list[Any] = [reply for one in jobs for reply in (response(one), response(telemetry(one["id"], 0)))]
    responder.will(response({"jobs": jobs}), *each)
    done = cli("plot", "p1", "--socket", str(responder.path))
    assert done.returncode == 2 and "17 jobs are too many: at most 16" in done.stderr
    responder.will(response({"jobs": jobs}))
    done = cli("plot", "p1", "--attempt", "1", "--socket", str(responder.path))
    assert done.returncode == 2 and "--attempt goes with one job, and there are 17" in done.stderr


def test_the_machine_is_drawn_from_its_history(cli: Cli, responder: Responder, tmp_path: Path) -> None:
    gpus = response({"gpus": [gpu_view(n, uuid=f"GPU-{n}") for n in range(4)], "bookings": []})
    view = history(4, 3, 2.0, SUBMITTED)
    first, rest = {**view, "jobs": view["jobs"][:2], "next": 2}, {**view, "jobs": view["jobs"][2:]}
    responder.will(gpus, response(first), response(rest))
    done = cli("plot", "--machine", "--since", "2026-01-29", "--socket", str(responder.path))
    assert done.returncode == 0, done
    assert [line.split()[1].partition("?")[0] for line in responder.lines()] == [
        "/v1/gpus",
        "/v1/history",
        "/v1/history",
    ]
    assert "after=2" in responder.lines()[-1]
    assert [line[:6] for line in done.stdout.splitlines() if line.startswith("card")] == [f"card {n}" for n in range(4)]
    responder.will(gpus, response(view))
    done = cli("plot", "--machine", "-o", str(tmp_path / "m.svg"), "--socket", str(responder.path))
    assert done.returncode == 0 and "card-hours" in (tmp_path / "m.svg").read_text()
    responder.will(response({"gpus": []}), response({"jobs": [], "changes": [], "next": None}))
    done = cli("plot", "--machine", "--socket", str(responder.path))
    assert (done.returncode, done.stderr) == (1, "runners-client: there are no cards, and none were used\n")


def test_characters_need_neither_matplotlib_nor_numpy(responder: Responder) -> None:
    one = job(12, "train")
    responder.will(response(one), response(one), response(telemetry(12, 1)))
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'client')!r})\n"
        "from runners.cli.main import run\n"
        f"assert run(['plot', '12', '--socket', {str(responder.path)!r}]) == 0\n"
        "print(*sorted({'matplotlib', 'numpy', 'rich', 'asyncio', 'yaml'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stderr == "\n"
