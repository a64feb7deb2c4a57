"""Who is asking is what the kernel says of the connection: real users on a real socket."""

from __future__ import annotations

import asyncio
import grp
import json
import logging
import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from runnersd.config import Config
from runnersd.server.peer import peer_of
from serving import Served, served_test, submission

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for a moment")

#: Asks over the socket as another user: uid, gid, groups, socket, then method, path and body.
AS_SOMEBODY = """
import json, os, socket, sys
uid, gid, groups, path, method, target, body = sys.argv[1:]
os.setgroups([int(group) for group in groups.split(",") if group])
os.setresgid(int(gid), int(gid), int(gid))
os.setresuid(int(uid), int(uid), int(uid))
sock = socket.socket(socket.AF_UNIX)
sock.connect(path)
lines = [f"{method} {target} HTTP/1.1", "Host: d", "Connection: close", "X-Uid: 0", f"Content-Length: {len(body)}"]
head = "\\r\\n".join([*lines, "", ""])
sock.sendall(head.encode() + body.encode())
answer = b"".join(iter(lambda: sock.recv(65536), b""))
head, _, body = answer.partition(b"\\r\\n\\r\\n")
print(json.dumps([int(head.split()[1]), body.decode()]))
"""

ADA, BOB, OPERATOR_GROUP = 61001, 61002, 61777
MACHINE = Config(system=True, operators="runners-operators")


async def ask_as(
    daemon: Served, uid: int, method: str, path: str, body: Any = None, *, groups: Sequence[int] = ()
) -> tuple[int, Any]:
    """One request by a process of that user. Status, and JSON where the answer is some."""
    data = "" if body is None else json.dumps(body)
    words = [str(uid), str(uid), ",".join(map(str, groups)), str(daemon.socket), method, path, data]
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", AS_SOMEBODY, *words, stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    status, text = json.loads(out)
    return status, json.loads(text) if text[:1] in ("{", "[") else text


def let_in(daemon: Served) -> None:
    """Open the socket to everybody, as its group's mode would to its members, and the way to it."""
    daemon.socket.chmod(0o666)
    daemon.folder.chmod(0o711)


def test_the_kernel_tells_uid_gid_and_groups() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = peer_of(ours)
    assert (peer.uid, peer.gid, peer.pid) == (os.geteuid(), os.getegid(), os.getpid())
    assert sorted(peer.groups) == sorted(os.getgroups())


@needs_root
@served_test(MACHINE)
async def test_a_job_belongs_to_who_submitted_it(daemon: Served) -> None:
    let_in(daemon)
    secret = submission("forever", env={"KEY": "s3cret"}, job={"env": {"TOKEN": "t0ken"}})
    status, answer = await ask_as(daemon, ADA, "POST", "/v1/pipelines", secret, groups=[61003])
    assert status == 201
    pipeline, [job] = await daemon.store.pipeline(1)
    assert (pipeline.submitter.uid, pipeline.submitter.gid) == (ADA, ADA)
    assert set(pipeline.submitter.groups) == {61003}
    await daemon.until_state(job.id, "running")
    daemon.write_log(job.id, b"private\n")

    for path in ("/v1/status", "/v1/jobs", "/v1/jobs/1", "/v1/jobs/p1", "/v1/gpus", "/v1/events?after=0&job=9999999"):
        if "events" not in path:
            status, answer = await ask_as(daemon, BOB, "GET", path)
            assert status == 200, path
            assert "s3cret" not in str(answer) and "t0ken" not in str(answer)
    for method, path, body, said in [
        ("GET", "/v1/jobs/1/logs", None, "show the output of job 1: "),
        ("PATCH", "/v1/jobs/1", {"name": "mine"}, "change job 1: "),
        ("POST", "/v1/jobs/1/cancel", {}, "cancel job 1: "),
        ("POST", "/v1/jobs/p1/cancel", {}, "cancel job 1: "),
        ("POST", "/v1/jobs/1/signal", {"signal": 9}, "signal job 1: "),
        ("POST", "/v1/jobs/1/retry", {}, "retry job 1: "),
        ("POST", "/v1/gpus/0/drain", {}, "drain: "),
        ("POST", "/v1/gpus/0/undrain", {}, "undrain: "),
        ("POST", "/v1/daemon/pause", {}, "pause: "),
        ("POST", "/v1/daemon/resume", {}, "resume: "),
        ("POST", "/v1/daemon/shutdown", {"now": True}, "stop the daemon: "),
    ]:
        status, answer = await ask_as(daemon, BOB, method, path, body)
        assert (status, answer["code"]) == (403, "not-allowed"), path
        assert answer["detail"].startswith(f"cannot {said}"), answer
    assert (await ask_as(daemon, ADA, "GET", "/v1/jobs/1/logs")) == (200, "private\n")
    status, answer = await ask_as(daemon, ADA, "GET", "/v1/jobs/1")
    assert answer["spec"]["env"] == {"TOKEN": "t0ken"}
    assert (await ask_as(daemon, ADA, "POST", "/v1/jobs/1/cancel"))[0] == 200
    assert (await ask_as(daemon, ADA, "POST", "/v1/gpus/0/drain"))[0] == 403


@needs_root
@served_test(MACHINE)
async def test_a_priority_above_0_takes_an_operator(daemon: Served) -> None:
    let_in(daemon)
    urgent = submission("true", job={"priority": 5}, hold=True)
    assert (await ask_as(daemon, ADA, "POST", "/v1/pipelines", urgent))[0] == 403
    assert (await ask_as(daemon, ADA, "POST", "/v1/pipelines", submission("true", hold=True)))[0] == 201
    assert (await ask_as(daemon, ADA, "PATCH", "/v1/jobs/1", {"priority": 5}))[0] == 403
    assert (await ask_as(daemon, 0, "PATCH", "/v1/jobs/1", {"priority": 5}))[0] == 200


@needs_root
@served_test(MACHINE)
async def test_mine_are_the_callers(daemon: Served) -> None:
    let_in(daemon)
    for uid in (ADA, BOB, ADA):
        await ask_as(daemon, uid, "POST", "/v1/pipelines", submission("true"))
    await daemon.until_state(3, "succeeded")
    await ask_as(daemon, ADA, "POST", "/v1/pipelines", submission("true", hold=True))
    _, answer = await ask_as(daemon, ADA, "GET", "/v1/status?mine=1")
    assert [job["id"] for job in answer["jobs"]] == [4, 3, 1]
    _, answer = await ask_as(daemon, BOB, "GET", "/v1/status?mine=1&all=1")
    assert [job["id"] for job in answer["jobs"]] == [2]


@needs_root
@served_test(replace(MACHINE, operators=grp.getgrgid(1).gr_name))
async def test_members_of_the_operators_group_are_operators(daemon: Served) -> None:
    let_in(daemon)
    await daemon.submit("true", hold=True)
    assert (await ask_as(daemon, ADA, "POST", "/v1/jobs/1/cancel"))[0] == 403
    assert (await ask_as(daemon, ADA, "POST", "/v1/jobs/1/cancel", groups=[1]))[0] == 200
    assert (await ask_as(daemon, ADA, "POST", "/v1/daemon/pause", groups=[1]))[0] == 200
    daemon.engine.configure(replace(daemon.config, operators=None))
    assert (await ask_as(daemon, ADA, "POST", "/v1/daemon/resume", groups=[1]))[0] == 403


@needs_root
@served_test(Config(system=False))
async def test_a_users_daemon_answers_that_user_and_root_alone(daemon: Served) -> None:
    let_in(daemon)
    status, answer = await ask_as(daemon, ADA, "GET", "/v1/health")
    assert (status, answer["code"]) == (403, "not-allowed")
    assert (await daemon.ask("GET", "/v1/health")).status == 200


@needs_root
@served_test(MACHINE)
async def test_a_retry_by_an_operator_stays_its_owners(daemon: Served) -> None:
    let_in(daemon)
    await ask_as(daemon, ADA, "POST", "/v1/pipelines", submission("false"))
    await daemon.until_state(1, "failed")
    assert (await daemon.ask("POST", "/v1/jobs/1/retry")).status == 201
    pipeline, _ = await daemon.store.pipeline(2)
    assert pipeline.submitter.uid == ADA


@served_test()
async def test_users_are_shown_by_name(daemon: Served) -> None:
    await daemon.submit("true", hold=True)
    name = pwd.getpwuid(os.geteuid()).pw_name
    assert (await daemon.ask("GET", "/v1/jobs/1")).json["user"] == name
    assert [job["id"] for job in (await daemon.ask("GET", f"/v1/jobs?user={name}")).json["jobs"]] == [1]


@served_test()
async def test_a_users_socket_is_closed_to_others(daemon: Served) -> None:
    assert daemon.socket.stat().st_mode & 0o777 == 0o600


def test_requests_are_logged_at_debug_with_who_asked_and_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    @served_test()
    async def story(daemon: Served) -> None:
        await daemon.submit("true", env={"KEY": "s3cret"}, job={"env": {"TOKEN": "t0ken"}}, hold=True)
        await daemon.ask("GET", "/v1/jobs/7?newest=1")

    with caplog.at_level(logging.DEBUG):
        story()
    asked = [record for record in caplog.records if record.getMessage() == "request"]
    assert [(record.__dict__["method"], record.__dict__["status"]) for record in asked] == [("POST", 201), ("GET", 400)]
    assert {record.__dict__["uid"] for record in asked} == {os.geteuid()}
    said = "".join(str(record.__dict__) for record in caplog.records)
    assert "s3cret" not in said and "t0ken" not in said
    caplog.clear()
    with caplog.at_level(logging.INFO):
        story()
    assert "request" not in [record.getMessage() for record in caplog.records]
