"""`runnersd doctor` looking at a real machine: sockets that hang, drivers that hang, folders, groups, an engine."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import SHELL
from engine import Engine as DockerEngine
from fake_nvml import FakeDriver, Fault
from runnersd.config import Config, ContainersConfig, DirectoriesConfig, Paths
from runnersd.doctor import engine_answers, gather, machine_looks
from runnersd.doctor.examination import examine
from runnersd.doctor.facts import DaemonFacts, EngineInfo, EngineVersion, SocketFile, Unseen
from runnersd.doctor.finding import Level
from runnersd.doctor.gather import gather as gather_all
from runnersd.doctor.looking import Look
from runnersd.machine.nvml.survey import MISMATCH, Survey, survey

#: Answers one request: the connection, and the target that was asked for.
Serve = Callable[[socket.socket, str], None]


class Engine:
    """Answers on a Unix socket as a test says, one connection at a time, each in a thread."""

    def __init__(self, path: Path, serve: Serve) -> None:
        self.path = str(path)
        self.asked: list[str] = []
        self._serve = serve
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            words = connection.recv(65536).split(b" ", 2)
            if len(words) < 3:
                return  # somebody who only looks whose socket it is
            target = words[1].decode()
            self.asked.append(target)
            try:
                self._serve(connection, target)
            except OSError:
                return  # whoever asked has hung up

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def http(body: Any, status: str = "200 OK") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def saying(data: bytes) -> Serve:
    return lambda connection, _target: connection.sendall(data)


def silent(connection: socket.socket, _target: str) -> None:
    connection.recv(1)  # until whoever asked hangs up


def dripping(connection: socket.socket, _target: str) -> None:
    """A byte now and then, for ever: no single wait is ever long."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b" ")
        time.sleep(0.05)


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Serve], Engine]]:
    made: list[Engine] = []

    def make(serve: Serve) -> Engine:
        made.append(Engine(tmp_path_factory.mktemp("e") / "s", serve))
        return made[-1]

    yield make
    for one in made:
        one.close()


# -- deadlines ---------------------------------------------------------------------------------------------------------


def test_a_look_that_hangs_is_given_up() -> None:
    release = threading.Event()
    begun = time.monotonic()
    seen = Look(lambda: release.wait(60), 0.1).seen()
    release.set()
    assert seen == Unseen("no answer in 0.1 s")
    assert time.monotonic() - begun < 5


def test_looks_go_on_side_by_side() -> None:
    """Each waits for the other: one after another they would never end."""
    both = threading.Barrier(2)
    looks = [Look(lambda: both.wait(20), 30) for _ in range(2)]
    assert {look.seen() for look in looks} == {0, 1}


def test_what_cannot_be_seen_says_why_and_a_bug_is_a_bug() -> None:
    def missing() -> None:
        os.stat("/nowhere")

    assert Look(missing, 5).seen() == Unseen("no such file or directory")
    with pytest.raises(ZeroDivisionError):
        Look(lambda: 1 // 0, 5).seen()


@pytest.mark.parametrize("serve", [silent, dripping], ids=["silent", "dripping"])
def test_an_engine_that_hangs_hangs_nobody(
    engine: Callable[[Serve], Engine], monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    monkeypatch.setattr(gather, "PIECE", 0.3)
    monkeypatch.setattr(gather, "ANSWER", 0.6)
    config = Config(containers=ContainersConfig(socket=engine(serve).path, image="lab/torch"))
    begun = time.monotonic()
    facts = gather._engine(config)
    assert time.monotonic() - begun < 5
    assert isinstance(facts.file, SocketFile)
    for seen in (facts.info, facts.version, facts.image):
        assert isinstance(seen, Unseen)
        assert "no answer in 0.6 s" in seen.why or "nothing came for 0.3 s" in seen.why


# -- the engine's answers ----------------------------------------------------------------------------------------------


def test_an_answer_is_read(engine: Callable[[Serve], Engine]) -> None:
    one = engine(saying(http({"a": 1})))
    assert engine_answers.ask(one.path, "/info", 5) == {"a": 1}
    assert one.asked == ["/info"]
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n[1,2]\r\n0\r\n\r\n"
    assert engine_answers.ask(engine(saying(chunked)).path, "/x", 5) == [1, 2]
    assert engine_answers.ask(engine(saying(http({"message": "no such image"}, "404 Not Found"))).path, "/x", 5) is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (http({}, "500 Internal Server Error"), "it answers 500 to /info"),
        (http(b"<html>"), "its answer to /info is not JSON"),
        (http(b"[" * 100_000), "its answer to /info is not JSON"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "it hung up in the middle of its answer"),
        (b"SSH-2.0-x\r\n\r\n", "the answer is not HTTP"),
        (b"", "it hung up in the middle of its answer"),
        (http(b" " * (5 << 20)), "its answer to /info has no end"),
    ],
    ids=["500", "html", "deep", "cut", "ssh", "nothing", "endless"],
)
def test_what_is_no_answer_says_so(engine: Callable[[Serve], Engine], data: bytes, why: str) -> None:
    one = engine(saying(data))
    with pytest.raises(OSError, match=why):
        engine_answers.ask(one.path, "/info", 5)


def test_values_are_made_of_what_docker_says() -> None:
    """As Docker 20.10 and 29 say it, less what does not matter."""
    assert engine_answers.version(
        {"Version": "20.10.24+dfsg1", "ApiVersion": "1.41", "MinAPIVersion": "1.12",
         "Components": [{"Name": "Engine", "Version": "20.10.24+dfsg1"}, {"Name": "runc", "Version": "1.1.5+ds1"}]}
    ) == EngineVersion("20.10.24+dfsg1", "1.41", "1.12", {"engine": "20.10.24+dfsg1", "runc": "1.1.5+ds1"})  # fmt: skip
    said = engine_answers.info(
        {"CgroupDriver": "systemd", "LiveRestoreEnabled": True, "LoggingDriver": "json-file", "DockerRootDir": "/var/lib/docker",
         "Plugins": {"Log": ["json-file", "local"], "Authorization": None}, "Runtimes": {"nvidia": {}, "runc": {}},
         "DefaultRuntime": "runc", "CDISpecDirs": ["/etc/cdi"], "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}],
         "SecurityOptions": ["name=seccomp,profile=builtin"], "Warnings": None, "MemoryLimit": True, "PidsLimit": False,
         "Swarm": {"LocalNodeState": "active"}}
    )  # fmt: skip
    assert said == EngineInfo(
        "systemd", True, "json-file", ("json-file", "local"), ("nvidia", "runc"), "runc", ("/etc/cdi",), ("nvidia.com/gpu=0",),
        ("name=seccomp,profile=builtin",), (), (), "/var/lib/docker", True, False, True,
    )  # fmt: skip
    assert engine_answers.info({}).devices == ()
    assert not engine_answers.info({"Swarm": {"LocalNodeState": "inactive"}}).swarm


@pytest.mark.parametrize("said", [None, [], "x", 3, {"ApiVersion": 3}])
def test_another_program_is_no_engine(said: Any) -> None:
    with pytest.raises(engine_answers.NotAnEngine):
        engine_answers.version(said)
    if not isinstance(said, dict):
        with pytest.raises(engine_answers.NotAnEngine):
            engine_answers.info(said)


def test_odd_values_of_an_engine_break_nothing() -> None:
    engine_answers.version({"ApiVersion": "1.41", "Components": [3, {}, {"Name": 5}]})
    engine_answers.info({"Plugins": 3, "Runtimes": [], "DiscoveredDevices": [3, {}], "Warnings": "x", "Swarm": "y"})


# -- the driver --------------------------------------------------------------------------------------------------------


def test_the_driver_is_surveyed(fake_nvml: Callable[[int], FakeDriver]) -> None:
    driver = fake_nvml(2)
    driver.cards[1].persistent = False
    driver.write()
    seen = survey(30, driver.environment())
    assert (seen.driver, seen.absent, seen.error) == ("570.86.15", None, None)
    assert [(card.name, card.persistent) for card in seen.cards] == [
        ("NVIDIA H100 80GB HBM3", True),
        ("NVIDIA H100 80GB HBM3", False),
    ]
    driver.unload()
    assert survey(30, driver.environment()) == Survey(absent="the NVIDIA driver is not loaded")


def test_a_machine_without_the_library_says_so() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    assert survey(30, environment).absent == "libnvidia-ml.so.1 is not found"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault("nvmlDeviceGetCount*", delay=600), "it has not answered for 2 s"),
        (Fault("nvmlDeviceGetName", crash=True), "it made the process that asked it crash (Segmentation fault)"),
        (Fault("nvmlDeviceGetUUID", code=15), "GPU is lost"),
    ],
    ids=["hangs", "crashes", "lost"],
)
def test_a_driver_that_misbehaves_is_told(fake_nvml: Callable[[int], FakeDriver], fault: Fault, error: str) -> None:
    driver = fake_nvml(1)
    driver.faults.append(fault)
    driver.write()
    begun = time.monotonic()
    seen = survey(2, driver.environment())
    assert time.monotonic() - begun < 20
    assert seen.error == error


def test_a_driver_changed_under_the_running_one_has_its_own_code(fake_nvml: Callable[[int], FakeDriver]) -> None:
    driver = fake_nvml(1)
    driver.faults.append(Fault("nvmlInit*", code=MISMATCH))
    driver.write()
    assert survey(30, driver.environment()).code == MISMATCH


def test_a_value_that_a_card_does_not_give_is_unknown(fake_nvml: Callable[[int], FakeDriver]) -> None:
    driver = fake_nvml(1)
    driver.faults.append(Fault("nvmlDeviceGetPersistenceMode", code=3))
    driver.write()
    assert [card.persistent for card in survey(30, driver.environment()).cards] == [None]


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n", "535.104.05"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (x@y)\nGCC version: 12.2.0\n", "550.54.15"),
        ("NVRM version: something else\n", "of an unknown version"),
    ],
)  # fmt: skip
def test_the_kernels_driver(tmp_path: Path, text: str, version: str) -> None:
    assert machine_looks.module_version(tmp_path) is None
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(text)
    assert machine_looks.module_version(tmp_path) == version


def test_cards_on_the_bus(tmp_path: Path) -> None:
    for name, vendor, kind in [
        ("a", "0x10de", "0x030000"),
        ("b", "0x10de", "0x030200"),
        ("c", "0x10de", "0x040300"),
        ("d", "0x8086", "0x030000"),
    ]:
        folder = tmp_path / "sys/bus/pci/devices" / name
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(vendor + "\n")
        (folder / "class").write_text(kind + "\n")
    assert machine_looks.cards_on_bus(tmp_path) == 2, "a card's sound device is none, nor is another vendor's"


@pytest.mark.skipif(os.geteuid() != 0, reason="makes device files")
def test_links_of_device_files(tmp_path: Path) -> None:
    (tmp_path / "dev/char").mkdir(parents=True)
    assert machine_looks.are_linked(tmp_path) is None
    for minor in (0, 1):
        os.mknod(tmp_path / f"dev/nvidia{minor}", stat.S_IFCHR | 0o666, os.makedev(195, minor))
        assert machine_looks.are_linked(tmp_path) is False
        (tmp_path / f"dev/char/195:{minor}").symlink_to(f"../nvidia{minor}")
        assert machine_looks.are_linked(tmp_path) is True


def test_a_place_is_the_nearest_directory_that_is_there(tmp_path: Path) -> None:
    found = machine_looks.place_facts(tmp_path / "a" / "b")
    assert (found.path, found.there, found.exists) == (str(tmp_path / "a" / "b"), str(tmp_path), False)
    room = os.statvfs(tmp_path)
    assert found.total == room.f_blocks * room.f_frsize
    assert 0 < found.free <= found.total
    assert machine_looks.place_facts(tmp_path).exists


def test_the_locks_directory(tmp_path: Path) -> None:
    assert machine_looks.lock_facts(tmp_path / "locks").mode is None
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks").chmod(0o1777)
    found = machine_looks.lock_facts(tmp_path / "locks")
    assert (found.mode, found.uid) == (0o1777, os.geteuid())


def test_a_socket_and_its_group(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("s") / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o660)
        assert machine_looks.socket_file(path) == SocketFile(
            os.geteuid(), os.getegid(), 0o660, machine_looks.group_name(os.getegid())
        )
        assert machine_looks.user_name(os.geteuid()) in machine_looks.group_members(path)
    path.unlink()
    path.touch()
    with pytest.raises(OSError, match="no socket"):
        machine_looks.socket_file(path)


def test_groups_that_there_are() -> None:
    root = machine_looks.group_name(0)
    assert machine_looks.existing_groups((root, "no-such-group")) == {root: True, "no-such-group": False}


def test_cdi_specifications_are_found_by_what_they_say(tmp_path: Path) -> None:
    (tmp_path / "nvidia.yaml").write_text("cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices: [{name: GPU-1f}]\n")
    (tmp_path / "indices.yaml").write_text("cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices: [{name: '0'}]\n")
    (tmp_path / "other.json").write_text('{"kind": "vendor.com/nic"}')
    (tmp_path / "notes.txt").write_text("nvidia.com/gpu GPU-1f")
    found = machine_looks.cdi_files((str(tmp_path), str(tmp_path / "none")))
    assert found == (str(tmp_path / "nvidia.yaml"),)


def test_the_toolkit_says_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine_looks.toolkit_version() is None
    program = tmp_path / "nvidia-ctk"
    program.write_text("#!/bin/sh\necho 'NVIDIA Container Toolkit CLI version 1.17.8'\necho commit: f202b80\n")
    program.chmod(0o755)
    assert machine_looks.toolkit_version() == "1.17.8"
    program.write_text("#!/bin/sh\nexit 3\n")
    assert machine_looks.toolkit_version() == "unknown"


@pytest.mark.parametrize(
    ("kinds", "version"), [(["cgroup2"], "v2"), (["cgroup"], "v1"), (["cgroup", "cgroup2"], "hybrid")]
)
def test_the_version_of_control_groups(kinds: list[str], version: str) -> None:
    lines = [f"30 24 0:26 / /sys/fs/cgroup/{kind} rw - {kind} {kind} rw" for kind in ["ext4", *kinds]]
    assert machine_looks.cgroup_version("\n".join(lines)) == version


def test_open_files_of_a_process() -> None:
    assert machine_looks.open_files(os.getpid()) == machine_looks.open_files(None)


# -- all of it ---------------------------------------------------------------------------------------------------------


def test_everything_is_looked_at(
    engine: Callable[[Serve], Engine], fake_nvml: Callable[[int], FakeDriver], tmp_path: Path
) -> None:
    answers = {
        "/_ping": http(b"OK"),
        "/version": http({"Version": "29.5.1", "ApiVersion": "1.52"}),
        "/info": http({"DockerRootDir": str(tmp_path), "CDISpecDirs": [str(tmp_path)]}),
        "/images/lab/torch:1/json": http({"message": "no such image"}, "404 Not Found"),
    }
    docker = engine(lambda connection, target: connection.sendall(answers[target]))
    daemon = engine(saying(http({"daemon": {"version": "0.1.0", "pid": os.getpid()}})))
    (tmp_path / "nvidia.yaml").write_text("kind: nvidia.com/gpu\ndevices: [{name: GPU-1f}]\n")
    config = Config(
        containers=ContainersConfig(socket=docker.path, image="lab/torch:1"),
        directories=DirectoriesConfig(data=str(tmp_path / "data")),
        paths=Paths(tmp_path / "runnersd.yml", Path(daemon.path), tmp_path / "state", tmp_path / "locks"),
    )
    facts = gather_all(config, None, fake_nvml(1).environment())
    assert isinstance(facts.engine.version, EngineVersion)
    assert isinstance(facts.engine.info, EngineInfo)
    assert facts.engine.image is False
    assert facts.engine.cdi_files == (str(tmp_path / "nvidia.yaml"),)
    assert facts.daemon == DaemonFacts("0.1.0", os.getpid())
    assert set(facts.places) == {"state", "data", "docker"}
    assert facts.config_file is False
    assert facts.cards.nvml.cards[0].persistent  # type: ignore[union-attr]


def test_a_real_engine_is_examined(
    docker_engine: DockerEngine, fake_nvml: Callable[[int], FakeDriver], tmp_path: Path
) -> None:
    """Docker as Debian has it, with the tests' hook for cards: nothing of it is a failure but what old versions have."""
    paths = Paths(tmp_path / "runnersd.yml", tmp_path / "s", tmp_path / "state", tmp_path / "locks")
    config = Config(containers=ContainersConfig(socket=str(docker_engine.socket), image=SHELL), paths=paths)
    facts = gather_all(config, None, fake_nvml(1).environment())
    assert isinstance(facts.engine.version, EngineVersion)
    assert isinstance(facts.engine.info, EngineInfo)
    assert (facts.engine.hook, facts.engine.image) == (True, True)
    levels = {one.check: one.level for _group, found in examine(facts) for one in found}
    checked = ("engine", "api", "logging", "gpu-path", "gpu-reload", "image", "engine-rights")
    assert {name: levels[name] for name in checked if name in levels} == dict.fromkeys(checked, Level.OK)
    assert levels["live-restore"] is Level.WARNING
    assert not {"docker-init", "seccomp", "engine-tcp", "runtime"} & set(levels)


def test_a_password_is_looked_at_and_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "password"
    with pytest.raises(FileNotFoundError):
        machine_looks.readable_mode(file)
    file.write_text("s3cret")
    file.chmod(0o640)
    assert machine_looks.readable_mode(file) == 0o640
