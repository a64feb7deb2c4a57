"""What must hold while the machine misbehaves: a real daemon, real jobs, a fake driver that can be told to fail."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fake_nvml import FakeDriver
from fake_nvml.driver import Fault, Process
from harness import oracle
from harness.daemon import Daemon, eventually

QUICK = {"gpus": {"poll": 0.05, "timeout": 2}}


def test_jobs_survive_sigterm_and_keep_their_exit_codes(tmp_path: Path) -> None:
    evidence = tmp_path / "oracle"
    with Daemon(tmp_path / "d") as daemon:
        ids = daemon.submit(
            *[{"name": f"j{n}", "command": oracle.command(evidence, 1.5 + n / 10, n % 3)} for n in range(6)],
            {"name": "later", "command": oracle.command(evidence, 0.0), "needs": [{"job": "j5", "on": "finished"}]},
        )
        eventually("all six run", lambda: len(oracle.read(evidence)) == 6)
        assert daemon.kill(signal.SIGTERM) == 0
        time.sleep(0.5)  # some end while nobody watches
        daemon.start()
        found = {job["id"]: job for job in daemon.wait(*ids)}
        oracle.check(oracle.read(evidence), found, {id: n % 3 for n, id in enumerate(ids[:6])})
        assert {job["attempt"] for job in found.values()} == {1}


def test_a_lost_card_ends_its_job_and_no_other(tmp_path: Path, fake_nvml: Callable[[int], FakeDriver]) -> None:
    driver = fake_nvml(2)
    with Daemon(tmp_path / "d", env=driver.environment({}), config=QUICK) as daemon:
        job = {"command": ["sleep", "60"], "num_gpus": 1}
        first, second = daemon.submit({"name": "a", **job}, {"name": "b", "grace": "1s", **job})
        eventually("both run", lambda: [daemon.job(id)["state"] for id in (first, second)] == ["running"] * 2)
        place = [card.uuid for card in driver.cards].index(daemon.job(first)["gpus"][0])
        driver.cards[place].lost = True
        driver.write()
        (ended,) = daemon.wait(first)
        assert (ended["state"], ended["reason"]["code"]) == ("failed", "gpu_lost")
        assert daemon.job(second)["state"] == "running"
        states = {card["uuid"]: card["state"] for card in daemon.client().gpus()}
        assert states[driver.cards[place].uuid] == "lost"


def test_a_foreign_process_keeps_a_job_waiting_and_is_named(
    tmp_path: Path, fake_nvml: Callable[[int], FakeDriver]
) -> None:
    driver = fake_nvml(1)
    driver.processes.append(Process(pid=1, gpu=0))
    driver.write()
    with Daemon(tmp_path / "d", env=driver.environment({}), config=QUICK) as daemon:
        (id,) = daemon.submit({"name": "a", "command": ["true"], "num_gpus": 1})
        reason = eventually("it waits", lambda: daemon.job(id)["reason"])
        assert reason["code"] == "foreign_gpu_use" and "pid 1" in reason["text"]
        assert daemon.client().gpus()[0]["foreign_pids"] == [1]
        driver.processes.clear()
        driver.write()
        assert daemon.wait(id)[0]["state"] == "succeeded"


def test_a_driver_that_hangs_stalls_nothing(tmp_path: Path, fake_nvml: Callable[[int], FakeDriver]) -> None:
    driver = fake_nvml(2)
    impatient = {"gpus": {"poll": 0.05, "timeout": 0.5}}
    with Daemon(tmp_path / "d", env=driver.environment({}), config=impatient) as daemon:
        (running,) = daemon.submit({"name": "a", "command": ["sleep", "60"], "num_gpus": 1})
        eventually("it runs", lambda: daemon.job(running)["state"] == "running")
        driver.faults.append(Fault("nvmlDeviceGet*", delay=600.0))
        driver.write()
        (waits,) = daemon.submit({"name": "b", "command": ["true"], "num_gpus": 1, "begin": "+3s"})
        eventually("stale", lambda: daemon.job(waits)["reason"]["code"] == "inventory_stale")
        (plain,) = daemon.submit({"name": "c", "command": ["true"]})
        assert daemon.wait(plain)[0]["state"] == "succeeded"
        assert daemon.job(running)["state"] == "running"
        driver.faults.clear()
        driver.write()
        assert daemon.wait(waits)[0]["state"] == "succeeded"


def test_a_reload_takes_on_the_log_and_the_drivers_deadline(
    tmp_path: Path, fake_nvml: Callable[[int], FakeDriver]
) -> None:
    driver = fake_nvml(1)
    with Daemon(tmp_path / "d", env=driver.environment({}), config={"gpus": {"poll": 0.05, "timeout": 60}}) as daemon:
        assert "DEBUG request" not in daemon.log.read_text()
        daemon.configure({"gpus": {"poll": 0.05, "timeout": 1}, "log": {"level": "debug"}})
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        eventually("it was read again", lambda: "read again" in daemon.log.read_text())
        daemon.client().health()
        eventually("the request is logged", lambda: "DEBUG request" in daemon.log.read_text())
        driver.faults.append(Fault("nvmlDeviceGet*", delay=600.0))
        driver.write()
        eventually(
            "the new deadline passes",
            lambda: "has not answered for 1 s" in (daemon.client().status()["daemon"].get("notice") or ""),
            patience=30.0,
        )


def test_a_full_disk_stops_starts_and_not_the_daemon(tmp_path: Path) -> None:
    with Daemon(tmp_path / "d") as daemon:
        (running,) = daemon.submit({"name": "a", "command": ["sleep", "60"]})
        eventually("it runs", lambda: daemon.job(running)["state"] == "running")
        daemon.configure({"jobs": {"min_free_disk": "100000TiB"}})
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        eventually("it was read again", lambda: "read again" in daemon.log.read_text())
        (id,) = daemon.submit({"name": "b", "command": ["true"]})
        eventually("it waits for disk", lambda: daemon.job(id)["reason"]["code"] == "low_disk")
        assert daemon.job(running)["state"] == "running"
        daemon.configure({})
        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.wait(id)[0]["state"] == "succeeded"


def test_a_time_limit_ends_the_whole_tree(tmp_path: Path) -> None:
    with Daemon(tmp_path / "d") as daemon:
        mark = tmp_path / "children"
        command = (
            f"trap '' TERM; for n in 1 2 3; do setsid sh -c 'trap \"\" TERM; echo $$ >> {mark}; sleep 60' & done; wait"
        )
        (id,) = daemon.submit({"name": "a", "command": command, "time_limit": "1s", "grace": "0.3s"})
        (job,) = daemon.wait(id)
        assert (job["state"], job["reason"]["code"]) == ("timed_out", "time_limit")
        for pid in mark.read_text().split():
            assert not Path(f"/proc/{pid}").exists(), "a child outlived its job"


def test_a_submission_sent_twice_queues_once(tmp_path: Path) -> None:
    with Daemon(tmp_path / "d") as daemon:
        document = {"name": "p", "jobs": [{"name": "a", "command": ["true"]}], "cwd": "/", "env": {}}
        first = daemon.client().submit([document], key="the same")
        daemon.kill()
        daemon.start()
        assert daemon.client().submit([document], key="the same") == first
        assert len(daemon.client().get("/v1/jobs")["jobs"]) == 1


def test_the_first_librarys_form_runs_as_its_documentation_says(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    (folder / "scripts").mkdir(parents=True)
    (folder / "scripts" / "__init__.py").touch()
    (folder / "scripts" / "step.py").write_text("import sys\nprint(*sys.argv[1:])\nsys.exit(int(sys.argv[-1]))\n")
    step = "{script: step, run_in: host, num_gpus: 0"
    (folder / "good.yml").write_text(
        f"jobs:\n  - {step}, config: '-y \"a b.yml\" 0', blocking: true}}\n  - {step}, config: '-p x 3'}}\n"
    )
    (folder / "bad.yml").write_text(
        f"num_jobs: 2\njobs:\n  - {step}, config: '0'}}\n  - {step}, config: '7', blocking: true}}\n  - {step}, config: '0'}}\n"
    )
    with Daemon(tmp_path / "d") as daemon:
        done = daemon.run("submit", "good.yml", "--wait", cwd=folder)
        assert done.returncode == 1, done
        jobs = daemon.wait(1, 2)
        assert [(job["state"], job["exit_code"]) for job in jobs] == [("succeeded", 0), ("failed", 3)]
        assert daemon.run("logs", "1", cwd=folder).stdout == b"-y a b.yml 0\n"
        assert daemon.run("submit", "bad.yml", "--wait", cwd=folder).returncode == 1
        states = [(job["state"], job["exit_code"]) for job in daemon.wait(3, 4, 5)]
        assert states == [("succeeded", 0), ("failed", 7), ("skipped", None)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_queue_and_its_order_outlive_the_daemon(number: int, tmp_path: Path) -> None:
    with Daemon(tmp_path / "d") as daemon:
        daemon.client().pause("tests")
        ids = daemon.submit(*[{"name": f"j{n}", "command": ["true"], "priority": -n} for n in range(5)], num_jobs=1)
        daemon.client().hold(ids[0])
        daemon.kill(number)
        daemon.start()
        jobs = daemon.client().status()["jobs"]
        assert [job["id"] for job in jobs] == ids
        assert [job["state"] for job in jobs] == ["held", *["queued"] * 4]
        daemon.client().resume()
        ended = daemon.wait(*ids[1:])
        assert [job["started_at"] for job in ended] == sorted(job["started_at"] for job in ended)
        daemon.client().release(ids[0])
        assert daemon.wait(ids[0])[0]["state"] == "succeeded"
