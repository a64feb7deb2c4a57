"""`docker inspect` of a job's container, field by field: what must be set, and what must be empty."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.containers import Lab, lab_on
from engine import CARDS, SHELL, Engine
from fake_nvml import FakeDriver
from runnersd.machine.docker.body import differences

ADA, TEAM = 61001, 61777
#: Every field of HostConfig that must be empty, whatever a job asks for. Some only newer or older engines have.
EMPTY = {
    "Annotations", "AutoRemove", "Binds", "BlkioDeviceReadBps", "BlkioDeviceReadIOps", "BlkioDeviceWriteBps",
    "BlkioDeviceWriteIOps", "BlkioWeight", "BlkioWeightDevice", "CapAdd", "Capabilities", "Cgroup", "CgroupParent",
    "ContainerIDFile", "CpuCount", "CpuPercent", "CpuPeriod", "CpuQuota", "CpuRealtimePeriod", "CpuRealtimeRuntime",
    "CpuShares", "CpusetCpus", "CpusetMems", "DeviceCgroupRules", "Devices", "Dns", "DnsOptions", "DnsSearch",
    "ExtraHosts", "IOMaximumBandwidth", "IOMaximumIOps", "KernelMemory", "KernelMemoryTCP", "Links",
    "MemoryReservation", "MemorySwappiness", "OomKillDisable", "OomScoreAdj", "PidMode", "PortBindings", "Privileged",
    "PublishAllPorts", "ReadonlyRootfs", "StorageOpt", "Sysctls", "UTSMode", "Ulimits", "VolumeDriver", "VolumesFrom",
}  # fmt: skip
#: Fields that must be set, to the same for every job.
ALWAYS: dict[str, Any] = {
    "CapDrop": ["ALL"],
    "CgroupnsMode": "private",
    "Init": True,
    "IpcMode": "private",
    "LogConfig": {"Type": "local", "Config": {"max-size": "26214400", "max-file": "2", "compress": "false"}},
    "NetworkMode": "none",
    "PidsLimit": 4096,
    "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    "Runtime": "runc",
    "SecurityOpt": ["no-new-privileges"],
    "UsernsMode": "host",
}
#: Fields whose value follows from the job, below.
ASKED = {"DeviceRequests", "GroupAdd", "Memory", "MemorySwap", "Mounts", "NanoCpus", "ShmSize", "Tmpfs"}
#: Fields that only say what the engine does everywhere.
ENGINES = {
    "ConsoleSize": [[0, 0]],
    "Isolation": ["", "default"],
    "MaskedPaths": "the engine's own list",
    "ReadonlyPaths": "the engine's own list",
}


@pytest.fixture(scope="module")
def lab(
    shared_docker_engine: Engine, fake_nvml_library: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    """A daemon with four cards; one for the module."""
    driver = FakeDriver(fake_nvml_library, tmp_path_factory.mktemp("driver")).add_cards(len(CARDS))
    shared_docker_engine.set_cards(CARDS)
    with shared_docker_engine.leaving_no_containers(), lab_on(shared_docker_engine, env=driver.environment({})) as lab:
        yield lab


def running(lab: Lab, **job: Any) -> Any:
    """What inspect says of such a job of Ada's, while it runs."""
    job = {"name": "a", "command": "echo ready; sleep 60", **job}
    (id,) = lab.submit_as(ADA, job, groups=[TEAM], cwd=str(lab.folder))
    lab.until_out(id, "ready")
    try:
        return lab.inspect(id)
    finally:
        lab.clean()


@pytest.fixture(scope="module")
def rich(lab: Lab) -> Any:
    """Of a job that asks for whatever it can."""
    return running(lab, num_gpus=2, gpus=["1", "3"], memory="1GiB", cpus=1.5, shm_size="64MiB")


@pytest.fixture(scope="module")
def poor(lab: Lab) -> Any:
    """Of a job that asks for nothing."""
    return running(lab)


def empty(value: Any) -> bool:
    return not value


def another(value: Any) -> Any:
    """A value of the same kind that is not this one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | str):
        return f"{value}1"
    return [*value, {"another": "1"}] if isinstance(value, list) else {**(value or {}), "another": "1"}


def test_every_field_of_hostconfig_is_known_and_as_it_must_be(lab: Lab, rich: Any, poor: Any) -> None:
    for seen in (rich, poor):
        host = seen["HostConfig"]
        assert host.keys() <= EMPTY | ALWAYS.keys() | ASKED | ENGINES.keys(), "a field that nobody has thought about"
        assert {name: host[name] for name in EMPTY & host.keys() if not empty(host[name])} == {}
        assert {name: host[name] for name in ALWAYS} == ALWAYS
        assert host["ConsoleSize"] in ENGINES["ConsoleSize"] and host["Isolation"] in ENGINES["Isolation"]
        assert {"/proc/kcore", "/sys/firmware"} <= set(host["MaskedPaths"])
        assert {"/proc/sys", "/proc/sysrq-trigger"} <= set(host["ReadonlyPaths"])
        assert seen["AppArmorProfile"] != "unconfined"


def test_what_a_job_asks_for_is_set_and_nothing_more(lab: Lab, rich: Any, poor: Any) -> None:
    masked = {f"/workspace/daemon/{name}": "ro,noexec,nosuid,nodev,mode=0000,size=4k" for name in ("locks", "state")}
    tmpfs = {f"/home/{ADA}": f"rw,exec,nosuid,nodev,mode=0700,uid={ADA},gid={ADA}", **masked}
    cards = [uuid for uuid, minor in CARDS.items() if minor in (1, 3)]
    request = {"Driver": "nvidia", "Count": 0, "DeviceIDs": cards, "Capabilities": [["gpu", "compute", "utility"]],
               "Options": {}}  # fmt: skip

    def asked(seen: Any) -> dict[str, Any]:
        return {name: seen["HostConfig"][name] for name in ASKED - {"Mounts"}}

    assert asked(rich) == {
        "DeviceRequests": [request], "GroupAdd": [str(TEAM)], "Memory": 1 << 30, "MemorySwap": 1 << 30,
        "NanoCpus": 1_500_000_000, "ShmSize": 64 << 20, "Tmpfs": tmpfs,
    }  # fmt: skip
    assert asked(poor) == {
        "DeviceRequests": asked(poor)["DeviceRequests"], "GroupAdd": [str(TEAM)], "Memory": 0, "MemorySwap": 0,
        "NanoCpus": 0, "ShmSize": 8 << 30, "Tmpfs": tmpfs,
    }  # fmt: skip
    assert empty(asked(poor)["DeviceRequests"])
    for seen in (rich, poor):
        gate = f"{lab.daemon.state}/gates{seen['Name']}"
        mounts = {
            (one["Type"], one["Source"], one["Destination"], one["RW"], one["Propagation"]) for one in seen["Mounts"]
        }
        assert mounts == {
            ("bind", str(lab.folder), "/workspace", True, "rprivate"),
            ("bind", gate, "/.runners", False, "rprivate"),
        }


def test_config_is_ours_and_not_the_images(lab: Lab, rich: Any) -> None:
    config = rich["Config"]
    image = lab.engine.api("GET", f"/images/{SHELL}/json").json["Id"]
    assert rich["Image"] == config["Image"] == image, "by its id, not by a name that may mean another one tomorrow"
    assert {name: config[name] for name in ("User", "WorkingDir", "StopSignal", "StopTimeout", "Healthcheck")} == {
        "User": f"{ADA}:{ADA}", "WorkingDir": "/workspace", "StopSignal": "SIGTERM", "StopTimeout": 10,
        "Healthcheck": {"Test": ["NONE"]},
    }  # fmt: skip
    off = ("Tty", "OpenStdin", "StdinOnce", "AttachStdin", "AttachStdout", "AttachStderr", "Volumes", "OnBuild")
    assert not any(config[name] for name in off)
    assert config["Labels"].keys() == {f"runners.{name}" for name in ("database", "job", "attempt", "spec")}
    assert config["Cmd"][-3:] == ["sh", "-c", "echo ready; sleep 60"]
    assert not any("SECRET" in word for word in (*config["Cmd"], *config["Labels"].values(), rich["Name"]))


def test_any_other_value_of_any_field_would_have_been_noticed(rich: Any) -> None:
    """The comparison that comes before the start, on what a real engine says."""
    asked = {**copy.deepcopy(rich["Config"]), "Image": rich["Image"], "HostConfig": copy.deepcopy(rich["HostConfig"])}
    asked["HostConfig"] = {name: value for name, value in asked["HostConfig"].items() if name in {*ALWAYS, *ASKED}}
    asked["HostConfig"]["Mounts"] = [{"ReadOnly": False, **one} for one in asked["HostConfig"]["Mounts"]]
    assert differences(asked, rich) == []
    unnoticed = []
    for name in sorted(EMPTY | ALWAYS.keys() | (ASKED - {"Mounts"})):
        seen = copy.deepcopy(rich)
        seen["HostConfig"][name] = another(seen["HostConfig"].get(name))
        if not any(name in said for said in differences(asked, seen)):
            unnoticed.append(name)
    assert unnoticed == []
