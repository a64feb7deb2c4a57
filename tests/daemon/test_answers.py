"""What a daemon answers to people who wait: when, why, behind whom, and what would be otherwise."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_nvml import FakeDriver
from harness.daemon import Daemon, eventually


@pytest.fixture
def daemon(fake_nvml: Callable[[int], FakeDriver], tmp_path: Path) -> Iterator[Daemon]:
    """A machine with two cards."""
    with Daemon(tmp_path / "d", env=fake_nvml(2).environment({})) as one:
        eventually("the cards are seen", lambda: len(one.client().gpus()) == 2)
        yield one


def sleeper(name: str, num_gpus: int = 1, **keys: Any) -> dict[str, Any]:
    return {"name": name, "command": "sleep 1000", "num_gpus": num_gpus, "time_limit": 3600, **keys}


def running(daemon: Daemon, *ids: int) -> None:
    eventually("they run", lambda: all(daemon.job(id)["state"] == "running" for id in ids))


def test_status_and_show_say_when_a_waiting_job_is_expected_to_start(daemon: Daemon) -> None:
    first, second = daemon.submit(sleeper("a"), sleeper("b", time_limit=1800))
    running(daemon, first, second)
    late, soon = daemon.submit(sleeper("wide", 2, time_limit=18000), sleeper("narrow"))
    eventually("both are foretold", lambda: all(daemon.job(id)["expected_start"] for id in (late, soon)))
    jobs = {job["id"]: job for job in json.loads(daemon.run("status", "--json").stdout)["jobs"]}
    started = {id: jobs[id]["started_at"] for id in (first, second)}
    assert jobs[soon]["expected_start"] == pytest.approx(started[second] + 1800, abs=1)
    assert jobs[late]["expected_start"] >= started[first] + 3600 - 1
    for id in (late, soon):
        earliest, latest = jobs[id]["expected_start_range"]
        assert time.time() - 60 < earliest <= jobs[id]["expected_start"] <= latest
        assert daemon.job(id)["expected_start_range"][1] == pytest.approx(latest, rel=1e-3)
    assert jobs[first]["expected_start"] is None
    waiting = [id for id, job in jobs.items() if job["state"] == "queued"]
    assert waiting == [soon, late], "they are listed as they will run"


def test_a_start_that_nobody_can_tell_is_not_told(daemon: Daemon) -> None:
    ids = daemon.submit(*({"name": name, "command": "sleep 1000", "num_gpus": 2} for name in "ab"))
    running(daemon, ids[0])
    job = eventually(
        "it is foretold", lambda: found if (found := daemon.job(ids[1])).get("expected_start_range") else None
    )
    assert job["expected_start"] is None
    assert job["expected_start_range"][1] is None


def test_show_says_who_is_ahead_and_what_would_help(daemon: Daemon) -> None:
    first, second = daemon.submit(sleeper("a"), sleeper("b", time_limit=1800))
    running(daemon, first, second)
    one, two = daemon.submit(sleeper("one"), sleeper("two"))
    eventually("it is foretold", lambda: daemon.job(two)["expected_start"])
    assert daemon.job(two)["ahead"] == {
        "count": 1,
        "jobs": [{"id": one, "name": "one", "user": daemon.job(one)["user"]}],
    }
    [uuid] = daemon.job(first)["gpus"]
    [index] = [gpu["index"] for gpu in daemon.client().gpus() if gpu["uuid"] == uuid]
    daemon.client().drain(uuid, "fan")
    daemon.client().cancel(first, now=True)
    daemon.wait(first)
    assert daemon.job(one)["would_start_now"] == [
        {"key": "undrain", "value": index, "text": f"if card {index} were undrained"}
    ]
    text = daemon.run("show", str(one)).stdout.decode()
    assert f"would start now if card {index} were undrained" in text
    assert "most likely between" in text and "ahead       nobody" in text
    daemon.client().undrain(uuid)
    running(daemon, one)
    assert "ahead" not in daemon.job(one)


def test_a_dry_submission_tells_what_would_come_of_it_and_queues_nothing(daemon: Daemon, tmp_path: Path) -> None:
    [first] = daemon.submit(sleeper("a"))
    running(daemon, first)
    file = tmp_path / "new.yml"
    file.write_text(
        "jobs:\n"
        "  - {name: fits, command: sleep 60, num_gpus: 1, time_limit: 10m}\n"
        "  - {name: wide, command: sleep 60, num_gpus: 2, time_limit: 10m}\n"
        "  - {name: after, command: 'true', needs: [fits], time_limit: 1m}\n"
    )
    events = daemon.run("status", "--json").stdout
    document = json.loads(daemon.run("submit", str(file), "--dry-run", "--json").stdout)
    fits, wide, after = document["jobs"]
    assert document["pipeline"] is None
    assert (fits["starts_now"], len(fits["gpus"])) == (True, 1)
    assert (wide["starts_now"], wide["reason"]["code"]) == (False, "no_free_gpu")
    assert "held by fits of this submission" in wide["reason"]["text"]
    assert after["reason"]["text"] == "waits for fits to succeed"
    assert after["expected_start"] == pytest.approx(time.time() + 600, abs=30)
    text = daemon.run("submit", str(file), "--dry-run").stdout.decode()
    assert "would start now on card 1" in text
    assert "would start about " in text
    assert [job["id"] for job in json.loads(daemon.run("status", "--json").stdout)["jobs"]] == [first]
    assert json.loads(events)["jobs"][0]["id"] == first
    assert daemon.submit(sleeper("b")) == [first + 1], "no number was used up"


def test_a_dry_submission_without_a_daemon_still_checks_the_file(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "new.yml"
    file.write_text("jobs:\n  - {name: a, command: 'true'}\n")
    daemon.stop()
    done = daemon.run("submit", str(file), "--dry-run")
    assert (done.returncode, done.stdout.decode()) == (3, "all right, not queued: new: 1 job\n  a\n")
    assert b"runners-client up" in done.stderr
    file.write_text("jobs:\n  - {name: a, comand: 'true'}\n")
    assert daemon.run("submit", str(file), "--dry-run").returncode == 2


def test_a_dry_change_shows_its_effect_on_others_and_changes_nothing(daemon: Daemon) -> None:
    first, second = daemon.submit(sleeper("a"), sleeper("b", time_limit=7200))
    running(daemon, first, second)
    one, two = daemon.submit(sleeper("one"), sleeper("two"))
    eventually("both are foretold", lambda: all(daemon.job(id)["expected_start"] for id in (one, two)))

    def effects(*words: str) -> dict[int, float | None]:
        done = daemon.run(*words, "--dry-run", "--json")
        assert done.returncode == 0, done.stderr
        [answer] = json.loads(done.stdout)["answers"]
        return {one["id"]: one["later"] for one in answer["effects"]}

    before = [daemon.job(id)["spec"] for id in (one, two)]
    assert effects("hold", str(one)) == {one: None, two: pytest.approx(-3600, abs=5)}
    moved = effects("priority", str(two), "5")
    assert list(moved) == [two, one], "the job itself comes first"
    assert moved == {two: pytest.approx(-3600, abs=5), one: pytest.approx(3600, abs=5)}
    ended = effects("cancel", str(first))
    assert ended == {one: pytest.approx(-3600, abs=60), two: pytest.approx(-3600, abs=60)}
    assert effects("update", str(one), "time_limit=10m")[two] == pytest.approx(-3000, abs=5)
    assert effects("release", str(one)) == {one: pytest.approx(0, abs=5)}
    assert [daemon.job(id)["spec"] for id in (one, two)] == before
    assert (daemon.job(first)["state"], daemon.job(one)["state"]) == ("running", "queued")
    text = daemon.run("priority", str(two), "5", "--dry-run").stdout.decode().splitlines()
    assert text[0] == f"not done: what it would mean for {two} and for others"
    assert text[1].split() == ["ID", "NAME", "USER", "STARTS", "THEN", "DIFFERENCE"]
    assert text[2].endswith("1h 00m earlier")
    assert daemon.run("hold", "99", "--dry-run").returncode == 5
    assert daemon.run("update", str(one), "num_gpus=9", "--dry-run").returncode == 2


def test_a_dry_cancel_says_which_jobs_it_would_stop(daemon: Daemon) -> None:
    first, second = daemon.submit(sleeper("a"), sleeper("b"))
    running(daemon, first, second)
    [waiting] = daemon.submit(sleeper("waits"))
    pipeline = daemon.job(first)["pipeline"]
    text = daemon.run("cancel", pipeline, str(waiting), "--dry-run").stdout.decode().splitlines()
    assert [line.split("; it has run for")[0] for line in text[1:3]] == [
        f"{first} a would be stopped",
        f"{second} b would be stopped",
    ]
    assert not any(line.startswith(f"{waiting} waits would be stopped") for line in text)
    document = json.loads(daemon.run("cancel", pipeline, str(waiting), "--dry-run", "--json").stdout)
    assert [answer["stops"] for answer in document["answers"]] == [[first, second], []]
    assert daemon.job(first)["state"] == "running"


def test_the_log_says_what_a_plan_does_once(daemon: Daemon) -> None:
    first, second = daemon.submit(sleeper("a"), sleeper("b", time_limit=7200))
    running(daemon, first, second)
    [wide] = daemon.submit(sleeper("wide", 2))
    eventually("cards are kept", lambda: f"for {wide} wide (" in daemon.log.read_text())
    for n in range(5):  # each makes a turn
        daemon.client().update(wide, {"name": f"wide{n}"})
    plans = [line for line in daemon.log.read_text().splitlines() if " plan: " in line]
    assert any(f"starts {first} a (" in line and "started=" in line for line in plans)
    [kept] = [line for line in plans if "keeps cards 0,1 for" in line]
    assert kept.endswith(f"kept={wide}")
