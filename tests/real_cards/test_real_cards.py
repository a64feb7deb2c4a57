"""A real daemon and real jobs on real cards. `nvidia-smi` and the jobs themselves say what is so.

CI has no card, so `make test` leaves these out; `make test-cards` runs them.
"""

from __future__ import annotations

import os
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from daemon.somebody import Somebody
from harness import oracle
from harness.daemon import ROOT, Daemon, eventually
from harness.nvidia_smi import Told, people

pytestmark = pytest.mark.real_cards

MIB, GIB = 1 << 20, 1 << 30
POLL = 0.25
CUDA = [sys.executable, str(ROOT / "tests" / "harness" / "cuda.py")]
#: Where the driver's libraries are, if that is nowhere usual.
SURROUNDINGS = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}


@pytest.fixture(scope="module")
def daemon(told: list[Told], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that has seen the cards."""
    config = {"gpus": {"poll": POLL, "margin": "1GiB"}, "telemetry": {"every": POLL}}
    with Daemon(tmp_path_factory.mktemp("cards") / "d", config=config) as daemon:
        eventually("the cards are seen", lambda: len(daemon.client().gpus()) == len(told))
        yield daemon


@pytest.fixture(autouse=True)
def left_as_found(daemon: Daemon) -> Iterator[None]:
    """Nobody is on the cards after a test, and all of them are free."""
    yield
    eventually("the cards are left", lambda: not people())
    eventually("the cards are free", lambda: {one["state"] for one in daemon.client().gpus()} == {"free"})


def submit(daemon: Daemon, *words: object, **keys: Any) -> int:
    """A job on the first card."""
    command = shlex.join([*CUDA, *map(str, words)])
    job = {"name": "cuda", "command": command, "num_gpus": 1, "gpus": ["0"], **keys}
    (id,) = daemon.submit(job, env=SURROUNDINGS)
    return id


def says(daemon: Daemon, id: int) -> str:
    return daemon.run("logs", str(id)).stdout.decode()


def ready(daemon: Daemon, id: int) -> None:
    eventually(f"{id} is on its card", lambda: "ready" in says(daemon, id))


def card(daemon: Daemon) -> Any:
    return daemon.client().gpus()[0]


@contextmanager
def somebody(*words: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process on the cards that is no job's."""
    process = subprocess.Popen([*CUDA, *map(str, words)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"ready")
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_cards_are_seen_as_nvidia_smi_sees_them(daemon: Daemon, told: list[Told]) -> None:
    seen = daemon.client().gpus()
    assert [
        Told(card["uuid"], card["name"], card["memory_total"] // MIB, card["compute_capability"]) for card in seen
    ] == told
    assert [card["index"] for card in seen] == list(range(len(told)))
    for card in seen:
        assert 0 <= card["memory_used"] < card["memory_total"] and card["power"] > 0 and 0 < card["temperature"] < 120


def test_a_job_computes_on_its_card_and_on_no_other(daemon: Daemon) -> None:
    id = submit(daemon, 4096, 4, "work")
    ready(daemon, id)
    pids = eventually("nvidia-smi sees it", people)
    seen = card(daemon)
    assert (seen["state"], seen["jobs"], seen["foreign_pids"]) == ("reserved", [id], []), f"{pids} are the job's"
    (job,) = daemon.wait(id)
    assert job["state"] == "succeeded", says(daemon, id)
    assert says(daemon, id).split() == ["ready", *job["attempts"][0]["gpus"]]
    (measured,) = job["attempts"][0]["telemetry"]["gpus"]
    assert 4 * GIB <= measured["memory"]["peak"] < 8 * GIB
    assert measured["utilization"]["peak"] > 90
    assert 0 < measured["power"]["mean"] <= measured["power"]["peak"]
    assert not job["attempts"][0].get("contaminated")


def test_shares_run_side_by_side_and_what_does_not_fit_waits(daemon: Daemon, told: list[Told]) -> None:
    most = told[0].memory // 1024 * 2 // 5
    share = {"gpu_shared": True, "gpu_memory": f"{most}GiB"}
    one, other, third = (submit(daemon, 1024, 6, **share) for _ in range(3))
    ready(daemon, one)
    ready(daemon, other)
    assert card(daemon)["state"] == "shared" and sorted(card(daemon)["jobs"]) == [one, other]
    assert "left" in daemon.job(third)["reason"]["text"]
    assert [job["state"] for job in daemon.wait(one, other, third)] == ["succeeded"] * 3
    begun = [daemon.job(id)["attempts"][0]["started_at"] for id in (one, other, third)]
    assert begun[2] > max(begun[:2]) + 3


def test_a_card_with_somebody_elses_process_is_not_given(daemon: Daemon) -> None:
    with somebody(2048, 600) as other:
        eventually("it is seen", lambda: card(daemon)["foreign_pids"] == [other.pid])
        id = submit(daemon, 64, 0)
        reason = eventually("it waits", lambda: daemon.job(id).get("reason"))
        assert reason["code"] == "foreign_gpu_use" and f"(pid {other.pid}, " in reason["text"]
        eventually("all of its memory is seen", lambda: card(daemon)["foreign"][0]["memory"] >= 2 * GIB)
        gone = time.time()
    (job,) = daemon.wait(id)
    assert job["state"] == "succeeded"
    assert job["attempts"][0]["started_at"] - gone < 5, "a card that is free again is not left so"


def test_an_intruder_is_noted_with_the_job(daemon: Daemon) -> None:
    id = submit(daemon, 64, 600)
    ready(daemon, id)
    with somebody(1024, 600) as other:
        noted = eventually("it is noted", lambda: daemon.job(id)["attempts"][0].get("contaminated"))
        assert noted[0]["pid"] == other.pid
    daemon.client().cancel(id)
    assert daemon.wait(id)[0]["state"] == "cancelled"


def test_what_a_job_leaves_on_its_card_ends_with_it(daemon: Daemon) -> None:
    left = shlex.join([*CUDA, "1024", "600"])
    (id,) = daemon.submit(
        {"name": "leaves", "command": f"setsid {left} > left & until grep -q ready left; do sleep 0.1; done",
         "num_gpus": 1, "gpus": ["0"]},
        env=SURROUNDINGS,
    )  # fmt: skip
    after = submit(daemon, 64, 0)
    assert [job["state"] for job in daemon.wait(id, after)] == ["succeeded"] * 2
    assert not daemon.job(after)["attempts"][0].get("contaminated")


def test_a_job_keeps_its_card_while_its_daemon_is_killed(daemon: Daemon) -> None:
    id = submit(daemon, 1024, 8, "work")
    ready(daemon, id)
    daemon.kill()
    daemon.start()
    eventually("it is seen again", lambda: card(daemon)["jobs"] == [id])
    assert (card(daemon)["state"], card(daemon)["foreign_pids"]) == ("reserved", [])
    (job,) = daemon.wait(id)
    assert (job["state"], len(job["attempts"])) == ("succeeded", 1)


def test_jobs_that_compute_never_meet_on_a_card_while_daemons_are_killed(daemon: Daemon, told: list[Told]) -> None:
    evidence, dice = daemon.folder / "oracle", random.Random(3)
    compute = shlex.join([*CUDA, "256", "0.3", "work"])
    jobs = []
    for number in range(24):
        leaves = shlex.join(oracle.command(evidence, dice.uniform(0, 0.5)))
        count = dice.randint(1, len(told))
        jobs.append({"name": f"j{number}", "command": f"{compute} & {leaves}; wait", "num_gpus": count})
    ids = daemon.submit(*jobs, num_jobs=24, env=SURROUNDINGS)
    for _ in range(3):
        time.sleep(dice.uniform(0.5, 2.5))
        daemon.kill()
        daemon.start()
    found = {job["id"]: job for job in daemon.wait(*ids)}
    oracle.check(oracle.read(evidence), found)
    assert not any(attempt.get("contaminated") for job in found.values() for attempt in job["attempts"])


def test_a_page_fault_is_told_of_its_job_and_takes_no_card_out(daemon: Daemon) -> None:
    id = submit(daemon, 64, 5, "fault")
    (job,) = daemon.wait(id)
    assert (job["state"], job["exit_code"]) == ("failed", 3) and "refused cuCtxSynchronize: 7" in says(daemon, id)
    events = eventually("it is told", lambda: [one for one in daemon.job(id)["events"] if "xid" in one])
    assert events[0]["xid"]["number"] in (13, 31) and events[0]["xid"]["gpu"] == card(daemon)["uuid"]
    assert card(daemon)["state"] == "free"


def test_memory_that_runs_out_fails_the_job_alone(daemon: Daemon, told: list[Told]) -> None:
    id = submit(daemon, 64, 60, "fill")
    (job,) = daemon.wait(id)
    assert (job["state"], job["exit_code"]) == ("failed", 3) and "refused cuMemAlloc_v2: 2" in says(daemon, id)
    again = submit(daemon, 1024, 0)
    assert daemon.wait(again)[0]["state"] == "succeeded"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's daemon runs jobs of other users")
def test_jobs_of_different_users_have_the_card_one_after_the_other(daemon: Daemon) -> None:
    daemon.socket.chmod(0o666)
    daemon.socket.parent.chmod(0o711)
    job = {"name": "cuda", "command": [*CUDA, "1024", "1"], "num_gpus": 1, "gpus": ["0"]}
    with Somebody(daemon, 4321) as one, Somebody(daemon, 4322) as other:
        ids = [user.submit(job, cwd="/tmp", env=SURROUNDINGS)[0] for user in (one, other)]
        first, second = daemon.wait(*ids)
        assert [job["state"] for job in (first, second)] == ["succeeded"] * 2, [says(daemon, id) for id in ids]
        assert second["started_at"] >= first["finished_at"]
        assert not any(job["attempts"][0].get("contaminated") for job in (first, second))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's daemon keeps cards from jobs")
def test_a_job_that_names_a_card_it_has_not_got_does_not_get_it(daemon: Daemon, told: list[Told]) -> None:
    daemon.socket.chmod(0o666)
    daemon.socket.parent.chmod(0o711)
    command = ["env", f"CUDA_VISIBLE_DEVICES={','.join(map(str, range(len(told))))}", *CUDA, "64", "0"]
    with Somebody(daemon, 4321) as somebody:
        ids = [
            somebody.submit({"name": "greedy", "command": command, **keys}, cwd="/tmp", env=SURROUNDINGS)[0]
            for keys in ({}, {"num_gpus": 1, "gpus": ["0"]})
        ]
        without, with_one = daemon.wait(*ids)
    assert (without["state"], without["exit_code"]) == ("failed", 3) and "refused cuInit" in says(daemon, without["id"])
    assert with_one["state"] == "succeeded"
    assert says(daemon, with_one["id"]).split() == ["ready", *with_one["attempts"][0]["gpus"]]


def test_a_job_that_computes_can_be_cancelled(daemon: Daemon) -> None:
    id = submit(daemon, 1024, 600, "work")
    ready(daemon, id)
    daemon.client().cancel(id)
    assert daemon.wait(id)[0]["state"] == "cancelled"


def test_the_doctor_finds_nothing_wrong_with_the_cards(daemon: Daemon, told: list[Told], tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "runnersd", "doctor", "--json", "--state-dir", tmp_path / "s"],
        env=daemon.env, capture_output=True, text=True, timeout=60, check=False,
    ).stdout  # fmt: skip
    assert told[0].name in said, said
