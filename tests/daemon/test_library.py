"""The first library's names at work: pools, single commands, cards that somebody has, and a daemon that is not there yet."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_nvml import FakeDriver, Process
from harness.daemon import ROOT, Daemon, eventually
from runners import config
from runners.docker_runner import DockerRunner
from runners.errors import InvalidPipeline, InvalidRequest, Unavailable
from runners.script_runner_pool import ScriptRunnerPool, job_runner

Make = Callable[[int], FakeDriver]


@pytest.fixture
def driver(fake_nvml: Make) -> FakeDriver:
    return fake_nvml(3)


@pytest.fixture
def daemon(tmp_path: Path, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A daemon with three cards and no container engine, that the library finds."""
    settings = {"containers": {"socket": str(tmp_path / "no-engine")}, "gpus": {"poll": 0.1}}
    with Daemon(tmp_path / "d", config=settings, env=driver.environment()) as one:
        monkeypatch.setenv("RUNNERS_SOCKET", str(one.socket))
        monkeypatch.chdir(one.folder)
        monkeypatch.delenv("DOCKER_IMAGE_NAME", raising=False)
        yield one


@pytest.fixture
def program(daemon: Daemon) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a module of the library as a program."""

    def run(module: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", f"runners.{module}", *words], env={**daemon.env, **variables}, capture_output=True, text=True,
            timeout=60, check=False, cwd=daemon.folder,
        )  # fmt: skip

    return run


def holder(daemon: Daemon, *gpus: str, name: str = "training") -> int:
    """A job that has these cards."""
    [id] = daemon.submit({"name": name, "command": "sleep 600", "gpus": list(gpus)})
    eventually("it has its cards", lambda: daemon.job(id)["state"] == "running")
    return id


# -- signatures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("callable_", "signature"),
    [
        (DockerRunner, "(image=None)"),
        (DockerRunner.run, "(self, command, gpus, name=None, detach=True)"),
        (ScriptRunnerPool, "(max_workers=10)"),
        (ScriptRunnerPool.submit, "(self, scripts)"),
        (job_runner, "(script)"),
    ],
)
def test_signatures_are_the_documentations(callable_: Any, signature: str) -> None:
    parameters = inspect.signature(callable_).parameters.values()
    assert str(inspect.Signature([one.replace(annotation=inspect.Parameter.empty) for one in parameters])) == signature


# -- pools -------------------------------------------------------------------------------------------------------------


def script(folder: Path, name: str, text: str) -> str:
    (folder / "scripts").mkdir(exist_ok=True)
    (folder / "scripts" / f"{name}.py").write_text(text)
    return name


def test_a_pool_runs_scripts_and_returns_their_exit_codes_in_order(daemon: Daemon) -> None:
    """'Takes in a list of scripts'; each is a module of `scripts` with its `config` as arguments."""
    script(
        daemon.folder,
        "say",
        "import sys; open(sys.argv[1], 'w').write(' '.join(sys.argv[2:])); sys.exit(int(sys.argv[3]))",
    )
    codes = ScriptRunnerPool().submit(
        [
            {"script": "say", "config": "a.txt one 3"},
            {"script": "say", "config": "b.txt 'two words' 0"},
            {"command": "exit 5"},
        ]
    )
    assert codes == [3, 0, 5]
    assert (daemon.folder / "a.txt").read_text() == "one 3"
    assert (daemon.folder / "b.txt").read_text() == "two words 0"


def test_a_blocking_script_is_waited_for_and_its_failure_stops_what_is_below(daemon: Daemon) -> None:
    """'If the script is blocking, then it will wait until the script finishes executing before moving on to the next.'"""
    first = {"command": "sleep 0.3; date +%s%N > first", "blocking": True}
    assert ScriptRunnerPool().submit([first, {"command": "date +%s%N > second"}]) == [0, 0]
    assert int((daemon.folder / "first").read_text()) < int((daemon.folder / "second").read_text())
    codes = ScriptRunnerPool().submit([{"command": "exit 7", "blocking": True}, {"command": "touch never"}])
    assert codes == [7, 125], "the first one went on"
    assert not (daemon.folder / "never").exists()


def test_max_workers_is_how_many_run_at_the_same_time(daemon: Daemon) -> None:
    """'Number of workers to use in the pool. Controls how many jobs run at the same time.'"""
    command = "echo + >> log; sleep 0.2; echo - >> log"
    assert ScriptRunnerPool(max_workers=2).submit([{"command": command} for _ in range(5)]) == [0] * 5
    running = most = 0
    for line in (daemon.folder / "log").read_text().split():
        running += 1 if line == "+" else -1
        most = max(most, running)
    assert most == 2
    with pytest.raises(ValueError, match="max_workers is 0"):
        ScriptRunnerPool(0)


def test_scripts_with_num_gpus_get_so_many_cards_of_their_own(daemon: Daemon) -> None:
    """'If the script requires GPU (num_gpus > 0), it will [...] only schedule the job to be run if there is an available
    GPU for it.'"""
    command = "echo $CUDA_VISIBLE_DEVICES >> cards; sleep 0.3"
    scripts = [{"command": command, "num_gpus": count} for count in (2, 1, 0, 3)]
    assert ScriptRunnerPool().submit(scripts) == [0] * 4
    lines = (daemon.folder / "cards").read_text().splitlines()
    assert sorted(len(line.split(",")) if line else 0 for line in lines) == [0, 1, 2, 3]
    with pytest.raises(InvalidPipeline, match="asks for 4 cards, this machine has 3"):
        ScriptRunnerPool().submit([{"command": "x", "num_gpus": 4}])


def test_what_a_script_does_not_say_are_the_default_script_args(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert job_runner({"command": 'test "$NUM_WORKERS" = 1'}) == 0
    monkeypatch.setitem(config.default_script_args, "num_workers", 4)
    monkeypatch.setitem(config.default_script_args, "num_gpus", 1)
    assert job_runner({"command": 'test "$NUM_WORKERS" = 4 && test -n "$CUDA_VISIBLE_DEVICES"'}) == 0
    assert job_runner({"command": 'test "$RUNNERS_GPU_INDICES" = 1,2', "gpus": "1,2"}) == 0


def test_a_list_is_what_a_pipeline_file_may_hold(daemon: Daemon) -> None:
    scripts = [
        {"name": "a", "command": "echo ${{ matrix.n }} >> out", "matrix": {"n": [1, 2]}, "env": {"THREADS": 1}},
        {"command": "echo 3 >> out", "needs": ["a"]},
    ]
    assert ScriptRunnerPool().submit(scripts) == [0, 0, 0]
    assert (daemon.folder / "out").read_text().split()[-1] == "3"
    assert ScriptRunnerPool().submit([]) == []


def test_a_wrong_list_runs_nothing_and_names_every_mistake(daemon: Daemon) -> None:
    with pytest.raises(InvalidPipeline) as caught:
        ScriptRunnerPool().submit([{"command": "touch no"}, {"comand": "x"}, {"command": "x", "num_gpus": "two"}])
    assert sorted(problem.path for problem in caught.value.problems) == [
        "scripts[1]",
        "scripts[1].comand",
        "scripts[2].num_gpus",
    ]
    assert not (daemon.folder / "no").exists()
    with pytest.raises(InvalidRequest, match="not plain data"):
        ScriptRunnerPool().submit([{"command": "x", "env": {"A": object()}}])


def test_directories_set_in_config_reach_the_scripts(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "dataset_directory", str(tmp_path))
    monkeypatch.setattr(config, "code_directory", str(tmp_path))
    assert job_runner({"command": f'test "$DATA_DIRECTORY" = {tmp_path} && test "$(pwd)" = {tmp_path}'}) == 0
    assert job_runner({"command": "test ${DATA_DIRECTORY} = " + str(tmp_path)}) == 0


def test_ctrl_c_leaves_the_scripts_running(daemon: Daemon) -> None:
    code = "from runners.script_runner_pool import *; ScriptRunnerPool().submit([{'command': 'sleep 600'}])"
    child = subprocess.Popen([sys.executable, "-c", code], env=daemon.env, cwd=daemon.folder, stderr=subprocess.DEVNULL)
    [job] = eventually("it runs", lambda: list(daemon.client().jobs(states=["running"])))
    child.send_signal(signal.SIGINT)
    assert child.wait(60) != 0
    assert daemon.job(job["id"])["state"] == "running"


# -- single commands on the host ---------------------------------------------------------------------------------------


def test_a_command_on_the_host_has_its_cards_its_output_and_its_exit_code(program: Any) -> None:
    done = program("run_in_host", "echo $RUNNERS_GPU_INDICES; echo bad >&2; exit 3", "--gpus", "0,2")
    assert (done.stdout, done.stderr, done.returncode) == ("0,2\n", "bad\n", 3)
    done = program(
        "run_in_host", "--name", "mine", "--", "sh", "-c", 'echo "$RUNNERS_JOB_NAME $CUDA_VISIBLE_DEVICES."', "--name"
    )
    assert (done.stdout, done.returncode) == ("mine .\n", 0)


def test_a_card_in_use_is_an_error_that_says_who_has_it(daemon: Daemon, program: Any) -> None:
    id = holder(daemon, "1")
    begun = time.monotonic()
    done = program("run_in_host", "touch no", "--gpus", "0,1")
    assert time.monotonic() - begun < 30, "it does not wait"
    assert (done.stdout, done.returncode) == ("", 125)
    user = daemon.job(id)["user"]
    assert f"cannot run now: card 1 is held by job {id} (training) of {user}; name other cards" in done.stderr
    assert "runners-client run --gpus 2" in done.stderr
    assert not (daemon.folder / "no").exists()
    assert [job["id"] for job in daemon.client().jobs()] == [id], "nothing was queued"
    uuid = daemon.client().gpus()[1]["uuid"]
    assert "held by job" in program("run_in_host", "touch no", "--gpus", uuid).stderr


def test_a_card_that_somebody_else_uses_is_named_with_the_process(
    daemon: Daemon, driver: FakeDriver, program: Any
) -> None:
    driver.processes.append(Process(os.getpid(), gpu=2))
    driver.write()
    eventually("it is seen", lambda: daemon.client().gpus()[2]["state"] == "foreign")
    done = program("run_in_host", "true", "--gpus", "2")
    assert done.returncode == 125
    assert f"card 2 is used by {Path('/proc/self/comm').read_text().strip()[:15]}" in done.stderr
    assert f"(pid {os.getpid()}" in done.stderr


def test_a_drained_card_says_why(daemon: Daemon, program: Any) -> None:
    daemon.client().drain("0", "fan noise")
    assert "card 0 drained by " in (said := program("run_in_host", "true", "--gpus", "0").stderr)
    assert ": fan noise" in said


def test_who_is_ahead_in_the_queue_is_named_and_nothing_waits(daemon: Daemon, program: Any) -> None:
    """The card is free, and claimed by a job that waits for more."""
    holder(daemon, "1")
    [large] = daemon.submit({"name": "large", "command": "sleep 600", "num_gpus": 3, "time_limit": "1m"})
    eventually("it waits", lambda: daemon.job(large)["reason"]["code"] == "no_free_gpu")
    done = program("run_in_host", "touch no", "--gpus", "0")
    assert done.returncode == 125
    assert f"job {large}" in done.stderr and "is ahead" in done.stderr
    mine = next(daemon.client().jobs(limit=1))
    assert (mine["state"], mine["started_at"]) == ("cancelled", None)


def test_ctrl_c_is_the_jobs(daemon: Daemon) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "runners.run_in_host", "trap 'echo caught; exit 9' INT; echo up; while :; do sleep 0.1; done"],
        env=daemon.env, cwd=daemon.folder, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=60)[0] == b"caught\n"
    assert child.returncode == 9


@pytest.mark.parametrize(
    "words",
    [[], ["--gpus", "0"], ["x", "--gpus"], ["--name", "a b", "true"], ["x", "--gpus", "all"], ["x", "--gpus", "9"]],
)
def test_a_wrong_command_line_is_125_and_a_sentence(program: Any, words: list[str]) -> None:
    done = program("run_in_host", *words)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("run_in_host: cannot ")
    assert "Traceback" not in done.stderr


def test_help(program: Any) -> None:
    assert (
        "usage: python -m runners.run_in_docker [--name NAME] [--gpus GPUS]"
        in program("run_in_docker", "--help").stdout
    )


# -- containers without an engine --------------------------------------------------------------------------------------


def test_without_an_image_the_constructor_warns_and_run_is_an_error(daemon: Daemon) -> None:
    """'If the image is not specified, it looks in DOCKER_IMAGE_NAME. If that doesn't exist, it throws a warning.'"""
    with pytest.warns(UserWarning, match="DOCKER_IMAGE_NAME"):
        runner = DockerRunner()
    assert runner.image is None
    with pytest.raises(InvalidPipeline):
        runner.run("ls", gpus="")
    assert list(daemon.client().jobs()) == []


def test_the_image_is_the_argument_else_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one had it the other way round."""
    monkeypatch.setenv("DOCKER_IMAGE_NAME", "lab/torch")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert DockerRunner().image == "lab/torch"
        assert DockerRunner("other").image == "other"


def test_without_an_engine_there_is_no_silent_fallback_to_the_host(daemon: Daemon, program: Any) -> None:
    done = program("run_in_docker", "touch", "no", DOCKER_IMAGE_NAME="lab/torch")
    assert done.returncode == 125
    assert "this machine has no container engine" in done.stderr
    assert not (daemon.folder / "no").exists()


def test_a_card_in_use_is_an_error_of_the_library_too(daemon: Daemon) -> None:
    id = holder(daemon, "0")
    for detach in (True, False):
        with pytest.raises(Unavailable, match=rf"card 0 is held by job {id} \(training\)"):
            DockerRunner("lab/torch").run("ls", gpus="0", detach=detach)


# -- a daemon that is not there ----------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a user whose own daemon would be here; one that was started is stopped."""
    folder = tmp_path_factory.mktemp("h")
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RUNNERS_", "XDG_"))},
        "PYTHONPATH": os.pathsep.join([str(ROOT / "client"), str(ROOT / "scheduler")]),
        "RUNNERS_STATE_DIR": str(folder / "state"),
        "RUNNERS_SOCKET": str(folder / "s"),
        "RUNNERS_CONFIG": str(folder / "runnersd.yml"),
        "RUNNERS_LOCK_DIR": str(folder / "locks"),
    }
    (folder / "runnersd.yml").write_text("jobs: {min_free_disk: 64MiB}\n")
    yield env
    down = [sys.executable, "-m", "runners.cli", "down", "--now"]
    subprocess.run(down, env=env, capture_output=True, timeout=90, check=False)


@pytest.mark.parametrize(
    "code",
    [
        "from runners.script_runner_pool import *; sys.exit(job_runner({'command': 'exit 4'}))",
        "from runners.run_in_host import *; sys.argv[1:] = ['exit 4']; sys.exit(run_in_host())",
    ],
    ids=["pool", "run_in_host"],
)
def test_the_users_daemon_is_started_when_none_answers(home: dict[str, str], code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys\n{code}"], env=home, capture_output=True, text=True, timeout=90, check=False
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "ResourceWarning" not in done.stderr
    again = subprocess.run(
        [sys.executable, "-m", "runners.cli", "status", "--json"], env=home, capture_output=True, check=False
    )
    assert again.returncode == 0, "it stays"


def test_a_daemon_that_cannot_start_says_why(home: dict[str, str]) -> None:
    Path(home["RUNNERS_CONFIG"]).write_text("jobs: {max_runing: 3}\n")
    done = subprocess.run(
        [sys.executable, "-m", "runners.run_in_host", "true"], env=home, capture_output=True, text=True, timeout=90, check=False
    )  # fmt: skip
    assert done.returncode == 125
    assert "cannot start a daemon" in done.stderr
    assert "max_runing" in done.stderr
