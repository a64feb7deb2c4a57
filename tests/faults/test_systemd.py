"""The shipped units under a real systemd as PID 1: install, activation, restarts, the watchdog, and who may do what.

One system is booted for the whole module; every test leaves its daemon running and its own jobs over.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faults.systemd.container import Container, until
from faults.systemd.installation import COMMON, install
from faults.systemd.rootfs import Unavailable, require_tools, rootfs

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(420)]

SERVICE = "runnersd.service"
SOCKET = "runnersd.socket"
DROP_IN = f"run/systemd/system/{SERVICE}.d/test.conf"


class System:
    """The booted system with this checkout installed, as its users and its administrator see it."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.common = container.root / COMMON.lstrip("/")

    # -- its users

    def client(
        self, *arguments: str, user: str = "alice", cwd: str = COMMON, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run `runners-client`; a failure shows the daemon's journal."""
        done = self.container.run("runners-client", *arguments, user=user, cwd=cwd, check=False)
        if check and done.returncode != 0:
            said = f"{done.stdout}{done.stderr}{self.journal()}"
            pytest.fail(f"runners-client {arguments} of {user} exited {done.returncode}\n{said}")
        return done

    def submit(self, name: str, *commands: str, user: str = "alice", num_jobs: int = 64) -> list[int]:
        """Queue a pipeline of one job a command; its jobs' ids in that order."""
        jobs = [{"name": f"{name}-{number}", "command": command} for number, command in enumerate(commands)]
        path = self.common / f"{name}.yml"
        path.write_text(json.dumps({"name": name, "num_jobs": num_jobs, "jobs": jobs}))  # JSON is YAML
        path.chmod(0o644)
        answer = json.loads(self.client("submit", f"{COMMON}/{name}.yml", "--json", user=user).stdout)
        return [job["id"] for job in answer["jobs"]]

    def jobs(self, ids: list[int], user: str = "alice") -> list[dict[str, Any]]:
        """These jobs as `status --json` has them, in this order."""
        status = json.loads(self.client("status", "--all", "--json", user=user).stdout)
        found = {job["id"]: job for job in status["jobs"]}
        return [found[number] for number in ids]

    def wait(self, ids: list[int]) -> list[dict[str, Any]]:
        """These jobs once all of them are over."""
        self.client("wait", *map(str, ids), check=False)
        jobs = self.jobs(ids)
        live = [job for job in jobs if job["state"] in ("queued", "held", "starting", "running", "stopping")]
        assert not live, f"wait returned, but {live} are not over\n{self.journal()}"
        return jobs

    # -- what jobs write and wait for

    def starts(self, name: str) -> dict[int, list[int]]:
        """The pids that each job of ``name`` wrote when it started."""
        found: dict[int, list[int]] = {}
        oracle = self.common / f"{name}.starts"
        for line in oracle.read_text().splitlines() if oracle.exists() else ():
            job, pid = map(int, line.split())
            found.setdefault(job, []).append(pid)
        return found

    def until_started(self, name: str, ids: list[int]) -> dict[int, list[int]]:
        """:meth:`starts` once all of these are there."""

        def all_started() -> dict[int, list[int]] | None:
            found = self.starts(name)
            return found if set(found) == set(ids) else None

        return until(f"all of {name} started", all_started, timeout=30, evidence=self.journal)

    def release(self, name: str) -> None:
        """Let the jobs of ``name`` end."""
        (self.common / f"{name}.go").touch()

    def alive(self, pid: int) -> bool:
        """Whether a process runs inside."""
        return (self.container.root / f"proc/{pid}").exists()

    # -- its administrator

    def systemctl(self, *arguments: str) -> str:
        """Run systemctl as root; what it printed."""
        return self.container.run("systemctl", *arguments).stdout.strip()

    def property(self, name: str, unit: str = SERVICE) -> str:
        """One property of a unit."""
        return self.container.properties(unit, name)[name]

    def main_pid(self) -> int:
        """The daemon's pid, 0 while it is down."""
        return int(self.property("MainPID"))

    def ready(self) -> int:
        """The daemon's pid, once it has said that it is ready."""

        def active() -> int:
            shown = self.container.properties(SERVICE, "ActiveState", "MainPID")
            return int(shown["MainPID"]) if shown["ActiveState"] == "active" else 0

        return until("the daemon is ready", active, timeout=30, evidence=self.journal)

    def drop_in(self, text: str) -> None:
        """Change the service by a drop-in until :meth:`no_drop_in`; running daemons are left alone."""
        path = self.container.root / DROP_IN
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        self.systemctl("daemon-reload")

    def no_drop_in(self) -> None:
        """The service as it is shipped."""
        (self.container.root / DROP_IN).unlink(missing_ok=True)
        self.systemctl("daemon-reload")

    def journal(self) -> str:
        """The end of the daemon's journal."""
        return self.container.journal(SERVICE)


def blocked(name: str, exit_code: int = 0) -> str:
    """A command that notes its job and pid durably, waits for :meth:`System.release`, and exits so."""
    return (
        f'echo "$RUNNERS_JOB_ID $$" >>{COMMON}/{name}.starts && sync {COMMON}/{name}.starts; '
        f"until [ -e {COMMON}/{name}.go ]; do sleep 0.1; done; exit {exit_code}"
    )


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A booted system with the units installed and the socket listening; nothing has started the daemon."""
    try:
        require_tools()
        tree = rootfs()
    except Unavailable as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    with Container(tree, tmp_path_factory.mktemp("system")) as container:
        install(container)
        system = System(container)
        system.systemctl("start", SOCKET)
        yield system


def test_the_units_verify_clean(system: System) -> None:
    verified = system.container.run("systemd-analyze", "verify", SERVICE, SOCKET, check=False)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_the_first_client_starts_the_daemon(system: System) -> None:
    system.systemctl("stop", SERVICE)
    assert system.property("ActiveState") == "inactive"
    assert system.property("ActiveState", SOCKET) == "active"
    status = json.loads(system.client("status", "--json").stdout)
    assert status["daemon"]["pid"] == system.main_pid() == system.ready()


def test_the_state_is_roots_alone_and_the_socket_the_groups(system: System) -> None:
    system.systemctl("start", SERVICE)
    shown = system.container.run(
        "stat", "--format=%n %U:%G %a", "/var/lib/runners", "/run/runners", "/run/runners/runnersd.sock"
    ).stdout
    assert shown.splitlines() == [
        "/var/lib/runners root:root 700",
        "/run/runners root:root 755",
        "/run/runners/runnersd.sock root:runners 660",
    ]


def test_a_member_is_served_and_a_stranger_refused(system: System) -> None:
    for user in ("alice", "bob", "carol"):
        system.client("status", user=user)
    system.client("status", user="root", cwd="/")
    refused = system.client("status", user="mallory", check=False)
    assert refused.returncode == 4, refused.stderr
    assert "/run/runners/runnersd.sock" in refused.stderr
    assert "Traceback" not in refused.stderr
    queued = system.client("run", "-d", "--", "true", user="mallory", check=False)
    assert queued.returncode in (4, 125), queued.stderr  # `run` has 125 for whatever fails before it starts


def test_one_users_jobs_are_not_anothers_to_cancel(system: System) -> None:
    [job] = system.submit("private", blocked("private"))
    system.until_started("private", [job])
    assert system.client("cancel", str(job), user="bob", check=False).returncode == 4
    assert system.client("logs", str(job), user="bob", check=False).returncode == 4
    system.client("cancel", str(job), user="carol")
    [over] = system.wait([job])
    assert over["state"] == "cancelled"


@pytest.mark.parametrize("user", ["alice", "bob", "carol"])
def test_each_submitters_job_runs_as_them(system: System, user: str) -> None:
    report = f"{COMMON}/who-{user}"
    command = (
        f"{{ id --user; id --group; id --groups; umask; pwd; "
        f"grep -E '^Sig(Blk|Ign)' /proc/self/status; }} >{report}.id && env --null >{report}.env"
    )
    [job] = system.wait(system.submit(f"who-{user}", command, user=user))
    assert (job["state"], job["exit_code"], job["user"]) == ("succeeded", 0, user)

    uid, gid, groups, umask, cwd, *signals = (system.common / f"who-{user}.id").read_text().splitlines()
    expected = [system.container.run("id", flag, user=user).stdout.strip() for flag in ("-u", "-g", "-G")]
    assert [uid, gid] == expected[:2]
    assert set(groups.split()) == set(expected[2].split())
    assert int(uid) == job["uid"] == (system.common / f"who-{user}.env").stat().st_uid
    assert (umask, cwd) == ("0022", COMMON)
    assert [line.split()[1] for line in signals] == ["0" * 16, "0" * 16]

    lines = (system.common / f"who-{user}.env").read_text().split("\0")
    environment = dict(line.split("=", 1) for line in lines if line)
    assert environment["HOME"] == f"/home/{user}"
    of_systemd = ("NOTIFY_SOCKET", "LISTEN_", "WATCHDOG_", "INVOCATION_ID", "JOURNAL_STREAM", "STATE_DIRECTORY")
    assert not [name for name in environment if name.startswith(of_systemd)]


def test_jobs_do_not_inherit_the_daemons_place_before_the_out_of_memory_killer(system: System) -> None:
    # The shipped -900 needs a capability that a container may lack; what is inherited is the same for any number.
    system.drop_in("[Service]\nOOMScoreAdjust=500\n")
    try:
        system.systemctl("restart", SERVICE)
        daemon = (system.container.root / f"proc/{system.ready()}/oom_score_adj").read_text()
        [job] = system.wait(system.submit("oom", f"cat /proc/self/oom_score_adj >{COMMON}/oom.seen"))
        assert job["state"] == "succeeded"
        assert (daemon, (system.common / "oom.seen").read_text()) == ("500\n", "0\n")
    finally:
        system.no_drop_in()
        system.systemctl("restart", SERVICE)


def test_a_request_that_comes_while_the_daemon_is_down_waits_and_is_answered(system: System) -> None:
    system.systemctl("start", SERVICE)
    before = system.ready()
    system.systemctl("kill", "--signal=KILL", "--kill-whom=main", SERVICE)
    # All of these connect within the second (RestartSec) for which nobody listens.
    down = [system.container.start("runners-client", "status", "--json", user=user) for user in ("alice", "bob") * 2]
    [job] = system.submit("meanwhile", "exit 3")
    for client in down:
        out, err = client.communicate(timeout=30)
        assert client.returncode == 0, err + system.journal()
        assert json.loads(out)["daemon"]["pid"] not in (0, before)
    [over] = system.wait([job])
    assert (over["state"], over["exit_code"]) == ("failed", 3)


def test_requests_that_come_during_restarts_are_all_answered(system: System) -> None:
    ids: list[int] = []
    for number in range(3):
        restart = system.container.start("systemctl", "restart", SERVICE)
        while restart.poll() is None:
            ids += system.submit(f"during-{number}-{len(ids)}", "true")
        _, err = restart.communicate()
        assert restart.returncode == 0, err + system.journal()
    assert len(ids) >= 3
    assert {job["state"] for job in system.wait(ids)} == {"succeeded"}


def test_a_restart_keeps_and_adopts_eight_running_jobs(system: System) -> None:
    ids = system.submit("kept", *(blocked("kept", exit_code=number) for number in range(8)))
    started = system.until_started("kept", ids)
    before = system.ready()

    system.systemctl("restart", SERVICE)
    assert system.ready() != before
    assert {job["state"] for job in system.jobs(ids)} == {"running"}
    assert system.starts("kept") == started
    assert all(system.alive(pid) for [pid] in started.values())

    system.release("kept")
    over = system.wait(ids)
    assert [job["exit_code"] for job in over] == list(range(8))
    assert [job["state"] for job in over] == ["succeeded"] + ["failed"] * 7
    assert {job["attempt"] for job in over} == {1}
    assert system.starts("kept") == started


def test_what_ends_while_the_service_is_stopped_is_known_when_it_is_back(system: System) -> None:
    [job] = system.submit("stopped", blocked("stopped", exit_code=7))
    [[pid]] = system.until_started("stopped", [job]).values()
    system.systemctl("stop", SERVICE)
    assert system.property("ActiveState") == "inactive"
    assert system.alive(pid)
    system.release("stopped")
    until("the job has ended", lambda: not system.alive(pid))
    system.systemctl("start", SERVICE)
    [over] = system.wait([job])
    assert (over["state"], over["exit_code"], over["attempt"]) == ("failed", 7, 1)


def test_a_blocked_loop_is_restarted_by_the_watchdog_and_jobs_live_on(system: System) -> None:
    system.drop_in("[Service]\nWatchdogSec=3\n")
    try:
        system.systemctl("restart", SERVICE)
        [job] = system.submit("watched", blocked("watched"))
        started = system.until_started("watched", [job])
        before = system.ready()

        pinged = system.property("WatchdogTimestampMonotonic")
        until("a ping", lambda: system.property("WatchdogTimestampMonotonic") != pinged, timeout=3)

        system.systemctl("kill", "--signal=STOP", "--kill-whom=main", SERVICE)
        until("another daemon", lambda: system.main_pid() not in (0, before), timeout=30, evidence=system.journal)
        assert system.ready() != before
        assert "Watchdog timeout" in system.journal()
        assert system.starts("watched") == started
        assert system.alive(started[job][0])
        system.release("watched")
        [over] = system.wait([job])
        assert (over["state"], over["exit_code"], over["attempt"]) == ("succeeded", 0, 1)
    finally:
        system.no_drop_in()
        system.systemctl("restart", SERVICE)


def test_a_daemon_that_fails_many_times_at_once_does_not_take_the_socket_down(system: System) -> None:
    system.systemctl("stop", SERVICE)
    system.drop_in("[Service]\nExecStart=\nExecStart=/bin/false\nRestartSec=50ms\n")
    waiting = system.container.start("runners-client", "status", "--json", user="alice")
    try:
        until("eight failures", lambda: int(system.property("NRestarts")) >= 8, evidence=system.journal)
        assert system.property("ActiveState", SOCKET) == "active"
        assert waiting.poll() is None
    finally:
        system.no_drop_in()
    out, err = waiting.communicate(timeout=30)
    assert waiting.returncode == 0, err + system.journal()
    assert json.loads(out)["daemon"]["pid"] == system.ready()


def test_a_reload_applies_the_file_and_a_bad_file_changes_nothing(system: System) -> None:
    config = Path(system.container.root / "etc/runners/runnersd.yml")
    shipped = config.read_text()
    system.systemctl("start", SERVICE)
    before = system.ready()
    try:
        config.write_text("jobs: {max_running: 1}\n")
        system.systemctl("reload", SERVICE)
        until("reloaded", lambda: system.property("ActiveState") == "active", evidence=system.journal)
        first, second = ids = system.submit("reload", blocked("reload"), blocked("reload"))
        system.until_started("reload", [first])
        waiting = until("it is known why", lambda: system.jobs([second])[0]["reason"]["code"] != "starting_soon")
        assert waiting, system.journal()
        assert system.jobs(ids)[1]["reason"]["code"] == "running_limit"

        config.write_text("jobs: {max_runing: 2}\n")
        system.container.run("systemctl", "reload", SERVICE, check=False)
        until("the mistake is named", lambda: "max_runing" in system.journal(), evidence=system.journal)
        assert system.jobs(ids)[1]["state"] == "queued"

        config.write_text(shipped)
        system.systemctl("reload", SERVICE)
        system.until_started("reload", ids)
        assert system.ready() == before
    finally:
        config.write_text(shipped)
        system.release("reload")
    assert {job["state"] for job in system.wait(ids)} == {"succeeded"}
