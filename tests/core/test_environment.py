"""What a job finds around it, on the host and in a container: built, never inherited."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.builders import Queue, cards, spec
from runnersd.environment import (
    argv_of,
    container_environment,
    container_home,
    container_mounts,
    container_workdir,
    directories_of,
    host_environment,
)
from runnersd.model import Job, Mount


def job(**keys: object) -> Job:
    queue = Queue()
    (id,) = queue.add(spec("train[lr=0.1]", **keys))
    return replace(queue.snapshot.jobs[id], attempt=2)


def test_the_job_gets_its_submitters_environment_and_what_runners_says() -> None:
    submitted = {"PATH": "/usr/bin", "CONDA_PREFIX": "/opt/conda", "LD_LIBRARY_PATH": "/opt/lib", "PYTHONPATH": "/src"}
    env = host_environment(job(num_workers=4), submitted, ("GPU-2", "GPU-0"), cards(3).gpus, {})
    assert env == {
        **submitted,
        "RUNNERS_JOB_ID": "1",
        "RUNNERS_JOB_NAME": "train[lr=0.1]",
        "RUNNERS_PIPELINE_ID": "p1",
        "RUNNERS_PREEMPTED": "0",
        "RUNNERS_ATTEMPT": "2",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "GPU-0,GPU-2",
        "RUNNERS_GPU_INDICES": "0,2",
        "NUM_WORKERS": "4",
    }


def test_a_job_without_cards_sees_none_whatever_its_submitter_had() -> None:
    env = host_environment(job(), {"CUDA_VISIBLE_DEVICES": "0,1", "RUNNERS_GPU_INDICES": "7"}, (), (), {})
    assert env["CUDA_VISIBLE_DEVICES"] == ""
    assert env["RUNNERS_GPU_INDICES"] == ""


def test_a_jobs_own_env_wins_over_its_submitters_and_not_over_its_reservation() -> None:
    env = host_environment(job(env={"A": "job", "CUDA_VISIBLE_DEVICES": "0"}), {"A": "me", "B": "me"}, (), (), {})
    assert (env["A"], env["B"], env["CUDA_VISIBLE_DEVICES"]) == ("job", "me", "")


def test_what_belongs_to_a_service_stays_out() -> None:
    service = {"NOTIFY_SOCKET": "x", "LISTEN_FDS": "1", "LISTEN_PID": "2", "INVOCATION_ID": "y", "WATCHDOG_USEC": "1"}
    assert not service.keys() & host_environment(job(), service, (), (), {}).keys()


def test_directories_come_from_the_submitter_then_from_the_daemon_and_are_never_empty() -> None:
    ours = {"data": "/srv/data", "cache": "/srv/cache", "artifacts": None, "nussl": None}
    env = host_environment(job(), {"DATA_DIRECTORY": "/home/ann/data", "NUSSL_DIRECTORY": ""}, (), (), ours)
    assert env["DATA_DIRECTORY"] == "/home/ann/data"
    assert env["CACHE_DIRECTORY"] == "/srv/cache"
    assert "ARTIFACTS_DIRECTORY" not in env
    assert "NUSSL_DIRECTORY" not in env


def test_a_string_runs_under_a_shell_and_a_list_as_it_is() -> None:
    assert argv_of(spec(command="a | b")) == ("/bin/sh", "-c", "a | b")
    assert argv_of(spec(command=("a", "|", "b"))) == ("a", "|", "b")


SUBMITTED = {
    "PATH": "/mine", "SECRET": "s3cret", "LD_PRELOAD": "/x.so", "HOME": "/home/ann", "COMET_API_KEY": "k3y",
    "NUSSL_DIRECTORY": "/src/nussl", "DATA_DIRECTORY": "/data",
}  # fmt: skip


def test_a_container_gets_what_is_named_and_nothing_else_of_its_submitters() -> None:
    found = directories_of(SUBMITTED, {"cache": "/srv/cache", "data": "/srv/data", "artifacts": None, "nussl": None})
    env = container_environment(
        job(num_workers=4, env={"LR": "0.1"}), SUBMITTED, ("GPU-2", "GPU-0"), cards(3).gpus, found, "/home/ann"
    )
    assert env == {
        "DATA_DIRECTORY": "/data",
        "CACHE_DIRECTORY": "/srv/cache",
        "NUSSL_DIRECTORY": "/src/nussl",
        "PYTHONPATH": "/src/nussl",
        "COMET_API_KEY": "k3y",
        "HOME": "/home/ann",
        "USER": "ann",
        "LOGNAME": "ann",
        "LR": "0.1",
        "RUNNERS_JOB_ID": "1",
        "RUNNERS_JOB_NAME": "train[lr=0.1]",
        "RUNNERS_PIPELINE_ID": "p1",
        "RUNNERS_PREEMPTED": "0",
        "RUNNERS_ATTEMPT": "2",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "GPU-0,GPU-2",
        "RUNNERS_GPU_INDICES": "0,2",
        "NUM_WORKERS": "4",
    }


def test_a_variable_without_a_value_is_absent_in_a_container() -> None:
    empty = dict.fromkeys(("DATA_DIRECTORY", "NUSSL_DIRECTORY", "COMET_API_KEY"), "")
    found = directories_of(empty, {"data": None, "cache": "", "artifacts": None, "nussl": None})
    assert found == {}
    env = container_environment(job(), empty, (), (), found, "/home/ann")
    assert not {*empty, "PYTHONPATH", "CACHE_DIRECTORY"} & env.keys()


@pytest.mark.parametrize(
    "name", ["NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "DOCKER_RESOURCE_GPU", "SWARM_RESOURCE_GPU"]
)
def test_a_container_jobs_own_env_opens_no_door_to_cards(name: str) -> None:
    env = container_environment(job(env={name: "all", "A": "1"}), {}, (), (), {}, "/home/ann")
    assert (name in env, env["A"]) == (False, "1")


@pytest.mark.parametrize(("name", "value"), [("CUDA_VISIBLE_DEVICES", ""), ("RUNNERS_JOB_ID", "1")])
def test_a_container_jobs_own_env_does_not_say_what_runners_says(name: str, value: str) -> None:
    assert container_environment(job(env={name: "7"}), {}, (), (), {}, "/home/ann")[name] == value


def test_a_container_sees_code_and_directories_at_two_places_and_what_it_asks_for() -> None:
    found = {"DATA_DIRECTORY": "/data", "CACHE_DIRECTORY": "/c", "ARTIFACTS_DIRECTORY": "/a", "NUSSL_DIRECTORY": "/n"}
    assert container_mounts("/work", found, ["/x:/y", "/z:/in:ro"]) == (
        Mount("/work", "/workspace"),
        Mount("/data", "/data"),
        Mount("/data", "/storage/data"),
        Mount("/c", "/c"),
        Mount("/c", "/storage/cache"),
        Mount("/a", "/a"),
        Mount("/a", "/storage/artifacts"),
        Mount("/n", "/n"),
        Mount("/x", "/y", asked=True),
        Mount("/z", "/in", read_only=True, asked=True),
    )


def test_what_a_job_mounts_takes_the_place_of_what_it_would_have_had_there() -> None:
    mounts = container_mounts("/work", {"DATA_DIRECTORY": "/data"}, ["/mine:/workspace/", "/other:/storage/data:ro"])
    by_target = {mount.target.rstrip("/"): mount for mount in mounts}
    assert len(mounts) == 3
    assert by_target["/workspace"].source == "/mine"
    assert (by_target["/storage/data"].source, by_target["/storage/data"].asked) == ("/other", True)


@pytest.mark.parametrize(
    ("workdir", "found"),
    [
        (None, "/workspace"), ("", "/workspace"), (".", "/workspace"), ("src", "/workspace/src"),
        ("/work/src", "/workspace/src"), ("/work", "/workspace"), ("/elsewhere", "/elsewhere"), ("/works", "/works"),
    ],
)  # fmt: skip
def test_a_containers_working_directory_follows_the_code(workdir: str | None, found: str) -> None:
    assert container_workdir("/work", workdir) == found


@pytest.mark.parametrize(
    ("user", "mounts", "home"),
    [
        ("ann", (), "/home/ann"), ("", (), "/home/1000"), ("a/../../etc", (), "/home/1000"), ("..", (), "/home/1000"),
        ("ann", (Mount("/home/ann", "/home/ann"),), None), ("ann", (Mount("/home", "/home"),), None),
        ("ann", (Mount("/home/ann/x", "/home/ann/x"),), "/home/ann"),
    ],
)  # fmt: skip
def test_a_containers_home_is_where_nothing_is_mounted(user: str, mounts: tuple[Mount, ...], home: str | None) -> None:
    found = container_home(user, 1000, mounts)
    if home is not None:
        assert found == home
    else:
        assert not any(f"{found}/".startswith(f"{mount.target}/") for mount in mounts)
