"""A host job's environment: built, never inherited."""

from __future__ import annotations

from dataclasses import replace

from core.builders import Queue, cards, spec
from runnersd.environment import argv_of, host_environment
from runnersd.model import Job


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
