"""Containers outlive their daemon: taken back with their exit codes, and with every line that they wrote."""

from __future__ import annotations

import signal

import pytest

from daemon.containers import Lab
from harness.daemon import eventually

#: Numbers every line of both streams until `stop` is there, notes the last number, and exits with its argument.
CHATTER = """
n=0
while [ ! -e stop ]; do
    n=$((n+1)); echo "out $n"; echo "err $n" >&2
    [ $((n % 20)) = 0 ] && sleep 0.04
done
echo $n > last.$RUNNERS_JOB_ID
exit $1
"""
#: A progress bar on stderr, which never ends its line, beside lines on stdout.
BAR = """
n=0
while [ ! -e stop ]; do
    n=$((n+1)); printf '\\r%08d ................................................................' $n >&2
    [ $((n % 100)) = 0 ] && echo "epoch $n" && sleep 0.04
done
echo $n > last.$RUNNERS_JOB_ID
"""


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_running_containers_are_taken_back_with_codes_and_every_line(lab: Lab, number: int) -> None:
    stop = lab.daemon.folder / "stop"
    stop.unlink(missing_ok=True)
    ids = lab.submit(
        *({"name": f"j{n}", "command": ["sh", "-c", CHATTER, "sh", str(n)]} for n in range(4)),
        {"name": "bar", "command": ["sh", "-c", BAR]},
    )
    for id in ids[:4]:
        lab.until_out(id, "out 20\n")
    lab.until_out(ids[4], "epoch 300\n")
    pids = {id: lab.inspect(id)["State"]["Pid"] for id in ids}
    for _ in range(2):
        lab.daemon.kill(number)
        lab.start()
        before = len(lab.out(ids[0]))
        eventually("lines come again", lambda: len(lab.out(ids[0])) > before)  # noqa: B023
    assert {id: lab.inspect(id)["State"]["Pid"] for id in ids} == pids
    lab.daemon.kill(number)
    stop.touch()
    eventually("all ended while nobody watched", lambda: not any(map(lab.engine.pids, lab.containers().values())))
    lab.start()
    jobs = lab.daemon.wait(*ids)
    assert [(job["exit_code"], job["attempt"]) for job in jobs] == [(0, 1), (1, 1), (2, 1), (3, 1), (0, 1)]
    for job in jobs[:4]:
        last = int((lab.daemon.folder / f"last.{job['id']}").read_text())
        done = lab.daemon.run("logs", str(job["id"]))
        assert done.stdout.decode().splitlines() == [f"out {n}" for n in range(1, last + 1)]
        assert done.stderr.decode().splitlines() == [f"err {n}" for n in range(1, last + 1)]
    last = int((lab.daemon.folder / f"last.{ids[4]}").read_text())
    done = lab.daemon.run("logs", str(ids[4]))
    assert done.stdout.decode() == "".join(f"epoch {n}\n" for n in range(100, last + 1, 100))
    assert done.stderr.decode() == "".join(f"\r{n:08} {'.' * 64}" for n in range(1, last + 1))


def test_followers_go_on_over_a_restart(lab: Lab) -> None:
    """Whoever follows sees each line once, though the next daemon writes the last of them again."""
    stop = lab.daemon.folder / "stop"
    stop.unlink(missing_ok=True)
    (id,) = lab.submit({"name": "a", "command": ["sh", "-c", CHATTER, "sh", "5"]})
    lab.until_out(id, "out 50\n")
    lab.daemon.kill()
    lab.start()
    stop.touch()
    done = lab.daemon.run("logs", "-f", str(id))
    last = int((lab.daemon.folder / f"last.{id}").read_text())
    assert done.stdout.decode().splitlines() == [f"out {n}" for n in range(1, last + 1)]
    assert lab.daemon.wait(id)[0]["exit_code"] == 5


def test_one_that_was_removed_while_nobody_watched_is_lost(lab: Lab) -> None:
    (id,) = lab.submit({"name": "a", "command": "echo ready; sleep 60", "retries": 1, "retry_delay": "1h"})
    lab.until_out(id, "ready")
    lab.daemon.kill()
    lab.engine.remove_containers()
    lab.start()
    eventually("it is to be tried again", lambda: lab.daemon.job(id)["reason"]["code"] == "retry_delay")
    (attempt,) = lab.daemon.job(id)["attempts"]
    assert (attempt["reason"]["code"], attempt["exit_code"]) == ("container_lost", None)
    assert lab.out(id) == "ready\n"


def test_one_that_was_started_again_by_hand_does_not_run_again(lab: Lab) -> None:
    ran = lab.daemon.folder / "ran"
    (id,) = lab.submit(
        {"name": "a", "command": "echo x >> ran; echo ready; while [ ! -e stop-it ]; do sleep 0.05; done"}
    )
    lab.until_out(id, "ready")
    lab.daemon.kill()
    container = lab.container(id)
    (lab.daemon.folder / "stop-it").touch()
    eventually("it has ended", lambda: not lab.engine.pids(container))
    lab.engine.docker("start", container)
    lab.start()
    (job,) = lab.daemon.wait(id)
    assert (job["state"], job["reason"]["code"]) == ("failed", "container_lost")
    assert "a second time by somebody else" in job["reason"]["text"]
    assert ran.read_text() == "x\n"
    assert not lab.engine.pids(container)


def test_a_cancel_is_kept_over_a_restart(lab: Lab) -> None:
    (id,) = lab.submit({"name": "a", "command": "trap '' TERM; echo ready; while :; do sleep 0.1; done", "grace": "1s"})
    lab.until_out(id, "ready")
    container = lab.container(id)
    lab.daemon.client().cancel(id)
    lab.daemon.kill()
    lab.start()
    (job,) = lab.daemon.wait(id)
    assert (job["state"], job["exit_code"], lab.engine.pids(container)) == ("cancelled", 137, [])


def test_a_time_limit_is_kept_over_a_restart(lab: Lab) -> None:
    (id,) = lab.submit({"name": "a", "command": "echo ready; while :; do sleep 0.1; done", "time_limit": "4s"})
    lab.until_out(id, "ready")
    lab.daemon.kill()
    lab.start()
    (job,) = lab.daemon.wait(id)
    assert (job["state"], job["exit_code"]) == ("timed_out", 143)
    assert 3.9 < job["finished_at"] - job["started_at"] < 15


def test_containers_of_jobs_that_nobody_remembers_are_left_alone(lab: Lab) -> None:
    """A database that was lost: what runs may be somebody's training."""
    (id,) = lab.submit({"name": "a", "command": "sleep 60"})
    eventually("it runs", lambda: lab.daemon.job(id)["state"] == "running")
    database = lab.inspect(id)["Config"]["Labels"]["runners.database"]
    made = lab.engine.docker(
        "run", "-d", "--label", f"runners.database={database}", "--label", "runners.job=99999",
        "--label", "runners.attempt=1", "runners-test/shell", "sleep", "600",
    ).stdout.strip()  # fmt: skip
    lab.daemon.kill()
    lab.start()
    eventually("it is told", lambda: made[:12] in lab.daemon.log.read_text())
    assert "left alone" in lab.daemon.log.read_text()
    assert lab.engine.pids(made)
    lab.engine.docker("rm", "-f", made)
