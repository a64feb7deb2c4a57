"""The comparison of a container with what was asked for, on what a real engine says: any other value is noticed.

That what is asked for is right is test_container_isolation's to see.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.containers import Lab, lab_on
from engine import CARDS, SHELL, Engine
from fake_nvml import FakeDriver
from runnersd.machine.docker.body import ADMINISTRATORS, differences

#: What only says what an engine does everywhere, what is its administrator's to say, and mounts, which are compared as the
#: engine has bound them.
NOT_COMPARED = {"ConsoleSize", "Isolation", "MaskedPaths", "ReadonlyPaths", "Mounts", *ADMINISTRATORS}


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
    """What inspect says of such a job while it runs."""
    (id,) = lab.submit({"name": "a", "command": "echo ready; sleep 60", **job})
    lab.until_out(id, "ready")
    try:
        return lab.inspect(id)
    finally:
        lab.clean()


def another(value: Any) -> Any:
    """A value of the same kind that is not this one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | str):
        return f"{value}1"
    return [*value, {"another": "1"}] if isinstance(value, list) else {**(value or {}), "another": "1"}


def test_a_job_that_asks_for_nothing_has_no_cards_and_no_limits_but_the_daemons(lab: Lab) -> None:
    seen = running(lab)
    host = seen["HostConfig"]
    assert not host["DeviceRequests"] and not host["Devices"]
    limits = {name: host[name] for name in ("Memory", "MemorySwap", "NanoCpus", "ShmSize", "PidsLimit", "Runtime")}
    assert limits == {
        "Memory": 0, "MemorySwap": 0, "NanoCpus": 0, "ShmSize": 8 << 30, "PidsLimit": 4096, "Runtime": "runc",
    }  # fmt: skip
    assert "NVIDIA_VISIBLE_DEVICES=void" in seen["Config"]["Env"]
    image = lab.engine.api("GET", f"/images/{SHELL}/json").json["Id"]
    assert seen["Config"]["Image"] == image, "by its id, not by a name that may mean another one tomorrow"


def test_any_other_value_of_any_field_is_noticed(lab: Lab) -> None:
    true = running(lab, num_gpus=2, memory="1GiB", cpus=1.5, shm_size="64MiB")
    host = true["HostConfig"]
    asked = {**copy.deepcopy(true["Config"]), "Image": true["Image"]}
    asked["HostConfig"] = {name: value for name, value in host.items() if value and name not in NOT_COMPARED}
    asked["HostConfig"]["Mounts"] = [{"ReadOnly": False, **one} for one in host["Mounts"]]
    assert differences(asked, true) == []
    unnoticed = []
    for name in host.keys() - NOT_COMPARED:
        seen = copy.deepcopy(true)
        seen["HostConfig"][name] = another(host[name])
        if not any(name in said for said in differences(asked, seen)):
            unnoticed.append(name)
    assert (len(host) > 50, unnoticed) == (True, [])
    for mount in range(len(true["Mounts"])):
        seen = copy.deepcopy(true)
        seen["Mounts"][mount]["RW"] = not seen["Mounts"][mount]["RW"]
        assert differences(asked, seen)
