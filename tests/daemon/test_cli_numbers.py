"""The numbers behind jobs, as `runners-client` shows them, against a real `runnersd` with a fake driver."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fake_nvml import FakeDriver
from harness.daemon import Daemon, eventually
from runnersd.server.openapi import schemas


@pytest.fixture(scope="module")
def daemon(fake_nvml_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A machine with two cards, on which jobs have run: one for each card, one that failed, one that still runs."""
    folder = tmp_path_factory.mktemp("numbers")
    driver = FakeDriver(fake_nvml_library, folder).add_cards(2)
    for card, busy in zip(driver.cards, (80, 20), strict=True):
        card.utilization, card.used, card.power = busy, busy << 29, 100.0 + busy
    driver.write()
    config = {"gpus": {"poll": 0.1}, "telemetry": {"every": 0.1}}
    with Daemon(folder / "d", config=config, env=driver.environment({})) as one:
        eventually("the cards are seen", lambda: len(one.client().gpus()) == 2)
        script = folder / "d" / "train.py"
        script.write_text("import sys\n")
        ids = one.submit(
            {"name": "a", "command": "python train.py 1", "num_gpus": 1},
            {"name": "b", "command": "python train.py 2", "num_gpus": 1},
            {"name": "c", "command": "exit 3", "num_gpus": 1, "retries": 1, "retry_delay": 0},
            name="study",
        )
        one.wait(*ids)
        [running] = one.submit({"name": "d", "command": "sleep 1000", "num_gpus": 2})
        eventually("it runs", lambda: one.job(running)["state"] == "running")
        yield one


def test_usage_adds_up_what_ran(daemon: Daemon) -> None:
    view = json.loads(daemon.run("usage", "--json").stdout)
    document = {"$ref": "#/components/schemas/UsageView", "components": {"schemas": schemas()}}
    jsonschema.validate(view, document)
    [row] = view["rows"]
    assert (row["jobs"], row["attempts"], row["failures"], row["failure_share"]) == (4, 5, 2, 0.5)
    assert row["card_seconds"] > 0 and row["wait_mean"] >= 0 and row["user"] == daemon.job(1)["user"]
    assert {name: view["total"][name] for name in view["total"]} == {name: row[name] for name in view["total"]}

    by_script = json.loads(daemon.run("usage", "--by", "script", "--json", "--since", "1h").stdout)
    assert {one["script"]: one["jobs"] for one in by_script["rows"]} == {"train.py": 2, "exit": 1, "sleep": 1}
    assert daemon.client().usage("pipeline", limit=1)["left_out"] == 1

    table = daemon.run("usage", "--by", "pipeline").stdout.decode().splitlines()
    assert table[0].split()[:4] == ["PIPELINE", "NAME", "USER", "JOBS"]
    assert {line.split()[0] for line in table[1:]} == {"p1", "p2", "total"}
    rows = list(csv.DictReader(io.StringIO(daemon.run("usage", "--by", "pipeline", "--csv").stdout.decode())))
    assert {row["pipeline"]: row["jobs"] for row in rows} == {"p1": "3", "p2": "1"}


def test_usage_refuses_what_it_does_not_know(daemon: Daemon) -> None:
    for words in (("--by", "card"), ("--since", "tomorrow"), ("--json", "--csv")):
        done = daemon.run("usage", *words)
        assert done.returncode == 2 and b"see `runners-client usage --help`" in done.stderr, done
    assert daemon.run("usage", "--since", "0").returncode == 0


def test_the_machine_is_drawn_as_it_was(daemon: Daemon) -> None:
    view = daemon.client().history()
    document = {"$ref": "#/components/schemas/HistoryView", "components": {"schemas": schemas()}}
    jsonschema.validate(view, document)
    assert [(job["name"], len(job["attempts"])) for job in view["jobs"]] == [("a", 1), ("b", 1), ("c", 2), ("d", 1)]
    uuids = [gpu["uuid"] for gpu in daemon.client().gpus()]
    assert sorted(view["jobs"][3]["attempts"][0]["gpus"]) == sorted(uuids)
    assert {change["uuid"] for change in view["changes"]} == set(uuids)
    done = daemon.run("plot", "--machine", "--since", "2s")
    assert done.returncode == 0, done
    rows = [line for line in done.stdout.decode().splitlines() if line.startswith("card")]
    assert [row.split()[:2] for row in rows] == [["card", "0"], ["card", "1"]]
    assert all(row.rstrip().endswith("a") for row in rows), "job d holds both cards now"
    user = daemon.job(1)["user"]
    assert f"a {user} " in done.stdout.decode()
    picture = daemon.folder / "machine.png"
    assert daemon.run("plot", "--machine", "-o", str(picture)).returncode == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_jobs_curves_are_the_drivers_numbers(daemon: Daemon) -> None:
    """Two cards that do the same all the time: 80 and 20 %, 40 and 10 GiB, 180 and 120 W."""
    eventually("it is sampled", lambda: len(daemon.client().telemetry(4)["at"]) > 5)
    shown = daemon.run("plot", "4").stdout.decode()
    assert shown.startswith("4 d\n") and ", running, waited " in shown and ", cards 0,1" in shown
    for line in (
        "GPU utilisation, card 0: mean 80, peak 80 %",
        "GPU utilisation, card 1: mean 20, peak 20 %",
        "GPU memory, card 0: mean 40, peak 40 of 80 GiB",
        "GPU power, card 1: mean 120, peak 120 W",
    ):
        assert line in shown, shown
    assert max(map(len, shown.splitlines())) <= 80
    picture = daemon.folder / "job.svg"
    done = daemon.run("plot", "4", "1", "-o", str(picture))
    assert done.returncode == 0, done
    assert "GPU power (W)" in picture.read_text()
    assert daemon.run("plot", "999").returncode == 5


def test_usage_says_how_busy_the_cards_are(daemon: Daemon) -> None:
    def told() -> Any:
        [row] = [row for row in daemon.client().usage("script")["rows"] if row["script"] == "sleep"]
        return row["efficiency"] is not None and row["energy"] and row

    row = eventually("its summary is kept", told)
    assert row["efficiency"] == pytest.approx(50.0)
    assert row["idle_card_seconds"] == 0.0
    assert " 50%" in daemon.run("usage", "--by", "script").stdout.decode()
