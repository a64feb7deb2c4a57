"""What the daemon hears from systemd and says to it, against real sockets and a real child process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from runners.errors import InvalidConfig
from runnersd.systemd import Handover

#: The child first puts the passed descriptors where systemd would, from 3 on, and says that they are its own.
PRELUDE = """
import json, os, socket, sys
passed = [int(text) for text in sys.argv[1:]]
for position, fd in enumerate(passed):
    os.dup2(fd, 100 + position)
for position in range(len(passed)):
    os.dup2(100 + position, 3 + position)
for name in ("LISTEN_PID", "WATCHDOG_PID"):
    if os.environ.get(name) == "me":
        os.environ[name] = str(os.getpid())
from runnersd import systemd
"""


def child(code: str, environment: dict[str, str], *listening: socket.socket) -> Any:
    """What ``code`` prints as JSON, in a fresh interpreter that was started as systemd starts a service."""
    descriptors = [sock.fileno() for sock in listening]
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code, *map(str, descriptors)],
        env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
        pass_fds=descriptors,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def listener(path: Path) -> socket.socket:
    """A listening Unix socket, as a socket unit would make it."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    sock.listen(8)
    return sock


def test_nothing_is_assumed_without_systemd() -> None:
    code = "print(json.dumps([systemd.notify('READY=1'), systemd.listen_sockets(), systemd.watchdog_interval()]))"
    assert child(code, {}) == [False, {}, None]


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_every_notification_arrives_though_the_variable_is_gone(tmp_path: Path, abstract: bool) -> None:
    name = f"@runners-{uuid.uuid4()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        manager.settimeout(5)
        code = """
told = [systemd.notify("READY=1\\nSTATUS=adopting 8 jobs"), systemd.notify("STOPPING=1")]
print(json.dumps([told, "NOTIFY_SOCKET" in os.environ]))
"""
        assert child(code, {"NOTIFY_SOCKET": name}) == [[True, True], False]
        assert manager.recv(4096) == b"READY=1\nSTATUS=adopting 8 jobs"
        assert manager.recv(4096) == b"STOPPING=1"


def test_a_manager_that_is_away_does_not_stop_the_daemon(tmp_path: Path) -> None:
    assert child("print(json.dumps(systemd.notify('READY=1')))", {"NOTIFY_SOCKET": str(tmp_path / "gone")}) is False


def test_sockets_are_taken_over_by_name_with_the_clients_that_wait_in_them(tmp_path: Path) -> None:
    code = """
found = systemd.listen_sockets()
with socket.socket(fileno=found["runnersd.socket"]) as listening:
    listening.accept()[0].sendall(b"answered")
print(json.dumps([found, [name for name in os.environ if name.startswith("LISTEN")]]))
"""
    with (
        listener(tmp_path / "a") as first,
        listener(tmp_path / "b") as second,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client,
    ):
        client.settimeout(5)
        client.connect(str(tmp_path / "b"))
        environment = {"LISTEN_PID": "me", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "metrics:runnersd.socket"}
        found, left = child(code, environment, first, second)
        assert found == {"metrics": 3, "runnersd.socket": 4}
        assert left == []
        assert client.recv(100) == b"answered"


def test_no_program_started_later_inherits_a_socket(tmp_path: Path) -> None:
    code = """
before = os.get_inheritable(3)
systemd.listen_sockets()
print(json.dumps([before, os.get_inheritable(3)]))
"""
    with listener(tmp_path / "a") as sock:
        environment = {"LISTEN_PID": "me", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "runnersd.socket"}
        assert child(code, environment, sock) == [True, False]


def test_two_sockets_of_one_unit_are_both_found(tmp_path: Path) -> None:
    with listener(tmp_path / "a") as first, listener(tmp_path / "b") as second:
        environment = {"LISTEN_PID": "me", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "runnersd.socket:runnersd.socket"}
        found = child("print(json.dumps(systemd.listen_sockets()))", environment, first, second)
    assert found == {"runnersd.socket": 3, "runnersd.socket#2": 4}


def test_a_socket_that_is_not_there_is_named() -> None:
    code = """
os.closerange(3, 200)
try:
    systemd.listen_sockets()
except systemd.InvalidConfig as error:
    print(json.dumps(str(error)))
"""
    environment = {"LISTEN_PID": "me", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "runnersd.socket"}
    message = child(code, environment)
    assert message.startswith("cannot listen on systemd's socket runnersd.socket: descriptor 3: ")


def test_the_watchdog_is_pinged_twice_in_the_time_it_allows() -> None:
    environment = {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "me"}
    assert child("print(json.dumps(systemd.watchdog_interval()))", environment) == 15.0


def test_what_was_meant_for_another_process_is_dropped_and_still_removed() -> None:
    environ = {
        "LISTEN_PID": "41",
        "LISTEN_FDS": "2",
        "LISTEN_FDNAMES": "a:b",
        "WATCHDOG_USEC": "1000000",
        "WATCHDOG_PID": "41",
        "HOME": "/root",
    }
    assert Handover.take(environ, 42) == Handover()
    assert environ == {"HOME": "/root"}


def test_a_watchdog_without_a_pid_is_meant_for_whoever_reads_it() -> None:
    assert Handover.take({"WATCHDOG_USEC": "2000000"}, 42).watchdog == 2.0


@pytest.mark.parametrize("usec", ["0", ""])
def test_a_watchdog_of_no_time_is_none(usec: str) -> None:
    assert Handover.take({"WATCHDOG_USEC": usec, "WATCHDOG_PID": "42"}, 42).watchdog is None


@pytest.mark.parametrize(
    ("names", "expected"),
    [("", ("unknown", "unknown")), ("api", ("api", "unknown")), ("api:metrics:more", ("api", "metrics"))],
)
def test_there_is_a_name_for_every_descriptor(names: str, expected: tuple[str, ...]) -> None:
    environ = {"LISTEN_PID": "42", "LISTEN_FDS": "2", "LISTEN_FDNAMES": names}
    assert Handover.take(environ, 42).listen_names == expected


@pytest.mark.parametrize("bad", ["many", "-1", "1.5", "\u0663"])
@pytest.mark.parametrize("variable", ["LISTEN_PID", "LISTEN_FDS", "WATCHDOG_PID", "WATCHDOG_USEC"])
def test_what_is_no_number_is_named(variable: str, bad: str) -> None:
    environ = {"LISTEN_PID": "42", "LISTEN_FDS": "1", "WATCHDOG_USEC": "9", "WATCHDOG_PID": "42", variable: bad}
    with pytest.raises(InvalidConfig, match=f"{variable} is .*, not a number"):
        Handover.take(environ, 42)
