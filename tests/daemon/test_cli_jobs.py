"""`runners-client` against a real `runnersd`: queueing, looking, waiting, changing, with the contract's exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.daemon import Daemon, eventually
from runners.client import Client
from runners.errors import NotFound


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for the tests that leave it as they found it."""
    with Daemon(tmp_path_factory.mktemp("cli")) as one:
        yield one


def pipeline(folder: Path, text: str, name: str = "work.yml") -> str:
    (folder / name).write_text(text)
    return name


def out(done: subprocess.CompletedProcess[bytes], code: int = 0) -> str:
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout.decode()


def err(done: subprocess.CompletedProcess[bytes], code: int) -> str:
    assert done.returncode == code, (done.stdout, done.stderr)
    assert b"Traceback" not in done.stderr
    return done.stderr.decode()


def test_submit_prints_ids_and_wait_gives_the_verdict(daemon: Daemon, tmp_path: Path) -> None:
    file = pipeline(
        tmp_path, "jobs:\n- {name: a, command: 'true'}\n- {name: b, command: exit 3, allow_failure: true}\n"
    )
    made = json.loads(out(daemon.run("submit", file, "--json", cwd=tmp_path)))
    assert set(made) == {"pipeline", "jobs"}
    assert [job["name"] for job in made["jobs"]] == ["a", "b"]
    first, second = (job["id"] for job in made["jobs"])
    done = daemon.run("wait", made["pipeline"])
    lines = sorted(out(done, 1).splitlines())
    assert lines[0].startswith(f"{first} a succeeded in ")
    assert lines[1].startswith(f"{second} b failed after ")
    assert lines[1].endswith(": exited with code 3")
    assert out(daemon.run("wait", str(first))).startswith(f"{first} a succeeded")
    document = json.loads(out(daemon.run("wait", made["pipeline"], "--json"), 1))
    assert [(job["id"], job["state"], job["exit_code"]) for job in document["jobs"]] == [
        (first, "succeeded", 0),
        (second, "failed", 3),
    ]


def test_submit_wait_points_to_the_output_of_a_job_that_ran(daemon: Daemon, tmp_path: Path) -> None:
    no_start = "{name: no-start, command: [no-such-program]}"
    failed = pipeline(tmp_path, f"jobs: [{no_start}, {{name: failed, command: exit 3}}]\n")
    said = out(daemon.run("submit", failed, "--wait", cwd=tmp_path), 1).splitlines()
    assert said[-1].startswith("`runners-client logs ") and said[-1].endswith(" shows what failed wrote")
    alone = pipeline(tmp_path, f"jobs: [{no_start}]\n", "alone.yml")
    assert "runners-client logs" not in out(daemon.run("submit", alone, "--wait", cwd=tmp_path), 1)


def test_submit_wait_prints_a_line_for_each_that_ends(daemon: Daemon, tmp_path: Path) -> None:
    file = pipeline(
        tmp_path, "name: two\njobs:\n- {name: a, command: 'true'}\n- {name: b, command: 'true', needs: [a]}\n"
    )
    lines = out(daemon.run("submit", file, "--wait", cwd=tmp_path)).splitlines()
    id = lines[0].split()[0]
    assert lines[0] == f"{id} two: 2 jobs"
    assert [line.split()[1] for line in lines[1:3]] == ["a", "b"]
    assert [line.split()[1:3] for line in lines[3:5]] == [["a", "succeeded"], ["b", "succeeded"]]
    assert lines[5:] == [f"{id}: 2 succeeded"]
    made = json.loads(out(daemon.run("submit", file, "--wait", "--json", cwd=tmp_path)))
    assert [(job["name"], job["state"], job["exit_code"]) for job in made["jobs"]] == [
        ("a", "succeeded", 0),
        ("b", "succeeded", 0),
    ]


def test_submit_follow_in_a_pipe_is_a_line_for_each_change(daemon: Daemon, tmp_path: Path) -> None:
    file = pipeline(tmp_path, "jobs:\n- {name: a, command: exit 4}\n- {name: b, command: 'true', needs: [a]}\n")
    lines = out(daemon.run("submit", file, "--follow", cwd=tmp_path), 1).splitlines()
    changes = [line.split(" ", 1)[1].partition(" after")[0].partition(":")[0] for line in lines[3:-2]]
    assert changes == ["a starting", "a running", "a failed", "b skipped"], "that it is queued stands above"
    assert lines[-2].endswith(": 1 failed, 1 skipped")
    assert lines[-1].startswith("`runners-client logs ")


def test_every_mistake_in_every_file_at_once_and_nothing_queued(daemon: Daemon, tmp_path: Path) -> None:
    good = pipeline(tmp_path, "command: 'true'\n", "good.yml")
    pipeline(tmp_path, "jobs:\n- {comand: x}\n- {command: y, retries: many}\n", "bad.yml")
    pipeline(tmp_path, "jobs: []\n", "empty.yml")
    before = json.loads(out(daemon.run("status", "--all", "--json")))["jobs"]
    said = err(daemon.run("submit", good, "bad.yml", "missing.yml", "empty.yml", cwd=tmp_path), 2)
    assert "bad.yml:2: " in said
    assert "did you mean `command`?" in said
    assert "bad.yml:3: " in said
    assert "missing.yml" in said
    assert "empty.yml" in said
    assert json.loads(out(daemon.run("status", "--all", "--json")))["jobs"] == before
    assert err(daemon.run("validate", "bad.yml", cwd=tmp_path), 2).count("bad.yml:") >= 2


def test_validate_and_dry_run_queue_nothing(daemon: Daemon, tmp_path: Path) -> None:
    file = pipeline(tmp_path, "name: grid\njobs:\n- {name: t, command: 'echo ${{ matrix.x }}', matrix: {x: [1, 2]}}\n")
    assert out(daemon.run("validate", file, cwd=tmp_path)).splitlines()[1:] == ["  t[x=1]", "  t[x=2]"]
    document = json.loads(out(daemon.run("validate", file, "--json", cwd=tmp_path)))
    assert [job["name"] for job in document["jobs"]] == ["t[x=1]", "t[x=2]"]
    done = json.loads(out(daemon.run("submit", file, "--dry-run", "--json", cwd=tmp_path)))
    assert done["pipeline"] is None
    assert [(job["id"], job["name"], job["starts_now"]) for job in done["jobs"]] == [
        (None, "t[x=1]", True), (None, "t[x=2]", True),
    ]  # fmt: skip
    assert "not queued: grid: 2 jobs" in out(daemon.run("submit", file, "--dry-run", cwd=tmp_path))


def test_what_the_machine_could_never_run_names_the_file(daemon: Daemon, tmp_path: Path) -> None:
    file = pipeline(tmp_path, "command: 'true'\nnum_gpus: 900\n", "huge.yml")
    good = pipeline(tmp_path, "command: 'true'\n", "good.yml")
    assert "huge.yml:2: num_gpus: " in err(daemon.run("submit", file, cwd=tmp_path), 2)
    said = err(daemon.run("submit", good, file, cwd=tmp_path), 2)
    assert "huge.yml:2: num_gpus: " in said
    assert "good.yml" not in said


def test_name_hold_after_and_several_files(daemon: Daemon, tmp_path: Path) -> None:
    file = pipeline(tmp_path, "command: 'true'\n")
    made = json.loads(out(daemon.run("submit", file, "--hold", "--name", "mine", "--json", cwd=tmp_path)))
    held = made["jobs"][0]["id"]
    [job] = daemon.client().jobs_of(held)
    assert job["state"] == "held"
    assert daemon.client().job(held).get("pipeline_name") == "mine"
    many = json.loads(out(daemon.run("submit", file, file, "--after", made["pipeline"], "--json", cwd=tmp_path)))
    assert len(many["pipelines"]) == 2
    later = [one["jobs"][0]["id"] for one in many["pipelines"]]
    assert daemon.job(later[0])["reason"]["code"] == "needs_jobs"
    assert f"{held} " in out(daemon.run("release", made["pipeline"]))
    out(daemon.run("wait", *map(str, later)))
    assert err(daemon.run("submit", file, file, "--name", "x", cwd=tmp_path), 2).startswith(
        "runners-client: cannot submit"
    )
    assert err(daemon.run("submit", file, "--after", "99999", cwd=tmp_path), 5)


def test_the_job_has_our_directory_environment_and_umask(daemon: Daemon, tmp_path: Path) -> None:
    daemon.env["COLOUR"] = "grün"
    before = os.umask(0o031)
    try:
        done = daemon.run("run", "--", "sh", "-c", "pwd; umask; echo $COLOUR $RUNNERS_JOB_NAME", cwd=tmp_path)
    finally:
        os.umask(before)
    assert out(done).splitlines() == [str(tmp_path), "0031", "grün sh"]


def test_a_variable_that_is_not_utf8_is_left_out_and_named(daemon: Daemon) -> None:
    env = {os.fsencode(key): os.fsencode(value) for key, value in daemon.env.items()} | {b"ODD": b"\xff\xfe"}
    done = subprocess.run(
        [sys.executable, "-m", "runners.cli", "run", "--", "sh", "-c", "echo ${ODD-none}"],
        env=env, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert out(done) == "none\n"
    assert b"'ODD'" in done.stderr


def test_cancel_hold_release_priority_update(daemon: Daemon) -> None:
    [id] = daemon.submit({"name": "later", "command": "true"}, hold=True)
    assert out(daemon.run("priority", str(id), "-7")).startswith(f"{id} later held")
    assert daemon.job(id)["priority"] == -7
    out(daemon.run("update", str(id), "time_limit=1:30:00", "retries=2", "gpu_shared=false", "name=2024", "env.SEED=3"))
    spec = daemon.job(id)["spec"]
    assert (spec["time_limit"], spec["retries"], spec["name"], spec["env"]) == (5400.0, 2, "2024", {"SEED": "3"})
    assert "time_limit" in err(daemon.run("update", str(id), "time_limit=soon"), 2)
    assert "did you mean time_limit?" in err(daemon.run("update", str(id), "time_limt=2h"), 2)
    assert "not key=value" in err(daemon.run("update", str(id), "time_limit"), 2)
    document = json.loads(out(daemon.run("cancel", str(id), "--json")))
    assert [(job["id"], job["state"]) for job in document["jobs"]] == [(id, "cancelled")]
    assert "over" in err(daemon.run("cancel", str(id)), 2)
    assert "over" in err(daemon.run("hold", str(id)), 2)


def test_several_ids_are_all_tried_and_the_first_failure_is_the_code(daemon: Daemon) -> None:
    ids = daemon.submit({"name": "a", "command": "sleep 60"}, {"name": "b", "command": "sleep 60"})
    done = daemon.run("cancel", "99999", *map(str, ids))
    assert done.returncode == 5
    assert done.stdout.decode().count("\n") == 2
    assert b"99999" in done.stderr
    assert [job["state"] for job in daemon.wait(*ids)] == ["cancelled", "cancelled"]


def test_thousands_of_ids_can_be_asked_for_at_once(daemon: Daemon) -> None:
    [id] = daemon.submit({"name": "a", "command": "false"})
    daemon.wait(id)
    many = [str(id)] * 10_000
    assert [job["id"] for job in json.loads(out(daemon.run("status", "--json", *many)))["jobs"]] == [id]
    assert json.loads(out(daemon.run("retry", "--json", *many)))["jobs"][0]["name"] == "a"


def test_retry_is_a_new_pipeline(daemon: Daemon) -> None:
    good, bad = daemon.submit({"name": "good", "command": "true"}, {"name": "bad", "command": "exit 9"})
    daemon.wait(good, bad)
    of = daemon.job(bad)["pipeline"]
    made = json.loads(out(daemon.run("retry", of, "--json")))
    assert [job["name"] for job in made["jobs"]] == ["bad"]
    assert made["pipeline"] != of
    assert daemon.wait(made["jobs"][0]["id"])[0]["exit_code"] == 9
    assert "bad" in out(daemon.run("retry", str(bad)))


def test_jobs_of_one_pipeline_are_retried_together(daemon: Daemon) -> None:
    good, first, second = daemon.submit(
        {"name": "good", "command": "true"},
        {"name": "first", "command": "sleep 0.3; false"},
        {"name": "second", "command": "false", "needs": [{"job": "first", "on": "finished"}]},
    )
    (other,) = daemon.submit({"name": "other", "command": "false"})
    daemon.wait(good, first, second, other)
    made = json.loads(out(daemon.run("retry", str(second), str(other), str(first), "--json")))["pipelines"]
    assert sorted([job["name"] for job in one["jobs"]] for one in made) == [["first", "second"], ["other"]]
    ids = next([job["id"] for job in one["jobs"]] for one in made if len(one["jobs"]) == 2)
    before, after = daemon.wait(*ids)
    assert after["started_at"] >= before["finished_at"]


def test_what_cannot_be_retried_keeps_nothing_else_from_it(daemon: Daemon) -> None:
    good, first, second = daemon.submit(
        {"name": "good", "command": "true"},
        {"name": "first", "command": "false"},
        {"name": "second", "command": "false"},
    )
    daemon.wait(good, first, second)
    done = daemon.run("retry", str(good), str(first), str(second), "--json")
    assert [job["name"] for job in json.loads(done.stdout)["jobs"]] == ["first", "second"]
    assert f"cannot retry job {good}: it is succeeded" in done.stderr.decode() and done.returncode == 2


def test_what_only_the_daemon_knows_is_said_of_a_files_line(daemon: Daemon, tmp_path: Path) -> None:
    pipeline(
        tmp_path,
        "- {command: x, matrix: {a: [1, 2, 3]}}\n- name: many\n  command: x\n  matrix: {a: [1, 2]}\n  cpus: 99999\n",
        "inner.yml",
    )
    outer = pipeline(tmp_path, "jobs:\n- pipeline: inner.yml\n- command: x\n  num_gpus: 1000\n")
    good = pipeline(tmp_path, "command: x", "good.yml")
    for words in ([outer], [good, outer]):
        assert err(daemon.run("submit", *words, cwd=tmp_path), 2).splitlines()[1:] == [
            f"inner.yml:5: [1].cpus: asks for 99999 CPUs, this machine has {len(os.sched_getaffinity(0))}",
            "work.yml:4: jobs[1].num_gpus: asks for 1000 cards, this machine has 0 "
            "(no cards: libnvidia-ml.so.1 is not found; jobs that need none run as ever)",
        ]


def test_no_such_job_is_exit_5(daemon: Daemon) -> None:
    for words in (["show", "99999"], ["logs", "99999"], ["cancel", "99999"], ["wait", "99999"], ["show", "p99999"],
                  ["status", "99999"], ["retry", "99999"], ["update", "99999", "name=x"]):  # fmt: skip
        assert "99999" in err(daemon.run(*words), 5)


def test_status_show_and_their_filters(daemon: Daemon) -> None:
    ids = daemon.submit({"name": "one", "command": "true"}, {"name": "two", "command": "exit 2"})
    daemon.wait(*ids)
    text = out(daemon.run("status", str(ids[1])))
    assert "two" in text and "exited with code 2" in text and f"\n{ids[0]} " not in text
    document = json.loads(out(daemon.run("status", "--json", "--limit", "1")))
    assert len(document["jobs"]) == 1
    assert {"daemon", "gpus", "jobs"} <= set(document)
    page = out(daemon.run("show", str(ids[1])))
    assert "exit code   2" in page and "1  failed" in page
    full = json.loads(out(daemon.run("show", str(ids[1]), "--json")))
    assert full["attempts"][0]["exit_code"] == 2
    assert [event["type"] for event in full["events"]][-1] == "job.failed"
    assert "two" in out(daemon.run("show", full["pipeline"]))


def test_gpus_without_a_driver_says_so(daemon: Daemon) -> None:
    assert json.loads(out(daemon.run("gpus", "--json"))) == {"gpus": [], "bookings": []}
    assert out(daemon.run("gpus")).startswith("no cards")
    assert err(daemon.run("drain", "0"), 2)


def test_pause_and_resume(daemon: Daemon) -> None:
    out(daemon.run("pause", "--reason", "lunch"))
    [id] = daemon.submit({"name": "x", "command": "true"})
    assert "lunch" in out(daemon.run("status"))
    assert daemon.job(id)["reason"]["code"] == "paused"
    for words in (["--reason", "lunch"], []):
        said = json.loads(out(daemon.run("pause", "--json", *words)))["paused"]
        assert said == daemon.client().status()["daemon"]["paused"] != ""
    out(daemon.run("resume"))
    assert daemon.wait(id)[0]["state"] == "succeeded"


def test_wait_for_a_reader_that_leaves_and_ctrl_c(daemon: Daemon) -> None:
    [id] = daemon.submit({"name": "long", "command": "sleep 60"})
    child = subprocess.Popen(
        [sys.executable, "-m", "runners.cli", "wait", str(id)], env=daemon.env, stderr=subprocess.PIPE, text=True
    )
    eventually("it waits", lambda: child.poll() is None and _sockets(child.pid))
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=30)[1]
    assert child.returncode == 130
    assert "the jobs go on" in said
    assert daemon.job(id)["state"] in ("queued", "starting", "running")
    daemon.client().cancel(id)
    daemon.wait(id)


def _sockets(pid: int) -> bool:
    """Whether a process has a connection open."""
    try:
        return any(os.readlink(f"/proc/{pid}/fd/{one}").startswith("socket:") for one in os.listdir(f"/proc/{pid}/fd"))
    except FileNotFoundError:
        return False


def test_the_library_waits_and_reads(daemon: Daemon) -> None:
    ids = daemon.submit({"name": "a", "command": "echo hello"}, {"name": "b", "command": "exit 1"})
    client = daemon.client()
    seen: list[Any] = []
    ended = client.wait(*ids, each=seen.append)
    assert [job["state"] for job in ended] == ["succeeded", "failed"]
    assert sorted(job["id"] for job in seen) == ids
    with client.logs(ids[0]) as answer:
        assert answer.read() == b"hello\n"
    assert next(client.jobs(limit=1))["id"] == max(ids)
    with pytest.raises(NotFound):
        client.wait(99999)


def test_wait_follow_and_run_outlive_a_restart_of_the_daemon(tmp_path: Path) -> None:
    """The daemon is killed and started again under three clients; none of them loses a byte or a job."""
    with Daemon(tmp_path / "d") as daemon:
        gate = tmp_path / "gate"
        script = f"echo before; while [ ! -e {gate} ]; do sleep 0.05; done; echo after; exit 6"
        client = [sys.executable, "-m", "runners.cli"]
        pipe = subprocess.PIPE
        run = subprocess.Popen([*client, "run", "--", "sh", "-c", script], env=daemon.env, stdout=pipe, stderr=pipe)
        id = eventually("it runs", lambda: [job["id"] for job in daemon.client().jobs() if job["state"] == "running"])[
            0
        ]
        logs = subprocess.Popen([*client, "logs", "-f", str(id)], env=daemon.env, stdout=pipe, stderr=pipe)
        wait = subprocess.Popen([*client, "wait", str(id)], env=daemon.env, stdout=pipe, stderr=pipe)
        assert run.stdout is not None and logs.stdout is not None
        assert run.stdout.readline() == b"before\n"
        assert logs.stdout.readline() == b"before\n"
        eventually("they are connected", lambda: _sockets(wait.pid))
        daemon.kill()
        time.sleep(0.1)
        daemon.start()
        gate.touch()
        for child, code, rest in ((run, 6, b"after\n"), (logs, 0, b"after\n")):
            assert child.communicate(timeout=60)[0] == rest
            assert child.returncode == code
        assert b"failed" in wait.communicate(timeout=60)[0]
        assert wait.returncode == 1


def test_a_submission_during_a_restart_queues_once(tmp_path: Path) -> None:
    """`submit` while the daemon dies and comes back: each says its ids, and nothing is there twice."""
    with Daemon(tmp_path / "d") as daemon:
        file = pipeline(tmp_path, "command: 'true'\nname: one\n")
        answers: list[subprocess.CompletedProcess[bytes]] = []

        def submit() -> None:
            for _ in range(6):
                answers.append(daemon.run("submit", file, "--hold", "--json", cwd=tmp_path))

        thread = threading.Thread(target=submit)
        thread.start()
        eventually("the first is in", lambda: len(answers))
        daemon.kill()
        daemon.start()
        thread.join()
        said = [json.loads(one.stdout)["jobs"][0]["id"] for one in answers if one.returncode == 0]
        # One that found no socket at all is told so; what was acknowledged is there, once.
        assert all(one.returncode in (0, 3) for one in answers)
        there = [job["id"] for job in Client(str(daemon.socket)).jobs()]
        assert sorted(said) == sorted(there)


def test_what_the_daemon_says_of_scripts_and_directories_holds_also_for_what_comes_through_a_pipe(
    tmp_path: Path,
) -> None:
    config = {"default_script_args": {"num_workers": 3, "blocking": True}, "directories": {"data": str(tmp_path)}}
    text = b"""
        defaults: {env: {A: b}}
        jobs:
          - {script: first, config: "${DATA_DIRECTORY}/x"}
          - {script: second, num_workers: 1, blocking: false}
          - {command: "true"}
    """
    with Daemon(tmp_path / "d", config=config) as daemon:
        found = json.loads(out(daemon.run("validate", "--json", "/dev/stdin", stdin=text)))["jobs"]
    assert found[0]["command"][-1] == f"{tmp_path}/x"
    assert [(job.get("num_workers", 1), job.get("blocking", False)) for job in found] == [
        (3, True),
        (1, False),
        (1, False),
    ]
