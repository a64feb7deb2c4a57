"""Cards in containers: held by one at a time, by the payloads' own evidence, and exactly those that were reserved."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon.containers import Lab, lab_on
from engine import BARE, CARDS, PROGRAM, Engine
from fake_nvml import FakeDriver
from fake_nvml.driver import Process
from harness import oracle
from harness.daemon import eventually

QUICK = {"gpus": {"poll": 0.05, "timeout": 0.5}}
#: Leaves the oracle's evidence, and the card nodes that it sees and whether each opens, in files of the code directory.
PAYLOAD = f"""
say() {{ echo "$1 $RUNNERS_JOB_ID $RUNNERS_ATTEMPT $$ $({PROGRAM} clock) ${{CUDA_VISIBLE_DEVICES:--}}" >> oracle; }}
say start
seen=
for node in /dev/nvidia[0-9]*; do
    [ -e $node ] && {{ {PROGRAM} open $node 2>/dev/null; seen="$seen ${{node#/dev/nvidia}}=$?"; }}
done
echo "$RUNNERS_JOB_ID$seen" >> seen
sleep $1
say end
exit $2
"""


@pytest.fixture(scope="module")
def driver(fake_nvml_library: Path, tmp_path_factory: pytest.TempPathFactory) -> FakeDriver:
    """A driver with the cards that the engine's hook knows."""
    made = FakeDriver(fake_nvml_library, tmp_path_factory.mktemp("driver")).add_cards(len(CARDS))
    assert [card.uuid for card in made.cards] == list(CARDS)
    return made


@pytest.fixture(scope="module")
def cards_lab(shared_docker_engine: Engine, driver: FakeDriver) -> Iterator[Lab]:
    """The lab below `lab`; take that one."""
    with lab_on(shared_docker_engine, env=driver.environment({}), config=QUICK) as lab:
        yield lab


@pytest.fixture
def lab(cards_lab: Lab, docker_engine: Engine) -> Iterator[Lab]:
    """A daemon with four cards, on an engine that can pass them on; one for the module, with no evidence of earlier jobs."""
    for name in ("oracle", "seen"):
        (cards_lab.daemon.folder / name).unlink(missing_ok=True)
    yield cards_lab
    cards_lab.clean()


def seen(lab: Lab) -> dict[int, dict[int, int]]:
    """By job: each card node that it saw, and the number of the error it got when it opened it."""
    lines = (lab.daemon.folder / "seen").read_text().splitlines()
    return {
        int(line.split()[0]): {
            int(node): int(number) for node, number in (word.split("=") for word in line.split()[1:])
        }
        for line in lines
    }


@pytest.mark.parametrize("count", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_many_containers_share_four_cards_and_no_card_is_shared(lab: Lab, count: int) -> None:
    wants = [(1, 2, 1, 0, 4, 1, 1, 3)[n % 8] for n in range(count)]
    codes = [n % 7 if n % 7 < 3 else 0 for n in range(count)]
    ids = lab.submit(
        *({"name": f"j{n}", "command": ["sh", "-c", PAYLOAD, "sh", f"0.0{n % 6}", str(codes[n])], "num_gpus": wants[n],
           "num_workers": 0} for n in range(count))
    )  # fmt: skip
    jobs = {job["id"]: job for job in lab.daemon.wait(*ids, patience=20 + 4 * count)}
    lines = oracle.read(lab.daemon.folder / "oracle")
    assert len(lines) == 2 * count
    oracle.check(lines, jobs, dict(zip(ids, codes, strict=True)))
    assert len({card for line in lines for card in line.cards}) == 4
    assert seen(lab) == {
        id: {CARDS[card]: errno.ENXIO for card in job["attempts"][-1]["gpus"]} for id, job in jobs.items()
    }


def test_a_card_passes_on_only_once_every_process_of_its_holder_is_gone(lab: Lab) -> None:
    """A holder that does not die at SIGTERM, cancelled: the next starts after its end, not after the cancel."""
    stubborn = f"trap '' TERM; (trap '' TERM; sleep 60) & {PROGRAM} clock; while :; do sleep 0.05; done"
    (first,) = lab.submit({"name": "a", "command": stubborn, "num_gpus": 4, "grace": "1s"})
    lab.until_out(first, "\n")  # jobs that are known to be short would go before it
    (second,) = lab.submit({"name": "b", "command": ["sh", "-c", PAYLOAD, "sh", "0", "0"], "num_gpus": 4})
    container = lab.container(first)
    lab.daemon.client().cancel(first)
    eventually("the second starts", lambda: (lab.daemon.folder / "oracle").exists())
    assert lab.engine.pids(container) == []
    ended, started = lab.daemon.wait(first, second)
    assert ended["finished_at"] <= started["started_at"]
    assert ended["exit_code"] == 137


def test_no_card_is_seen_by_who_has_none_whatever_the_image_says(lab: Lab) -> None:
    lab.engine.import_image(
        "lab/cuda:1",
        ["ENV NVIDIA_VISIBLE_DEVICES=all", "ENV CUDA_VISIBLE_DEVICES=0,1,2,3", "ENV NVIDIA_DRIVER_CAPABILITIES=all"],
    )
    none, one = lab.run(
        *({"name": f"j{n}", "image": "lab/cuda:1", "command": ["sh", "-c", PAYLOAD, "sh", "0", "0"], "num_gpus": n,
           "env": {"NVIDIA_VISIBLE_DEVICES": "all"}} for n in (0, 1))
    )  # fmt: skip
    assert seen(lab) == {none["id"]: {}, one["id"]: {CARDS[one["attempts"][0]["gpus"][0]]: errno.ENXIO}}
    by_job = {line.job: line.cards for line in oracle.read(lab.daemon.folder / "oracle")}
    assert by_job == {none["id"]: (), one["id"]: tuple(one["attempts"][0]["gpus"])}
    noted = [call["granted"] for call in lab.engine.hook_calls() if call["visible"]]
    assert noted[-1:] == [one["attempts"][0]["gpus"]]


def test_a_card_that_the_engine_does_not_hand_out_fails_the_launch_and_runs_nothing(lab: Lab) -> None:
    """What the container really got is looked at before its payload runs."""
    lab.engine.set_cards({uuid: 3 - minor for uuid, minor in CARDS.items()})
    (wrong,) = lab.run({"name": "a", "command": ["sh", "-c", PAYLOAD, "sh", "0", "0"], "num_gpus": 1, "retries": 2})
    assert (wrong["state"], wrong["reason"]["code"], len(wrong["attempts"])) == ("failed", "launch_failed", 1)
    assert "it sees the cards /dev/nvidia3, which it has not reserved" in wrong["reason"]["text"]
    lab.engine.set_cards({uuid: minor for uuid, minor in CARDS.items() if minor != 0})
    (unknown,) = lab.run({"name": "b", "command": ["sh", "-c", PAYLOAD, "sh", "0", "0"], "gpus": ["0"], "num_gpus": 1})
    assert unknown["reason"]["code"] == "launch_failed"
    assert "unknown device" in unknown["reason"]["text"]
    assert not (lab.daemon.folder / "oracle").exists()


def test_an_image_without_a_shell_gets_its_cards_too(lab: Lab) -> None:
    jobs = lab.run(
        *({"name": f"j{n}", "image": BARE, "command": [PROGRAM, "open", f"/dev/nvidia{n}"], "num_gpus": 1, "gpus": ["2"]}
          for n in (2, 3))
    )  # fmt: skip
    assert [job["exit_code"] for job in jobs] == [errno.ENXIO, errno.ENOENT]


def test_a_containers_own_processes_on_its_card_are_not_foreign(lab: Lab, driver: FakeDriver) -> None:
    (id,) = lab.submit({"name": "a", "command": "echo ready; sleep 60 & sleep 60", "num_gpus": 1})
    lab.until_out(id, "ready")
    place = CARDS[lab.daemon.job(id)["gpus"][0]]
    payload = lab.engine.pids(lab.container(id))
    assert len(payload) > 2
    driver.processes = [Process(pid=pid, gpu=place) for pid in payload]
    driver.cards[place].utilization = 77
    driver.write()
    eventually("they were looked at", lambda: lab.daemon.client().gpus()[place]["utilization"] == 77)
    found = lab.daemon.client().gpus()[place]
    assert (found["foreign_pids"], found["state"]) == ([], "reserved")
    driver.processes.append(Process(pid=os.getpid(), gpu=place))
    driver.write()
    eventually("another's is", lambda: lab.daemon.client().gpus()[place]["foreign_pids"] == [os.getpid()])
    driver.processes.clear()
    driver.write()


def test_a_job_for_cards_is_refused_where_the_engine_cannot_pass_them(
    new_docker_engine: Callable[..., Engine], driver: FakeDriver
) -> None:
    engine = new_docker_engine(cards=None)
    with lab_on(engine, env=driver.environment({}), config=QUICK) as lab:
        done = lab.daemon.run("run", "--image", "runners-test/shell", "--gpus", "1", "--", "true")
        assert done.returncode == 125
        assert b"install nvidia-container-toolkit" in done.stderr
        (job,) = lab.run({"name": "a", "command": "true"})
        assert job["state"] == "succeeded"
        lab.clean()
