"""A job's container as the kernel sees it, from inside and from outside, and its Config against a table of every field."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from daemon.containers import CONTAINER, lab_on
from daemon.somebody import Somebody
from engine import CARDS, PROGRAM, Engine
from fake_nvml import FakeDriver

EVE, TEAM = 61001, 61003
MIB = 1 << 20
#: What the job says of itself before it waits: its ids, and what it finds in /dev and /proc.
PAYLOAD = f"""
id -u; id -g; id -G; cat /proc/self/status
echo == dev; find /dev -type b -o -type c | sort
echo == opened; for node in /dev/nvidia? /dev/nvidiactl; do {PROGRAM} open $node 2>/dev/null; echo $node $?; done
echo == masked; cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | head -c 100
for folder in /proc/acpi /proc/scsi /sys/firmware; do ls -A $folder 2>/dev/null; done
echo == written; for path in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /sys/kernel/x /sys/fs/cgroup/x \\
    /etc/x /bin/x /x /.runners/x; do (echo x > $path) 2>/dev/null && echo $path; done
echo == made; mknod /tmp/disk b 8 0 2>/dev/null && echo disk; mount -t tmpfs x /tmp 2>/dev/null && echo mount
chroot / true 2>/dev/null && echo chroot; hostname evil 2>/dev/null && echo hostname
unshare -Ur true 2>/dev/null && echo user namespace; kill -0 1 2>/dev/null || echo init is another user
echo == processes; ls /proc | grep -c '^[0-9]'
echo == end
while [ ! -e stop ]; do sleep 0.1; done
"""


@dataclass
class Running:
    """A job of eve's that runs: what the engine and the job itself say, and the host's view of its first process."""

    id: int
    inspected: Mapping[str, Any]
    said: str
    card: str
    folder: Path

    @property
    def pid(self) -> int:
        """Its first process, by the host's number."""
        return int(self.inspected["State"]["Pid"])

    def status(self, pid: int) -> dict[str, str]:
        """What /proc says of a process."""
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def section(self, name: str) -> list[str]:
        """Lines that the job wrote under a heading."""
        found = re.search(rf"^== {name}\n(.*?)^== ", self.said, re.MULTILINE | re.DOTALL)
        assert found is not None, self.said
        return found[1].splitlines()


@pytest.fixture(scope="module")
def running(shared_docker_engine: Engine, fake_nvml_library: Path, tmp_path_factory: Any) -> Iterator[Running]:
    """One job with a card, memory, CPUs, groups, directories and variables, for all of these tests."""
    driver = FakeDriver(fake_nvml_library, tmp_path_factory.mktemp("driver")).add_cards(len(CARDS))
    shared_docker_engine.set_cards(CARDS)
    with (
        shared_docker_engine.leaving_no_containers(),
        lab_on(shared_docker_engine, env=driver.environment({})) as lab,
        Somebody(lab.daemon, EVE, groups=[TEAM, 0]) as eve,
        tempfile.TemporaryDirectory(prefix="isolation-") as place,
    ):
        folder = Path(place)
        for path in (folder, folder / "code", folder / "data"):
            path.mkdir(exist_ok=True)
            path.chmod(0o755)
            os.chown(path, EVE, EVE)
        job = {
            **CONTAINER, "name": "a", "command": PAYLOAD, "num_gpus": 1, "memory": "64MiB", "cpus": 0.5, "shm_size": "32MiB",
            "env": {"LR": "0.1"}, "grace": "7s",
        }  # fmt: skip
        env = {"DATA_DIRECTORY": str(folder / "data"), "COMET_API_KEY": "k3y", "SECRET": "s3cret"}
        (id,) = eve.submit(job, cwd=folder / "code", env=env)
        lab.until_out(id, "== end")
        yield Running(id, lab.inspect(id), lab.out(id), lab.daemon.job(id)["gpus"][0], folder)
        (folder / "code" / "stop").touch()
        assert lab.daemon.wait(id)[0]["state"] == "succeeded"


class Anything:
    """A value that says nothing: it only must be there, and be of this kind."""

    def __init__(self, *kinds: type) -> None:
        self.kinds = kinds

    def __eq__(self, other: object) -> bool:
        return isinstance(other, self.kinds)

    def __hash__(self) -> int:
        return hash(self.kinds)

    def __repr__(self) -> str:
        return "any " + " or ".join(kind.__name__ for kind in self.kinds)


#: Nothing was asked for, and nothing must be there.
EMPTY = (None, False, 0, "", [], {})
Check = Callable[[Any], bool] | tuple[Any, ...] | Any


def config(running: Running) -> Mapping[str, Check]:
    """Every field that an engine's Config may have."""
    nothing = dict.fromkeys(
        ["Domainname", "AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce", "Volumes",
         "OnBuild", "ExposedPorts", "NetworkDisabled", "MacAddress", "Shell", "ArgsEscaped"],
        EMPTY,
    )  # fmt: skip
    return {
        **nothing,
        "Hostname": running.inspected["Id"][:12],
        "User": f"{EVE}:{EVE}",
        "Env": Anything(list),  # a later test's
        "Cmd": Anything(list),
        "Entrypoint": ["/.runners/sh"],
        "Healthcheck": {"Test": ["NONE"]},
        "Image": running.inspected["Image"],
        "WorkingDir": "/workspace",
        "Labels": {"runners.database": Anything(str), "runners.job": str(running.id), "runners.attempt": "1",
                   "runners.spec": Anything(str)},
        "StopSignal": "SIGTERM",
        "StopTimeout": 7,
    }  # fmt: skip


def compare(seen: Mapping[str, Any], table: Mapping[str, Check]) -> None:
    """Each field is as the table says, and none is missing in the table."""
    assert not seen.keys() - table.keys(), "fields that the table does not know"
    wrong = {
        name: value
        for name, value in seen.items()
        if not (value in table[name] if isinstance(table[name], tuple) else table[name] == value)
    }
    assert not wrong
    set_on_purpose = {name for name, value in table.items() if not isinstance(value, tuple)}
    assert not set_on_purpose - seen.keys(), "fields that were asked for and are not there"


def test_every_field_of_config_is_known_and_right(running: Running) -> None:
    compare(running.inspected["Config"], config(running))


def test_its_mounts_are_what_was_asked_for_and_private(running: Running) -> None:
    mounts = {one["Destination"]: (one["Type"], one["Source"], one["RW"]) for one in running.inspected["Mounts"]}
    data = str(running.folder / "data")
    gate = mounts.pop("/.runners")
    assert mounts == {
        "/workspace": ("bind", str(running.folder / "code"), True),
        data: ("bind", data, True),
        "/storage/data": ("bind", data, True),
    }
    assert (gate[0], gate[2]) == ("bind", False)
    assert {one["Propagation"] for one in running.inspected["Mounts"]} == {"rprivate"}
    assert "shared:" not in Path(f"/proc/{running.pid}/mountinfo").read_text()
    masked = running.inspected["HostConfig"]["MaskedPaths"]
    assert {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"} <= set(masked)
    assert {"/proc/sys", "/proc/sysrq-trigger"} <= set(running.inspected["HostConfig"]["ReadonlyPaths"])


def test_secrets_are_in_its_environment_alone(running: Running) -> None:
    env = dict(one.split("=", 1) for one in running.inspected["Config"]["Env"])
    assert (env["COMET_API_KEY"], env["LR"]) == ("k3y", "0.1")
    assert "SECRET" not in env
    elsewhere = {name: value for name, value in running.inspected["Config"].items() if name != "Env"}
    rest = str({**running.inspected, "Config": elsewhere})
    assert "k3y" not in rest and "s3cret" not in rest


def test_every_process_of_it_is_its_submitter_without_any_right_more(running: Running, docker_pids: list[int]) -> None:
    assert len(docker_pids) >= 2  # the init, and the payload
    for pid in docker_pids:
        with suppress(FileNotFoundError, ProcessLookupError):  # a `sleep` that has just ended
            said = running.status(pid)
            assert (said["Uid"].split(), said["Gid"].split()) == ([str(EVE)] * 4, [str(EVE)] * 4)
            assert set(said["Groups"].split()) <= {str(EVE), str(TEAM)} and str(TEAM) in said["Groups"]
            for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                assert int(said[capabilities], 16) == 0, capabilities
            assert (said["NoNewPrivs"], said["Seccomp"]) == ("1", "2")


@pytest.fixture
def docker_pids(running: Running) -> list[int]:
    """All of its processes, by the host's numbers."""
    container = running.inspected["Id"]
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if container in (entry / "cgroup").read_text():
                    found.append(int(entry.name))
    return found


def test_its_namespaces_are_its_own_but_for_the_hosts_users(running: Running, docker_pids: list[int]) -> None:
    ours = {
        name: os.readlink(f"/proc/self/ns/{name}") for name in ("mnt", "pid", "ipc", "uts", "net", "cgroup", "user")
    }
    theirs = {name: os.readlink(f"/proc/{running.pid}/ns/{name}") for name in ours}
    assert {name for name in ours if ours[name] == theirs[name]} == {"user"}
    assert len(running.section("processes")) == 1 and int(running.section("processes")[0]) < 10


def test_the_job_sees_itself_so_too(running: Running) -> None:
    uid, gid, groups, *status = running.said.split("== dev")[0].splitlines()
    assert (uid, gid, set(groups.split())) == (str(EVE), str(EVE), {str(EVE), str(TEAM)})
    said = {name: value.strip() for name, _, value in (line.partition(":") for line in status)}
    assert (said["NoNewPrivs"], said["Seccomp"], int(said["CapEff"], 16)) == ("1", "2", 0)


def test_its_devices_are_the_usual_ones_and_its_card(running: Running) -> None:
    card = f"/dev/nvidia{CARDS[running.card]}"
    usual = {f"/dev/{name}" for name in ("full", "null", "ptmx", "random", "tty", "urandom", "zero", "pts/ptmx")}
    seen = set(running.section("dev"))
    assert card in seen
    assert seen - {card} <= usual
    assert f"{card} 6" in running.section("opened")  # ENXIO: it may, and there is no driver
    assert [line for line in running.section("opened") if line.endswith(" 0")] == []
    for path in Path(f"/proc/{running.pid}/root/dev").iterdir():
        mode = path.lstat().st_mode
        assert not stat.S_ISBLK(mode), path


def test_it_can_neither_read_nor_write_what_is_the_machines(running: Running) -> None:
    assert running.section("masked") == []
    assert running.section("written") == []
    assert running.section("made") == []


def test_its_cgroup_limits_it(running: Running) -> None:
    """The kernel's own numbers, by either version of control groups."""
    limits: dict[str, str] = {}
    for line in Path(f"/proc/{running.pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        base = Path("/sys/fs/cgroup") / controllers.removeprefix("name=") / path.lstrip("/")
        for name in (
            "memory.limit_in_bytes",
            "memory.max",
            "pids.max",
            "cpu.cfs_quota_us",
            "cpu.cfs_period_us",
            "cpu.max",
        ):
            with suppress(OSError):
                limits[name] = (base / name).read_text().strip()
    assert limits.get("memory.max", limits.get("memory.limit_in_bytes")) == str(64 * MIB)
    assert limits["pids.max"] == "4096"
    quota, period = limits["cpu.max"].split() if "cpu.max" in limits else (
        limits["cpu.cfs_quota_us"], limits["cpu.cfs_period_us"])  # fmt: skip
    assert int(quota) / int(period) == 0.5
    shm = os.statvfs(f"/proc/{running.pid}/root/dev/shm")
    assert shm.f_blocks * shm.f_frsize == 32 * MIB


def test_the_table_notices_a_field_that_it_does_not_know(running: Running) -> None:
    with pytest.raises(AssertionError, match="does not know"):
        compare({**running.inspected["Config"], "NewIn2030": None}, config(running))
    for name, value in {"User": "", "Healthcheck": {"Test": ["CMD", "x"]}, "Volumes": {"/x": {}}, "Labels": {}}.items():
        with pytest.raises(AssertionError):
            compare({**running.inspected["Config"], name: value}, config(running))
