"""What a container job finds around it: its user, files, directories, environment and shell; and what it leaves."""

from __future__ import annotations

import grp
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest

from daemon.containers import Lab, environment_of
from engine import BARE, PROGRAM

ADA, BOB, TEAM = 61001, 61002, 61777
DIRECTORIES = {
    "DATA_DIRECTORY": "data",
    "CACHE_DIRECTORY": "cache",
    "ARTIFACTS_DIRECTORY": "artifacts",
    "NUSSL_DIRECTORY": "nussl",
}


@pytest.fixture
def project(lab: Lab) -> Path:
    """A folder of Ada's, with code in it."""
    folder = Path(tempfile.mkdtemp(prefix="project-", dir=lab.folder))
    (folder / "code" / "deep").mkdir(parents=True)
    for name in DIRECTORIES.values():
        (folder / name).mkdir()
    (folder / "code" / "hello").write_text("from the code\n")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, ADA, ADA)
    return folder


def run_as_ada(lab: Lab, project: Path, *jobs: dict[str, Any], **keys: Any) -> list[Any]:
    return lab.daemon.wait(*lab.submit_as(ADA, *jobs, cwd=str(project / "code"), **keys))


def test_the_environment_is_what_is_promised_and_nothing_else(lab: Lab, project: Path) -> None:
    submitted = {name: str(project / place) for name, place in DIRECTORIES.items()}
    others = {"SECRET": "s3cret", "PATH": "/mine", "LD_PRELOAD": "/x.so", "COMET_API_KEY": "k3y", "HOME": "/home/ada"}
    lab.engine.import_image("lab/env:1", ["ENV FROM_IMAGE=yes", "ENV NVIDIA_VISIBLE_DEVICES=all", "ENV PATH=/bin"])
    (job,) = run_as_ada(
        lab, project,
        {"name": "a", "image": "lab/env:1", "command": "env", "num_workers": 3,
         "env": {"LR": "0.1", "RUNNERS_JOB_ID": "7", "NVIDIA_VISIBLE_DEVICES": "all", "CUDA_VISIBLE_DEVICES": "0"}},
        env={**submitted, **others},
    )  # fmt: skip
    found = environment_of(lab.out(job["id"]))
    shell = {name: found.pop(name) for name in ("PWD", "SHLVL", "HOSTNAME", "OLDPWD") if name in found}
    assert shell["PWD"] == "/workspace"
    assert found == {
        **submitted,
        "PYTHONPATH": submitted["NUSSL_DIRECTORY"],
        "COMET_API_KEY": "k3y",
        "HOME": f"/home/{ADA}",
        "USER": str(ADA),
        "LOGNAME": str(ADA),
        "FROM_IMAGE": "yes",
        "PATH": "/bin",
        "LR": "0.1",
        "RUNNERS_JOB_ID": str(job["id"]),
        "RUNNERS_JOB_NAME": "a",
        "RUNNERS_PIPELINE_ID": job["pipeline"],
        "RUNNERS_ATTEMPT": "1",
        "RUNNERS_PREEMPTED": "0",
        "RUNNERS_GPU_INDICES": "",
        "CUDA_VISIBLE_DEVICES": "",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "NUM_WORKERS": "3",
        "NVIDIA_VISIBLE_DEVICES": "void",
        "NVIDIA_DRIVER_CAPABILITIES": "",
    }


def test_a_variable_without_a_value_is_absent(lab: Lab, project: Path) -> None:
    (job,) = run_as_ada(lab, project, {"name": "a", "command": "env"}, env={"DATA_DIRECTORY": "", "COMET_API_KEY": ""})
    assert not {*DIRECTORIES, "COMET_API_KEY", "PYTHONPATH"} & environment_of(lab.out(job["id"])).keys()


def test_directories_are_at_their_own_places_and_in_storage(lab: Lab, project: Path) -> None:
    for place in DIRECTORIES.values():
        (project / place / "mark").write_text(place)
    (job,) = run_as_ada(
        lab, project,
        {"name": "a", "command": "cat $DATA_DIRECTORY/mark /storage/data/mark $CACHE_DIRECTORY/mark /storage/cache/mark"
                                 " $ARTIFACTS_DIRECTORY/mark /storage/artifacts/mark $NUSSL_DIRECTORY/mark;"
                                 " echo new > /storage/artifacts/made; ls /storage"},
        env={name: str(project / place) for name, place in DIRECTORIES.items()},
    )  # fmt: skip
    assert lab.out(job["id"]) == "datadatacachecacheartifactsartifactsnusslartifacts\ncache\ndata\n"
    assert (project / "artifacts" / "made").read_text() == "new\n"


def test_it_is_its_submitter_and_its_files_are_theirs(lab: Lab, project: Path) -> None:
    docker = next((group.gr_gid for group in grp.getgrall() if group.gr_name in ("docker", "sudo")), 0)
    ids = lab.submit_as(
        ADA, {"name": "a", "command": "id -u; id -g; id -G; touch made; mkdir -p new/deep; grep -h Cap /proc/self/status;"
                                      " grep NoNewPrivs /proc/self/status"},
        gid=BOB, groups=[TEAM, docker, 0], cwd=str(project / "code"), umask=0o027,
    )  # fmt: skip
    lab.daemon.wait(*ids)
    uid, gid, groups, *status = lab.out(ids[0]).splitlines()
    assert (uid, gid, sorted(groups.split())) == (str(ADA), str(BOB), sorted([str(BOB), str(TEAM)]))
    assert {line.split()[1] for line in status if line.startswith("Cap")} == {"0000000000000000"}
    assert "NoNewPrivs:\t1" in status
    for path, mode in ((project / "code" / "made", 0o640), (project / "code" / "new" / "deep", 0o750)):
        there = path.stat()
        assert (there.st_uid, there.st_gid, stat.S_IMODE(there.st_mode)) == (ADA, BOB, mode)


@pytest.mark.parametrize("umask", [0o002, 0o077])
def test_its_umask_is_its_submitters(lab: Lab, project: Path, umask: int) -> None:
    (job,) = run_as_ada(lab, project, {"name": "a", "command": ["sh", "-c", "umask; touch made"]}, umask=umask)
    assert lab.out(job["id"]) == f"{umask:04o}\n"
    assert stat.S_IMODE((project / "code" / "made").stat().st_mode) == 0o666 & ~umask


def test_its_home_is_private_writable_and_gone_afterwards(lab: Lab, project: Path) -> None:
    command = (
        'echo $HOME; stat -c "%u %a" $HOME; ls -A $HOME; echo x > $HOME/secret; stat -f -c %T $HOME; cat $HOME/secret'
    )
    first, second = (run_as_ada(lab, project, {"name": "a", "command": command})[0] for _ in range(2))
    for job in (first, second):
        assert lab.out(job["id"]).splitlines() == [f"/home/{ADA}", f"{ADA} 700", "tmpfs", "x"]


@pytest.mark.parametrize(
    ("workdir", "found"),
    [(None, "/workspace"), ("deep", "/workspace/deep"), (".", "/workspace"), ("/tmp", "/tmp"), ("{code}/deep", "/workspace/deep")],
)  # fmt: skip
def test_its_working_directory_is_the_code_or_below_or_another(
    lab: Lab, project: Path, workdir: str | None, found: str
) -> None:
    keys = {"workdir": workdir.format(code=project / "code")} if workdir else {}
    (job,) = run_as_ada(lab, project, {"name": "a", "command": "pwd; cat /workspace/hello", **keys})
    assert lab.out(job["id"]) == f"{found}\nfrom the code\n"


def test_mounts_are_where_they_were_asked_for_and_read_only_where_that_was(lab: Lab, project: Path) -> None:
    mounts = [f"{project}/data:/in:ro", f"{project}/cache:/out", f"{project}/code/hello:/etc/hello"]
    with lab.configured(containers={"allowed_mounts": [str(lab.folder)]}):
        (job,) = run_as_ada(
            lab, project,
            {"name": "a", "mounts": mounts,
             "command": "touch /in/no; touch /out/yes; cat /etc/hello; ls -d /in /out"},
        )  # fmt: skip
    assert lab.out(job["id"]) == "from the code\n/in\n/out\n"
    made = {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()}
    assert made == {"code/hello", "cache/yes"}


def test_a_mount_that_its_submitter_cannot_read_is_refused(lab: Lab, project: Path) -> None:
    (project / "data").chmod(0o700)
    os.chown(project / "data", BOB, BOB)
    with lab.configured(containers={"allowed_mounts": [str(lab.folder)]}):
        (job,) = run_as_ada(lab, project, {"name": "a", "command": "ls /in", "mounts": [f"{project}/data:/in"]})
    assert (job["state"], job["reason"]["code"]) == ("failed", "launch_failed")
    assert f"cannot mount {project}/data: Permission denied" in job["reason"]["text"]


def test_a_code_directory_that_its_submitter_cannot_read_is_refused(lab: Lab, project: Path) -> None:
    (project / "code").chmod(0o700)
    os.chown(project / "code", BOB, BOB)
    (job,) = run_as_ada(lab, project, {"name": "a", "command": "true"})
    assert (job["state"], job["reason"]["code"]) == ("failed", "launch_failed")


def test_it_sees_nothing_of_the_daemon_below_a_mount(lab: Lab) -> None:
    """The daemon's own directory lies below the code of this job."""
    (job,) = lab.run({"name": "a", "command": "ls -A state locks; cat runnersd.yml | head -c 1; touch state/x"})
    assert lab.out(job["id"]) == "locks:\n\nstate:\n{"
    assert job["exit_code"] == 1


def test_what_it_is_limited_to_is_so(lab: Lab) -> None:
    (job,) = lab.run(
        {"name": "a", "memory": "96MiB", "cpus": 0.5, "shm_size": "24MiB",
         "command": "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max;"
                    " cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max;"
                    " cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max; df -k /dev/shm | tail -n 1"}
    )  # fmt: skip
    memory, cpu, pids, shm = lab.out(job["id"]).splitlines()
    assert (memory, cpu.split()[0], pids, shm.split()[1]) == (str(96 << 20), "50000", "4096", str(24 << 10))


def test_many_processes_stop_at_the_limit_and_not_the_machine(lab: Lab) -> None:
    with lab.configured(containers={"pids": 32}):
        (job,) = lab.run({"name": "a", "command": "for n in $(seq 100); do sleep 9 & done"})
    assert "can't fork" in lab.daemon.run("logs", str(job["id"])).stderr.decode()


def test_an_image_without_a_shell_is_its_submitter_too(lab: Lab, project: Path) -> None:
    secret = project / "code" / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    os.chown(secret, BOB, BOB)
    mine, theirs = run_as_ada(
        lab, project,
        {"name": "a", "image": BARE, "command": [PROGRAM, "open", "/workspace/hello"]},
        {"name": "b", "image": BARE, "command": [PROGRAM, "open", "/workspace/secret"]},
    )  # fmt: skip
    assert (mine["exit_code"], theirs["exit_code"]) == (0, 13)


def test_its_name_network_and_processes_are_its_own(lab: Lab) -> None:
    (job,) = lab.run({"name": "a", "command": "hostname; echo /sys/class/net/*; ps | wc -l"})
    host, interfaces, processes = lab.out(job["id"]).splitlines()
    assert (host != os.uname().nodename, interfaces) == (True, "/sys/class/net/lo")
    assert int(processes) < 8
