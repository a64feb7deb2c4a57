"""Bookings from the command line to the queue: real users at a real daemon, on the cards of a fake driver."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from daemon.somebody import Refused, Somebody
from fake_nvml import FakeDriver
from harness.daemon import Daemon, eventually

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")

ADA, BOB = 61001, 61002
HOUR = 3600.0


@pytest.fixture
def daemon(fake_nvml: Callable[[int], FakeDriver], tmp_path: Path) -> Iterator[Daemon]:
    """A machine with four cards, whose daemon everybody may ask."""
    driver = fake_nvml(4)
    with Daemon(tmp_path / "d", config={"gpus": {"poll": 0.1}}, env=driver.environment({})) as one:
        eventually("the cards are seen", lambda: len(one.client().gpus()) == 4)
        one.socket.chmod(0o666)
        one.socket.parent.chmod(0o711)
        for folder in (one.folder, *one.folder.parents):
            if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
                folder.chmod(folder.stat().st_mode | 0o011)
        yield one


def out(daemon: Daemon, *words: str, code: int = 0) -> str:
    """What the client prints; on stderr where it refuses."""
    done = daemon.run(*words)
    assert done.returncode == code, (done.stdout, done.stderr)
    return (done.stderr if code else done.stdout).decode()


def test_cards_are_booked_listed_shown_and_given_back(daemon: Daemon) -> None:
    assert out(daemon, "reserve") == "nothing is booked\n"
    assert out(daemon, "reserve", "--gpus", "2", "--for", "4h", "--reason", "demo day").startswith(
        "booking 1: cards 0,1 until "
    )
    made = json.loads(out(daemon, "reserve", "--cards", "3,2", "--for", "90m", "--at", "+2h", "--json"))
    assert made["ends_at"] - made["starts_at"] == 5400
    assert made["starts_at"] == pytest.approx(time.time() + 2 * HOUR, abs=60)
    assert (made["id"], made["active"], made["reason"]) == (2, False, "")
    cards = {gpu["index"]: gpu for gpu in daemon.client().gpus()}
    assert made["gpus"] == [cards[2]["uuid"], cards[3]["uuid"]]
    assert [cards[n]["booking"] for n in range(4)] == [1, 1, 2, 2]

    listed = out(daemon, "reserve").splitlines()
    assert listed[0].split() == ["BOOKING", "GPUS", "USER", "WHEN", "NOTE", "REASON"]
    assert listed[1].split()[:2] == ["1", "0,1"] and listed[1].endswith("  demo day")
    for words in (["status"], ["gpus"]):
        assert listed[2] in out(daemon, *words).splitlines()
        document = json.loads(out(daemon, *words, "--json"))
        assert [one["id"] for one in document["bookings"]] == [1, 2]
    assert [one["id"] for one in json.loads(out(daemon, "reserve", "--list", "--json"))["bookings"]] == [1, 2]

    daemon.kill()
    daemon.start()
    eventually("the cards are seen", lambda: len(daemon.client().gpus()) == 4)
    assert [one["id"] for one in daemon.client().bookings()] == [1, 2], "kept over restarts"
    assert out(daemon, "reserve", "--cancel", "1") == "booking 1 is cancelled\n"
    assert json.loads(out(daemon, "reserve", "--cancel", "2", "--json"))["bookings"][0]["id"] == 2
    assert "there is none, or it is over" in out(daemon, "reserve", "--cancel", "2", code=5)
    assert daemon.client().bookings() == []


def test_cards_of_a_compute_capability_are_booked(tmp_path: Path, fake_nvml: Callable[[int], FakeDriver]) -> None:
    driver = fake_nvml(3)
    driver.cards[0].capability, driver.cards[1].capability, driver.cards[2].capability = "8.6", "10.0", "9.0"
    driver.write()
    with Daemon(tmp_path / "of", env=driver.environment({})) as daemon:
        eventually("the cards are seen", lambda: len(daemon.client().gpus()) == 3)
        words = ("reserve", "--for", "4h", "--gpu-capability", "9")
        assert out(daemon, *words, "--gpus", "2").startswith("booking 1: cards 1,2 until ")
        assert "cannot book 3 cards of compute capability 9.0 or more: this machine has 2" in out(
            daemon, *words, "--gpus", "3", code=2
        )


def test_an_iso_time_is_local(daemon: Daemon) -> None:
    at = datetime.fromtimestamp(int(time.time() + 5 * HOUR)).isoformat()
    made = json.loads(out(daemon, "reserve", "-g1", "--for", "1h", "--at", at, "--json"))
    assert made["starts_at"] == datetime.fromisoformat(at).timestamp()


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--gpus", "1"], 2, "--for is missing"),
        (["--for", "4h"], 2, "--gpus 2) or which (--cards 0,1)"),
        (["--gpus", "1", "--cards", "0", "--for", "4h"], 2, "one of the two"),
        (["--gpus", "1", "--for", "soon"], 2, "not a duration"),
        (["--gpus", "1", "--for", "4h", "--at", "soon"], 2, "not a time: write an ISO time"),
        (["--gpus", "1", "--for", "4h", "--at", "2020-01-31T18:00"], 2, "a time that is over"),
        (["--gpus", "9", "--for", "4h"], 2, "cannot book 9 cards: this machine has 4"),
        (["--gpus", "1", "--gpu-model", "*T4*", "--for", "4h"], 2, "like *T4*: this machine has none"),
        (
            ["--gpus", "1", "--gpu-capability", "9.1", "--for", "4h"],
            2,
            "1 card of compute capability 9.1 or more: this machine has none",
        ),
        (
            ["--gpus", "1", "--gpu-capability", "sm_90", "--for", "4h"],
            2,
            "gpu_capability: must be a CUDA compute capability such as 8.0",
        ),
        (["--cards", "0", "--gpu-capability", "8.0", "--for", "4h"], 2, "gpu_capability) or which (cards), not both"),
        (["--cards", "0,7", "--for", "4h"], 2, "cannot find card '7'"),
        (["--cancel", "1", "--gpus", "1"], 2, "--cancel does not go with --gpus"),
        (["--cancel", "x"], 5, "a booking's id is a number"),
        (["--list", "--for", "1h"], 2, "--list does not go with --for"),
    ],
)
def test_what_cannot_be_booked_is_refused_with_what_to_do(
    daemon: Daemon, words: list[str], code: int, told: str
) -> None:
    assert told in out(daemon, "reserve", *words, code=code)
    assert daemon.client().bookings() == []


def test_what_is_booked_already_is_refused_by_name(daemon: Daemon) -> None:
    out(daemon, "reserve", "--gpus", "3", "--for", "4h")
    refused = out(daemon, "reserve", "--gpus", "2", "--for", "1h", code=2)
    assert "1 can be had" in refused and "you have booked it" in refused and "it is possible from" in refused
    assert "cards 2,3" not in out(daemon, "reserve", "--gpus", "1", "--for", "1h")


@needs_root
def test_the_queue_goes_round_a_booking_and_its_owner_uses_it(daemon: Daemon) -> None:
    with Somebody(daemon, ADA) as ada, Somebody(daemon, BOB) as bob:

        def sleep(who: Somebody, **keys: Any) -> int:
            job = {"name": "sleep", "command": ["sleep", "100"], "num_gpus": 1, **keys}
            return who.submit(job, cwd="/tmp")[0]

        def runs(id: int) -> Any:
            return eventually(f"{id} runs", lambda: (job := daemon.job(id))["state"] == "running" and job)

        indices = {gpu["uuid"]: gpu["index"] for gpu in daemon.client().gpus()}
        here = sleep(bob, gpus=["0"])
        runs(here)
        booking = ada.call("book", {"cards": ["0", "1"], "for": "2h", "reason": "demo"})
        assert (booking["user"], booking["uid"]) == (str(ADA), ADA)
        assert booking["text"] == f"waits for job {here} ({BOB})"
        assert "waits for job" in out(daemon, "status")

        short, endless = sleep(bob, gpus=["1"], time_limit="1m"), sleep(bob, gpus=["1"])
        other = sleep(bob)
        assert indices[runs(other)["gpus"][0]] in (2, 3)
        reason = daemon.job(endless)["reason"]
        assert reason["code"] == "behind_reservation"
        assert reason["text"].startswith(f"{ADA} has booked card 1 until ")
        assert daemon.job(short)["state"] == daemon.job(endless)["state"] == "queued"
        mine = sleep(ada)
        assert [indices[uuid] for uuid in runs(mine)["gpus"]] == [1], "the owner's jobs go to booked cards first"
        assert daemon.job(here)["state"] == "running", "nobody is stopped for a booking"

        with pytest.raises(Refused) as refused:
            bob.call("unbook", booking["id"])
        assert (refused.value.kind, refused.value.status) == ("NotAllowed", 403)
        ada.call("unbook", booking["id"])
        daemon.client().cancel(mine, now=True)
        runs(short)


@needs_root
def test_a_running_job_gets_no_longer_limit_over_somebodys_booking(daemon: Daemon) -> None:
    with Somebody(daemon, ADA) as ada, Somebody(daemon, BOB) as bob:
        job = {"name": "sleep", "command": ["sleep", "100"], "num_gpus": 1, "gpus": ["2"], "time_limit": "1h"}
        (id,) = bob.submit(job, cwd="/tmp")
        eventually("it runs", lambda: daemon.job(id)["state"] == "running")
        ada.call("book", {"cards": ["2"], "for": "1h", "at": time.time() + 2 * HOUR})
        with pytest.raises(Refused, match=f"no time limit: {ADA} has booked card 2 .*; it may have ") as refused:
            bob.call("update", id, {"time_limit": None})
        assert (refused.value.kind, refused.value.status) == ("AlreadyTaken", 409)
        assert daemon.job(id)["spec"]["time_limit"] == HOUR
        bob.call("update", id, {"time_limit": "90m"})
        assert daemon.job(id)["spec"]["time_limit"] == 1.5 * HOUR
        out(daemon, "update", str(id), "time_limit=4h")
        assert daemon.job(id)["spec"]["time_limit"] == 4 * HOUR, "an operator decides"


@needs_root
def test_who_is_no_operator_books_no_more_than_their_share(daemon: Daemon) -> None:
    with Somebody(daemon, ADA) as ada, Somebody(daemon, BOB) as bob:
        for wish, told in [
            ({"gpus": 3, "for": "1h"}, "you may book 2 at a time"),
            ({"gpus": 1, "for": "8d"}, "beyond the next 7 days"),
        ]:
            with pytest.raises(Refused, match=told) as refused:
                ada.call("book", wish)
            assert refused.value.kind == "NotAllowed"
        ada.call("book", {"gpus": 2, "for": "1h"})
        with pytest.raises(Refused, match="you have 2 booked at that time"):
            ada.call("book", {"gpus": 1, "for": "1h"})
        bob.call("book", {"gpus": 2, "for": "1h"})
        refused_to_root = out(daemon, "reserve", "--cards", "0", "--for", "1h", code=2)
        assert f"{ADA} has booked it" in refused_to_root
        daemon.client().unbook(1)
        assert "until" in out(daemon, "reserve", "--gpus", "2", "--for", "30d")
        daemon.configure({"gpus": {"poll": 0.1}, "scheduling": {"quotas": {"default": {"gpus": 1}}}})
        daemon.kill()
        daemon.start()
        eventually("the cards are seen", lambda: len(daemon.client().gpus()) == 4)
        daemon.socket.chmod(0o666)
        with pytest.raises(Refused, match="you may book 1 at a time"):
            ada.call("book", {"gpus": 2, "for": "1h"})
