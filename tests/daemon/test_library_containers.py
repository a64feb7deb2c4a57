"""The first library's names on a real Docker engine: what a container sees, has, opens, writes and returns."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import SHELL, Engine
from fake_nvml import FakeDriver
from harness.daemon import ROOT, Daemon, eventually
from runners.docker_runner import DockerRunner
from runners.errors import Unavailable

Make = Callable[[int], FakeDriver]
Program = Callable[..., "subprocess.CompletedProcess[str]"]


def serving(folder: Path, engine: Engine, driver: FakeDriver) -> Daemon:
    """A daemon with the engine and the driver's cards, and directories for jobs."""
    names = ("data", "cache", "artifacts", "nussl")
    for name in names:
        (folder / name).mkdir(parents=True)
    settings = {"containers": {"socket": str(engine.socket)}, "gpus": {"poll": 0.1}}
    directories = {f"{name.upper()}_DIRECTORY": str(folder / name) for name in names}
    env = driver.environment(directories) | {"DOCKER_IMAGE_NAME": SHELL}
    return Daemon(folder / "d", config=settings, env=env)


@pytest.fixture
def daemon(tmp_path: Path, docker_engine: Engine, fake_nvml: Make, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    with serving(tmp_path, docker_engine, fake_nvml(4)) as one:
        for name, value in one.env.items():
            if name.startswith(("RUNNERS_", "DOCKER_IMAGE")) or name.endswith("_DIRECTORY"):
                monkeypatch.setenv(name, value)
        monkeypatch.chdir(one.folder)
        yield one


@pytest.fixture
def in_docker(daemon: Daemon) -> Program:
    """`python -m runners.run_in_docker`."""

    def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "runners.run_in_docker", *words], env={**daemon.env, **variables}, capture_output=True, text=True,
            timeout=90, check=False, cwd=daemon.folder,
        )  # fmt: skip

    return run


def test_a_command_in_a_container_has_its_output_and_its_exit_code(in_docker: Program) -> None:
    """'Simple command to ls the workspace in the Docker.'"""
    done = in_docker("ls")
    assert (done.returncode, done.stderr) == (0, "")
    assert "runnersd.yml" in done.stdout.split()
    done = in_docker("echo out; echo err >&2; exit 3")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 3), "the first one returned 0"
    assert in_docker("kill -9 $$").returncode == 137
    done = in_docker("no-such-program")
    assert done.returncode == 127
    done = in_docker("no-such-program", "x")
    assert (done.returncode, done.stdout) == (125, "")
    assert "no-such-program" in done.stderr


def test_words_reach_the_command_as_they_were_given(in_docker: Program) -> None:
    done = in_docker("--gpus", "0", "printf", "[%s]", "a b", "", "$HOME", "--lr=1", "--", "--name", "it's")
    assert done.stdout == "[a b][][$HOME][--lr=1][--name][it's]"


def test_a_container_sees_the_code_and_the_directories_and_nothing_else(
    daemon: Daemon, in_docker: Program, tmp_path: Path
) -> None:
    """'This folder will be mapped to /storage/data/ in your docker container'; 'this is the folder you will be in'."""
    (daemon.folder / "train.py").write_text("code")
    (tmp_path / "data" / "song").write_text("music")
    script = (
        "pwd; cat train.py; echo; cat /storage/data/song $DATA_DIRECTORY/song; echo;"
        "echo $ARTIFACTS_DIRECTORY > /storage/artifacts/result; echo c > $CACHE_DIRECTORY/cached;"
        'echo "$PYTHONPATH $NUSSL_DIRECTORY ${DOCKER_IMAGE_NAME-absent} ${RUNNERS_SOCKET-absent}"'
    )
    done = in_docker(script)
    assert done.stdout.splitlines() == [
        "/workspace", "code", "musicmusic", f"{tmp_path}/nussl {tmp_path}/nussl absent absent"
    ]  # fmt: skip
    result, cached = tmp_path / "artifacts" / "result", tmp_path / "cache" / "cached"
    assert result.read_text() == f"{tmp_path}/artifacts\n"
    assert (result.stat().st_uid, cached.read_text()) == (os.geteuid(), "c\n")


def test_a_variable_without_a_value_is_absent(in_docker: Program) -> None:
    """The first one passed the text `None`, which is true."""
    done = in_docker("echo ${COMET_API_KEY-absent} ${NUSSL_DIRECTORY-absent}", NUSSL_DIRECTORY="", COMET_API_KEY="")
    assert done.stdout == "absent absent\n"
    assert in_docker("echo $COMET_API_KEY", COMET_API_KEY="k3y").stdout == "k3y\n"


def test_a_container_has_the_cards_it_names_and_no_others(daemon: Daemon, in_docker: Program) -> None:
    """'Can be configured to name the container and give it GPUs.'"""
    """'gpus='0,1,2' will result in the container having access to the first 3 GPUs on the system.'"""
    done = in_docker("ls /dev | grep ^nvidia; echo $RUNNERS_GPU_INDICES", "--name", "testing", "--gpus", "0,2")
    assert done.stdout.split() == ["nvidia0", "nvidia2", "0,2"], done.stderr
    newest: Any = next(daemon.client().jobs(limit=1))
    assert newest["name"] == "testing"
    assert in_docker("ls /dev | grep ^nvidia; echo $NVIDIA_VISIBLE_DEVICES").stdout == "void\n"


def test_a_card_in_use_is_an_error_that_says_who_has_it(daemon: Daemon, in_docker: Program) -> None:
    id = DockerRunner().run("sleep 600", gpus="1", name="training")
    eventually("it runs", lambda: daemon.job(id)["state"] == "running")
    done = in_docker("touch no", "--gpus", "1,2")
    assert done.returncode == 125
    assert f"card 1 is held by job {id} (training) of " in done.stderr
    with pytest.raises(Unavailable, match=f"card 1 is held by job {id}"):
        DockerRunner().run("ls", "1")
    assert not (daemon.folder / "no").exists()


def test_detached_it_returns_the_jobs_id_and_attached_the_exit_code(
    daemon: Daemon, capfd: pytest.CaptureFixture[str]
) -> None:
    """'This detaches from the container completely by default.'"""
    id = DockerRunner().run("sleep 0.2; exit 4", "")
    assert daemon.job(id)["state"] in ("queued", "starting", "running")
    [job] = daemon.wait(id)
    assert (job["exit_code"], job["name"]) == (4, "sleep")
    assert capfd.readouterr().out == ""
    assert DockerRunner(SHELL).run(["sh", "-c", "echo hello; exit 5"], gpus=None, detach=False) == 5
    assert capfd.readouterr().out == "hello\n"


def test_an_image_that_cannot_be_had_is_an_error(in_docker: Program) -> None:
    done = in_docker("ls", "--image", "localhost:1/no/such:image")
    assert done.returncode == 125
    assert "localhost:1/no/such" in done.stderr


# -- ports -------------------------------------------------------------------------------------------------------------


def inside(engine: Engine, *command: str) -> bytes:
    """What a command in the engine's network namespace prints."""
    enter = ["nsenter", "--target", str(engine.pid), "--net", "--", *command]
    return subprocess.run(enter, capture_output=True, timeout=60, check=False).stdout


def ask(engine: Engine, port: int) -> bytes:
    """What a server on the engine's loopback address answers; nothing when it cannot be reached."""
    return inside(
        engine, sys.executable, "-c",
        "import socket,sys\n"
        f"with socket.create_connection(('127.0.0.1', {port}), 5) as s: sys.stdout.write(s.recv(100).decode())",
    )  # fmt: skip


def test_ports_are_opened_on_the_loopback_address_alone(
    tmp_path: Path, new_docker_engine: Callable[..., Engine], fake_nvml: Make
) -> None:
    """The first one opened them to the network."""
    engine = new_docker_engine(bridge=True)
    inside(engine, "busybox", "ifconfig", "lo", "up")
    with serving(tmp_path, engine, fake_nvml(1)) as daemon:
        server = "while :; do echo hello | nc -l -p 80; done"
        words = ["--port", "8889:80", "--name", "jupyter", "--", server]
        child = subprocess.Popen(
            [sys.executable, "-m", "runners.run_in_docker", *words], env=daemon.env, cwd=daemon.folder
        )
        try:
            eventually("it answers", lambda: ask(engine, 8889) == b"hello\n")
            listening = inside(engine, "cat", "/proc/net/tcp", "/proc/net/tcp6").decode()
            bound = [line.split()[1] for line in listening.splitlines() if line.split()[3:4] == ["0A"]]
            assert [one for one in bound if one.endswith(f":{8889:04X}")] == ["0100007F:22B9"]
            [other] = daemon.submit({"command": "true", "run_in": "container", "image": SHELL, "ports": [8889]})
            [job] = daemon.wait(other)
            assert (job["state"], job["reason"]["code"]) == ("failed", "launch_failed")
            assert "8889" in job["reason"]["text"] and "allocated" in job["reason"]["text"]
        finally:
            child.terminate()
            child.wait(60)
        eventually("it is closed", lambda: ask(engine, 8889) == b"")


# -- the demo ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packages", "found"),
    [("zarr>=3 matplotlib torch", True), ("matplotlib zarr", True), ("zarr", False), ("", False), (None, False)],
)
def test_the_demo_runs_in_containers_of_an_image_that_has_what_it_needs(
    docker_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packages: str | None, found: bool
) -> None:
    docker_engine.import_image("lab/demo:1", [] if packages is None else [f'LABEL python.pip="{packages}"'])
    (tmp_path / "runnersd.yml").write_text(json.dumps({"containers": {"socket": str(docker_engine.socket)}}))
    monkeypatch.setenv("RUNNERS_CONFIG", str(tmp_path / "runnersd.yml"))
    demo = runpy.run_path(str(ROOT / "configs" / "pipelines" / "demo" / "run.py"))
    assert demo["has_image"]("lab/demo:1") is found
    assert not demo["has_image"]("lab/none:1")
    monkeypatch.setenv("RUNNERS_CONFIG", str(tmp_path / "none.yml"))
    assert not demo["has_image"]("lab/demo:1")


# -- make --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def make(daemon: Daemon) -> Program:
    """The Makefile's targets. What they need installed is installed: the tests run with it."""

    def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        env = {
            name: value for name, value in daemon.env.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "PYTHONPATH")
        }
        binaries = Path(sys.executable).parent
        return subprocess.run(
            ["make", "--no-print-directory", "--old-file", ".venv/.demo", f"BIN={binaries}", *words], env={**env, **variables},
            capture_output=True, text=True, timeout=90, check=False, cwd=ROOT,
        )  # fmt: skip

    return run


def test_make_runs_commands_in_containers_and_on_the_host(make: Program) -> None:
    done = make("run_in_container", 'command=ls -d docs; echo "it\'s $HOME"', "name=testing", "gpus=0,1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "docs"
    assert done.stdout.splitlines()[1].startswith("it's /home/"), "the container's own HOME"
    done = make("run_in_host", 'command=echo "$RUNNERS_JOB_NAME $RUNNERS_GPU_INDICES"; exit 3', "gpus=2", "name=mine")
    assert done.stdout == "mine 2\n"
    assert done.returncode == 2 and "Error 3" in done.stderr, "make says the code and has one of its own"
    assert make("run_in_container").returncode == 2


def test_make_takes_its_variables_from_the_environment_file(make: Program, daemon: Daemon, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    file = tmp_path / "lab.sh"
    text = (ROOT / "configs" / "environment" / "default.sh").read_text()
    file.write_text(f"unset DATA_DIRECTORY\nXDG_DATA_HOME={folder}\nXDG_CACHE_HOME={folder}\n{text}")
    command = 'command=echo "$DATA_DIRECTORY"; ls -d /storage/data'
    done = make("run_in_container", command, f"ENV_FILE={file}", CACHE_DIRECTORY="", ARTIFACTS_DIRECTORY="")
    assert done.stdout.splitlines() == [f"{folder}/runners/data", "/storage/data"], done.stderr


def test_make_tensorboard_needs_a_directory_to_show(make: Program) -> None:
    """The first one began with an empty one."""
    done = make("tensorboard", ARTIFACTS_DIRECTORY="")
    assert done.returncode != 0
    assert "ARTIFACTS_DIRECTORY: is not set" in done.stderr
    assert "TensorBoard will be" not in done.stdout
