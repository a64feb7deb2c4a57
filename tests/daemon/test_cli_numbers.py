"""The numbers behind jobs, as `runners-client` shows them, against a real `runnersd` with a fake driver."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

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
    with Daemon(folder / "d", config={"gpus": {"poll": 0.1}}, env=driver.environment({})) as one:
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
