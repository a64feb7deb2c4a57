"""What a container is made of, and every way in which an engine or an image may have made it otherwise."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from runnersd.machine.docker.body import body, differences, environment
from runnersd.machine.docker.images import MOST_TEXT, unfitness
from runnersd.model import ContainerSpec, Image, Launch, Mount, RunName

CARD = "GPU-00000001-0000-4000-8000-000000000000"
IMAGE = Image("sha256:1", "lab/x", (("PATH", "/bin"), ("NVIDIA_VISIBLE_DEVICES", "all")))
SPEC = ContainerSpec(
    IMAGE, 1000, 1000, groups=(1003,), mounts=(Mount("/a", "/workspace"), Mount("/b", "/b", read_only=True)),
    home="/home/ann", memory=1 << 30, cpus=1.5, ports=("8888:80",),
)  # fmt: skip
LAUNCH = Launch(
    RunName("db", 1, 1), ("sh", "-c", "true"), {"SECRET": "s3cret"}, "/workspace", 0o022, None, (CARD,), 10.0, 1, SPEC
)


def made(launch: Launch = LAUNCH) -> dict[str, Any]:
    return body(launch, how="nvidia", runc=True, entry="shell", gate_folder="/gates/1")


def as_inspected(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a true engine says of such a container."""
    config = {name: value for name, value in copy.deepcopy(dict(asked)).items() if name not in ("HostConfig", "Image")}
    config["Env"] = [*config["Env"], "PATH=/bin"]
    host = copy.deepcopy(dict(asked["HostConfig"]))
    host |= {"MaskedPaths": ["/proc/kcore"], "ReadonlyPaths": ["/proc/sys"], "Isolation": "", "ConsoleSize": [0, 0]}
    mounts = [
        {"Type": "bind", "Source": one["Source"], "Destination": one["Target"], "RW": not one["ReadOnly"]}
        for one in host["Mounts"]
    ]
    config["Healthcheck"] = {**config["Healthcheck"], "Interval": 10_000_000}  # an image's
    return {"Image": asked["Image"], "Config": config, "HostConfig": host, "Mounts": mounts, "AppArmorProfile": ""}


def test_a_true_engine_differs_in_nothing() -> None:
    assert differences(made(), as_inspected(made())) == []


@pytest.mark.parametrize("name", sorted(made()["HostConfig"].keys() - {"Mounts", "DeviceRequests"}))
def test_every_field_of_hostconfig_that_is_set_is_compared(name: str) -> None:
    seen = as_inspected(made())
    was = seen["HostConfig"][name]
    seen["HostConfig"][name] = not was if isinstance(was, bool) else "else" if isinstance(was, str) else 7
    (said,) = differences(made(), seen)
    assert name in said


@pytest.mark.parametrize("key", ["Count", "DeviceIDs", "Driver", "Capabilities", "Options"])
def test_every_field_of_a_request_for_cards_is_compared(key: str) -> None:
    seen = as_inspected(made())
    seen["HostConfig"]["DeviceRequests"][0][key] = ["other"]
    assert differences(made(), seen)
    seen["HostConfig"]["DeviceRequests"] = [{"Driver": "nvidia", "Count": -1, "Capabilities": [["gpu"]]}]
    assert differences(made(), seen)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Binds", ["/:/host"]), ("Devices", [{"PathOnHost": "/dev/sda"}]), ("DeviceCgroupRules", ["c *:* rwm"]),
        ("CapAdd", ["SYS_ADMIN"]), ("VolumesFrom", ["x"]), ("Links", ["x"]), ("Sysctls", {"kernel.shmmax": "1"}),
        ("CgroupParent", "/"), ("Cgroup", "container:x"), ("Dns", ["1.1.1.1"]), ("ExtraHosts", ["x:1.1.1.1"]),
        ("OomScoreAdj", -1000), ("OomKillDisable", True), ("PublishAllPorts", True), ("ReadonlyRootfs", True),
        ("StorageOpt", {"size": "1"}), ("CpuRtRuntime", 1), ("CpusetCpus", "0"),
        ("BlkioWeight", 10), ("KernelMemory", 1), ("MemoryReservation", 1), ("ContainerIDFile", "/x"),
        ("Annotations", {"cdi.k8s.io/x": "nvidia.com/gpu=all"}), ("SomethingNew", {"a": 1}), ("Privileged", True),
    ],
)  # fmt: skip
def test_every_field_of_hostconfig_that_nobody_asked_for_is_noticed(name: str, value: Any) -> None:
    seen = as_inspected(made())
    seen["HostConfig"][name] = value
    assert any(name in said for said in differences(made(), seen))


def test_limits_that_the_engine_gives_every_container_are_its_administrators_to_set() -> None:
    seen = as_inspected(made())
    seen["HostConfig"]["Ulimits"] = [{"Name": "memlock", "Hard": -1, "Soft": -1}]
    assert differences(made(), seen) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("User", "0:0"), ("User", ""), ("Entrypoint", ["/evil"]), ("Cmd", ["rm"]), ("WorkingDir", "/"),
        ("Healthcheck", None), ("Healthcheck", {"Test": ["CMD", "x"]}), ("StopSignal", "SIGKILL"), ("StopTimeout", 1),
        ("Tty", True), ("OpenStdin", True), ("AttachStdout", True),
    ],
)  # fmt: skip
def test_what_an_image_could_say_in_our_place_is_noticed(name: str, value: Any) -> None:
    seen = as_inspected(made())
    seen["Config"][name] = value
    (said,) = differences(made(), seen)
    assert name in said


@pytest.mark.parametrize(
    "more",
    [
        ["NVIDIA_VISIBLE_DEVICES=all"], ["CUDA_VISIBLE_DEVICES=0"], ["DOCKER_RESOURCE_GPU=all"],
        ["NVIDIA_IMEX_CHANNELS=0"], ["SECRET=hidden"], ["NVIDIA_MIG_CONFIG_DEVICES=all"],
    ],
)  # fmt: skip
def test_variables_that_open_doors_or_are_said_twice_are_noticed_by_name(more: list[str]) -> None:
    seen = as_inspected(made())
    seen["Config"]["Env"] += more
    (said,) = differences(made(), seen)
    assert more[0].partition("=")[0] in said
    assert "s3cret" not in said and "hidden" not in said


def test_a_variable_that_is_missing_is_noticed_without_its_value() -> None:
    seen = as_inspected(made())
    seen["Config"]["Env"].remove("SECRET=s3cret")
    assert differences(made(), seen) == ["Config.Env lacks SECRET"]


@pytest.mark.parametrize(
    "change",
    [
        lambda mounts: mounts.pop(),
        lambda mounts: mounts.append({"Type": "bind", "Source": "/", "Destination": "/host", "RW": True}),
        lambda mounts: mounts[0].update(Source="/etc"),
        lambda mounts: mounts[1].update(RW=True),
        lambda mounts: mounts.append({"Type": "npipe", "Source": "x", "Destination": "/x"}),
    ],
)
def test_every_mount_is_compared(change: Any) -> None:
    seen = as_inspected(made())
    change(seen["Mounts"])
    assert differences(made(), seen)


@pytest.mark.parametrize("label", ["runners.staged", "runners.job", "runners.new"])
def test_a_label_of_ours_that_an_image_brings_is_noticed(label: str) -> None:
    seen = as_inspected(made())
    seen["Config"]["Labels"][label] = "yes"
    (said,) = differences(made(), seen)
    assert label in said
    assert label in str(unfitness({"Config": {"Labels": {label: "yes"}}}))


def test_masks_of_proc_and_apparmor_must_not_be_off() -> None:
    for change in ({"MaskedPaths": []}, {"ReadonlyPaths": None}):
        seen = as_inspected(made())
        seen["HostConfig"] |= change
        assert "/proc would lie open" in differences(made(), seen)[0]
    assert differences(made(), as_inspected(made()) | {"AppArmorProfile": "unconfined"})


@pytest.mark.parametrize("gpus", [(), (CARD,)])
@pytest.mark.parametrize(
    "variable",
    ["NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_MIG_CONFIG_DEVICES", "NVIDIA_IMEX_CHANNELS",
     "DOCKER_RESOURCE_GPU", "SWARM_RESOURCE_GPU", "CUDA_VISIBLE_DEVICES"],
)  # fmt: skip
def test_no_door_that_an_image_opens_stays_open(variable: str, gpus: tuple[str, ...]) -> None:
    image = replace(IMAGE, environment=((variable, "all"), ("NVIDIA_REQUIRE_CUDA", "cuda>=12")))
    launch = replace(LAUNCH, gpus=gpus, container=replace(SPEC, image=image), environment={})
    env = dict(one.split("=", 1) for one in environment(launch))
    assert env.get(variable, "") in ("", "compute,utility", "void", CARD)
    assert env["NVIDIA_VISIBLE_DEVICES"] == (CARD if gpus else "void")
    assert "NVIDIA_REQUIRE_CUDA" not in env  # it opens nothing, and stays the image's


def test_nothing_secret_is_in_labels_or_arguments() -> None:
    asked = made()
    assert "s3cret" not in str(asked["Labels"]) + str(asked["Cmd"]) + str(asked["Entrypoint"]) + str(
        asked["HostConfig"]
    )


def test_an_image_with_huge_labels_or_variables_is_not_let_in() -> None:
    assert unfitness({}) is None and unfitness({"Config": None}) is None
    assert unfitness({"Config": {"Labels": {"a": "x" * (MOST_TEXT - 1)}, "Env": ["A=1"]}}) is None
    assert "its labels take" in str(unfitness({"Config": {"Labels": {"a": "x" * MOST_TEXT}}}))
    assert "its variables take" in str(unfitness({"Config": {"Env": ["A=" + "x" * MOST_TEXT]}}))
