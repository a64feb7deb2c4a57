"""Cards under load, by the jobs' own evidence."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from fake_nvml import FakeDriver
from harness import oracle
from harness.daemon import Daemon, eventually


def test_two_hundred_jobs_of_1_2_4_and_8_cards_never_share_one(
    tmp_path: Path, fake_nvml: Callable[[int], FakeDriver]
) -> None:
    evidence = tmp_path / "oracle"
    dice = random.Random(7)
    jobs = []
    codes = {}
    for number in range(200):
        code = 3 if number % 20 == 7 else 0
        jobs.append(
            {
                "name": f"j{number}",
                "command": oracle.command(evidence, dice.uniform(0.0, 0.1), code),
                "num_gpus": dice.choice([1, 2, 4, 8]),
            }
        )
        if code:
            codes[number] = code
    with Daemon(tmp_path / "d", env=fake_nvml(8).environment({})) as daemon:
        ids = daemon.submit(*jobs, num_jobs=200)
        found = {job["id"]: job for job in daemon.wait(*ids)}
        oracle.check(oracle.read(evidence), found, {ids[number]: code for number, code in codes.items()})
        cards = daemon.client().gpus()
        assert [card["state"] for card in cards] == ["free"] * 8


def test_two_daemons_on_the_same_cards_never_share_one(tmp_path: Path, fake_nvml: Callable[[int], FakeDriver]) -> None:
    evidence = tmp_path / "oracle"
    env = {**fake_nvml(4).environment({}), "RUNNERS_LOCK_DIR": str(tmp_path / "locks")}
    with Daemon(tmp_path / "one", env=env) as one:
        (held,) = one.submit({"name": "a", "command": oracle.command(evidence, 0.5), "num_gpus": 1})
        with Daemon(tmp_path / "two", env=env) as two:
            assert {card["state"] for card in two.client().gpus()} == {"foreign"}
            (waits,) = two.submit({"name": "b", "command": oracle.command(evidence, 0.1), "num_gpus": 2})
            job = two.job(waits)
            assert (job["state"], job["reason"]["code"]) == ("queued", "foreign_gpu_use")
            one.wait(held)
            one.kill()
            assert two.wait(waits)[0]["state"] == "succeeded", "the cards of a dead daemon without jobs are free"


def test_single_commands_share_a_card_by_their_memory(tmp_path: Path, fake_nvml: Callable[[int], FakeDriver]) -> None:
    shared = ("run", "-d", "--gpu-shared", "--gpu-memory", "30GiB", "--memory", "64MiB", "--", "sleep", "60")
    with Daemon(tmp_path / "d", env=fake_nvml(2).environment({})) as daemon:
        ids = [int(daemon.run(*shared).stdout) for _ in range(2)]
        for id in ids:
            eventually("it runs", lambda id=id: daemon.job(id)["state"] == "running")  # type: ignore[misc]
        assert [card["jobs"] for card in daemon.client().gpus()] == [ids, []]
        assert daemon.job(ids[0])["spec"]["memory"] == 64 << 20
        alone = daemon.run("run", "--gpu-shared", "--", "true")
        assert alone.returncode == 125 and b"gpu_memory" in alone.stderr


def test_a_job_runs_on_a_card_of_its_compute_capability(tmp_path: Path, fake_nvml: Callable[[int], FakeDriver]) -> None:
    driver = fake_nvml(2)
    driver.cards[0].capability, driver.cards[1].capability = "8.6", "10.0"
    driver.write()
    asked = ("run", "--gpus", "1", "--gpu-capability")
    with Daemon(tmp_path / "d", env=driver.environment({})) as daemon:
        for least, card in (("9.0", 1), ("8", 0)):
            done = daemon.run(*asked, least, "--", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
            assert (done.returncode, done.stdout.decode()) == (0, f"{driver.cards[card].uuid}\n")
        refused = daemon.run(*asked, "10.1", "true")
        assert refused.returncode == 125
        assert b"of compute capability 10.1 or more; this machine has none such" in refused.stderr
        (waits,) = daemon.submit({"name": "a", "command": "true", "num_gpus": 1, "gpu_capability": 9.0}, hold=True)
        assert daemon.run("update", str(waits), "gpu_capability=new").returncode == 2
        assert daemon.run("update", str(waits), "gpu_capability=8.10").returncode == 0
        assert daemon.job(waits)["spec"]["gpu_capability"] == "8.10"
