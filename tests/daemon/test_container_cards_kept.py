"""A card has one owner, also while a container computes on it and its daemon is dead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engine import SHELL, Engine
from fake_nvml import FakeDriver
from harness.daemon import Daemon, eventually

JOB = {"run_in": "container", "image": SHELL, "num_gpus": 1}


def test_a_containers_card_is_nobody_elses_while_its_daemon_is_dead(
    docker_engine: Engine, fake_nvml: Callable[[int], FakeDriver], tmp_path: Path
) -> None:
    driver = fake_nvml(1)
    env = driver.environment({}) | {"RUNNERS_LOCK_DIR": str(tmp_path / "locks")}
    config = {"containers": {"socket": str(docker_engine.socket), "network": "none"}, "gpus": {"poll": 0.05}}
    with (
        Daemon(tmp_path / "one", env=env, config=config) as one,
        Daemon(tmp_path / "two", env=env, config=config) as two,
    ):
        done = tmp_path / "one" / "done"
        command = "until [ -e done ]; do sleep 0.05; done"
        (first,) = one.submit({"name": "a", "command": command, **JOB})
        eventually("the first one's container runs", lambda: one.job(first)["state"] == "running")
        one.kill()
        (second,) = two.submit({"name": "b", "command": "true", **JOB})
        driver.cards[0].temperature = 77  # so that it shows whether a look is one from after the kill
        driver.write()
        eventually("the second daemon has looked since", lambda: two.client().gpus()[0]["temperature"] == 77)
        assert two.client().gpus()[0]["state"] == "foreign"
        assert two.job(second)["state"] == "queued"
        done.touch()
        (ended,) = two.wait(second)  # the first one's container has ended, with nobody there to see it
        assert ended["state"] == "succeeded", ended["reason"]
        two.stop()
        one.start()
        (kept,) = one.wait(first)
        assert (kept["state"], kept["exit_code"]) == ("succeeded", 0)
