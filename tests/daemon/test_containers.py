"""How container jobs end: exit codes, signals, memory, limits, and everything that keeps one from starting."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from daemon.containers import Lab, alive
from engine import BARE, PROGRAM, SHELL
from harness.daemon import eventually

PIPE = subprocess.PIPE


def end(job: Any) -> tuple[str, str, int | None]:
    return job["state"], job["reason"]["code"], job["exit_code"]


def test_an_exit_code_is_the_jobs_own(lab: Lab) -> None:
    codes = {
        "exit 0": ("succeeded", "ok", 0),
        "exit 3": ("failed", "exit_code", 3),
        "exit 125": ("failed", "exit_code", 125),
        "exit 255": ("failed", "exit_code", 255),
        "kill -9 $$": ("failed", "signal", 137),
        "kill -15 $$": ("failed", "signal", 143),
        "sh -c 'kill -9 $$'; exit $?": ("failed", "signal", 137),
    }
    jobs = lab.run(*({"name": f"j{n}", "command": command} for n, command in enumerate(codes)))
    assert dict(zip(codes, map(end, jobs), strict=True)) == codes
    for job in jobs:
        (attempt,) = job["attempts"]
        assert job["submitted_at"] <= job["started_at"] <= job["finished_at"]
        assert (attempt["exit_code"], attempt["finished_at"]) == (job["exit_code"], job["finished_at"])


def test_an_image_without_a_shell_runs_alike_however_many_come_at_once(lab: Lab) -> None:
    bare = {"image": BARE}
    jobs = lab.run(
        *({**bare, "name": f"j{code}", "command": [PROGRAM, "exit", str(code)]} for code in range(4)),
        {**bare, "name": "missing", "command": ["nothing"]},
    )
    assert [job["exit_code"] for job in jobs] == [0, 1, 2, 3, None]
    assert end(jobs[-1]) == ("failed", "launch_failed", None)
    assert "cannot run nothing" in jobs[-1]["reason"]["text"]


def test_memory_over_the_limit_is_told_and_tried_again(lab: Lab) -> None:
    one, two = lab.run(
        {
            "name": "payload",
            "command": [PROGRAM, "memory", "200"],
            "memory": "32MiB",
            "retries": 1,
            "retry_delay": "0s",
        },
        {"name": "fits", "command": f"{PROGRAM} memory 8 & sleep 0.5; kill $!; wait; exit 0", "memory": "64MiB"},
    )
    assert end(one) == ("failed", "out_of_memory", 137)
    assert "32MiB" in one["reason"]["text"]
    assert [attempt["reason"]["code"] for attempt in one["attempts"]] == ["out_of_memory"] * 2
    assert end(two) == ("succeeded", "ok", 0)


def test_what_a_containers_processes_have_is_measured_while_it_runs(lab: Lab) -> None:
    (id,) = lab.submit({"name": "a", "command": "dd if=/dev/zero of=/dev/null bs=96M", "cpus": 1})

    def measured() -> Any:
        attempts = lab.daemon.job(id)["attempts"]
        seen = attempts[0]["telemetry"] if attempts else None
        return seen and seen["process"]["cpu"]["seconds"] >= 1 and seen["process"]

    seen = eventually("it is measured", measured)
    assert 96 << 20 < seen["memory"]["peak"] < 160 << 20, "its buffer, and little more"
    assert 0.1 < seen["cpu"]["peak"] < 1.5


@pytest.mark.parametrize("command", [["missing"], ["/no/such/program"], ["./nor-here"]])
def test_a_command_that_is_not_there_is_a_failed_launch_and_not_tried_again(lab: Lab, command: list[str]) -> None:
    (job,) = lab.run({"name": "a", "command": command, "retries": 3, "retry_delay": "0s"})
    assert end(job) == ("failed", "launch_failed", None)
    assert f"cannot run {command[0]}: no such program in the image" in job["reason"]["text"]
    assert len(job["attempts"]) == 1
    assert job["started_at"] is None


def test_an_image_that_cannot_be_had_fails_its_job_and_what_needs_it(lab: Lab) -> None:
    missing, after, other = lab.run(
        {"name": "a", "command": "true", "image": "lab/never-made:1"},
        {"name": "b", "command": "true", "needs": ["a"]},
        {"name": "c", "command": "true"},
    )
    assert end(missing) == ("failed", "launch_failed", None)
    assert "lab/never-made:1" in missing["reason"]["text"]
    assert missing["attempts"] == []
    assert end(after)[:2] == ("skipped", "need_failed")
    assert end(other) == ("succeeded", "ok", 0)


def test_an_image_that_came_meanwhile_is_found(lab: Lab) -> None:
    (before,) = lab.run({"name": "a", "command": "true", "image": "lab/late:1"})
    lab.engine.import_image("lab/late:1")
    (after,) = lab.run({"name": "a", "command": "true", "image": "lab/late:1"})
    assert (end(before)[1], end(after)[1]) == ("launch_failed", "ok")


def test_an_image_runs_only_what_its_job_says(lab: Lab) -> None:
    changes = ['ENTRYPOINT ["/bin/false"]', 'CMD ["/bin/false"]', "USER 12:34", "WORKDIR /tmp", "ENV FROM_IMAGE=yes",
               "ENV PATH=/odd:/bin", 'HEALTHCHECK CMD ["/bin/touch", "/workspace/health"]']  # fmt: skip
    lab.engine.import_image("lab/opinions:1", changes, files={"/odd/tool": "#!/bin/sh\necho odd\n"})
    (job,) = lab.run(
        {"name": "a", "image": "lab/opinions:1", "command": "tool; id -u; id -g; pwd; echo $FROM_IMAGE; exit 4"}
    )
    assert end(job) == ("failed", "exit_code", 4)
    assert lab.out(job["id"]).split() == ["odd", "0", "0", "/workspace", "yes"]


def test_a_time_limit_ends_it_by_sigterm_then_after_its_grace_by_sigkill(lab: Lab) -> None:
    polite, stubborn = lab.run(
        {"name": "a", "command": "trap 'echo heard; exit 9' TERM; while :; do sleep 0.05; done", "time_limit": "1s"},
        {"name": "b", "command": "trap '' TERM; sleep 60 & wait; sleep 60", "time_limit": "1s", "grace": "1s"},
    )
    assert end(polite) == ("timed_out", "time_limit", 9)
    assert lab.out(polite["id"]) == "heard\n"
    assert polite["finished_at"] - polite["started_at"] < 3.5
    assert end(stubborn) == ("timed_out", "time_limit", 137)
    assert 1.9 < stubborn["finished_at"] - stubborn["started_at"] < 8


@pytest.mark.parametrize("now", [False, True])
def test_a_cancelled_job_leaves_no_process(lab: Lab, now: bool) -> None:
    tree = "trap '' TERM; for n in 1 2 3; do setsid sh -c 'trap \"\" TERM; sleep 60 & wait' & done; echo ready; wait; sleep 60"
    (id,) = lab.submit({"name": "a", "command": tree, "grace": "0.5s"})
    lab.until_out(id, "ready")
    container = lab.container(id)
    pids = lab.engine.pids(container)
    assert len(pids) >= 7
    lab.daemon.client().cancel(id, now=now)
    (job,) = lab.daemon.wait(id)
    assert (end(job), alive(pids), lab.engine.pids(container)) == (("cancelled", "cancelled_by", 137), [], [])


def test_a_job_is_cancelled_before_its_payload_runs(lab: Lab) -> None:
    """Whatever stage of its launch the cancel meets."""
    ids = lab.submit(*({"name": f"j{n}", "command": f"touch /workspace/ran{n}; sleep 60"} for n in range(8)))
    for id in ids:
        lab.daemon.client().cancel(id)
    for job in lab.daemon.wait(*ids):
        ran = job["started_at"] is not None
        assert end(job) == ("cancelled", "cancelled_by", 143 if ran else None)


def test_a_signal_reaches_the_jobs_whole_group(lab: Lab) -> None:
    """As on the host: not the shell alone, but what it has running as well."""
    inner = 'trap "echo saved; exit 0" TERM; echo ready; while :; do sleep 0.05; done'
    (id,) = lab.submit({"name": "a", "command": f"trap : TERM; sh -c '{inner}'; exit 6"})
    lab.until_out(id, "ready")
    lab.daemon.client().cancel(id)
    (job,) = lab.daemon.wait(id)
    assert (lab.out(id), end(job)) == ("ready\nsaved\n", ("cancelled", "cancelled_by", 6))


def test_a_failure_is_tried_again_and_every_attempt_keeps_its_output(lab: Lab) -> None:
    count = "echo x >> /workspace/tries; echo try $(wc -l < /workspace/tries); [ $(wc -l < /workspace/tries) -ge 3 ]"
    (job,) = lab.run({"name": "a", "command": count, "retries": 5, "retry_delay": "0s"})
    assert end(job) == ("succeeded", "ok", 0)
    assert [attempt["exit_code"] for attempt in job["attempts"]] == [1, 1, 0]
    assert [lab.out(job["id"], attempt=n) for n in (1, 2, 3)] == ["try 1\n", "try 2\n", "try 3\n"]


def test_killed_from_outside_is_a_signal_and_tried_again(lab: Lab) -> None:
    (id,) = lab.submit({"name": "a", "command": "echo ready; exec sleep 60", "retries": 1, "retry_delay": "1h"})
    lab.until_out(id, "ready")
    lab.engine.docker("kill", lab.container(id))
    eventually("it is to be tried again", lambda: lab.daemon.job(id)["reason"]["code"] == "retry_delay")
    (attempt,) = lab.daemon.job(id)["attempts"]
    assert (attempt["reason"]["code"], attempt["exit_code"]) == ("signal", 137)


class TestForeground:
    """`runners-client run --image`: its bytes, signals and exit code are the container's."""

    @pytest.fixture
    def begin(self, lab: Lab) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
        """Starts `runners-client run --image SHELL`; what the test leaves of it is ended."""
        children: list[subprocess.Popen[bytes]] = []

        def start(*words: str) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", "runners.cli", "run", "--image", SHELL, *words]
            children.append(
                subprocess.Popen(command, env=lab.daemon.env, stdout=PIPE, stderr=PIPE, stdin=subprocess.DEVNULL,
                                 cwd=lab.folder)
            )  # fmt: skip
            return children[-1]

        yield start
        for child in children:
            child.kill()
            child.communicate()

    @pytest.mark.parametrize("code", [0, 3, 137])
    def test_the_exit_code_and_both_streams_are_the_jobs(
        self, begin: Callable[..., subprocess.Popen[bytes]], code: int
    ) -> None:
        child = begin("--", "sh", "-c", f"echo out; echo err >&2; exit {code}")
        assert child.communicate(timeout=30) == (b"out\n", b"err\n")
        assert child.returncode == code

    def test_words_arrive_as_they_were_given(self, begin: Callable[..., subprocess.Popen[bytes]]) -> None:
        words = ["a b", "", "--json", "$HOME", "'\"", "ü\n", "-c"]
        child = begin("--", "printf", "%s|", *words)
        assert child.communicate(timeout=30)[0].decode() == "|".join([*words, ""])

    @pytest.mark.parametrize("words", [["--", "no-such-program"], ["--image", "lab/no-such-image:1", "--", "true"]])
    def test_what_cannot_start_is_125(self, begin: Callable[..., subprocess.Popen[bytes]], words: list[str]) -> None:
        child = begin(*words)
        said = child.communicate(timeout=30)[1]
        assert child.returncode == 125
        assert b"no-such" in said

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
    def test_a_signal_is_passed_on(self, begin: Callable[..., subprocess.Popen[bytes]], number: signal.Signals) -> None:
        script = f"trap 'echo got; exit 40' {number.name[3:]}; echo ready; while :; do sleep 0.05; done"
        child = begin("--", "sh", "-c", script)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(number)
        assert child.communicate(timeout=30)[0] == b"got\n"
        assert child.returncode == 40

    def test_the_end_of_the_client_is_the_jobs(self, lab: Lab, begin: Callable[..., subprocess.Popen[bytes]]) -> None:
        child = begin("--", "sh", "-c", "trap 'echo bye; exit 9' TERM; echo ready; while :; do sleep 0.05; done")
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGTERM)
        assert child.communicate(timeout=30)[0] == b"bye\n"
        assert child.returncode == 9

    def test_a_job_of_a_file_is_waited_for(self, lab: Lab) -> None:
        file = lab.folder / "pipeline.yml"
        file.write_text(
            f"defaults: {{run_in: container, image: '{SHELL}'}}\njobs:\n"
            "  - {name: a, command: 'echo one > shared', blocking: true}\n"
            "  - {name: b, command: 'cat shared; exit 3'}\n"
        )
        done = lab.daemon.run("submit", str(file), "--wait", "--json", cwd=lab.folder)
        assert done.returncode == 1, done
        jobs = json.loads(done.stdout)["jobs"]
        assert [(job["state"], job["exit_code"]) for job in jobs] == [("succeeded", 0), ("failed", 3)]
        assert lab.out(jobs[1]["id"]) == "one\n"
