"""Hostile container jobs: each is refused, or does no harm, and the daemon lives on.

What is refused at submit is asked one by one. What is taken in runs together, once for the module, as one user without
rights on a machine with four cards; the tests then look at what became of each. At the end nothing may have been made
on the host that this user could not have made.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from daemon.containers import CONTAINER, Lab, lab_on
from daemon.somebody import Somebody
from engine import BARE, CARDS, PROGRAM, SHELL, Engine
from fake_nvml import FakeDriver
from runners.errors import InvalidPipeline, RunnersError

EVE, BOB, TEAM = 61001, 61002, 61003
#: What nobody but bob may read, and what eve's jobs would print if they got at it.
SECRET = "bobs-secret"
EVIL = "evil-code-ran"
#: Prints which cards a job sees, and what it gets when it opens them all.
CARDS_SEEN = f"for n in 0 1 2 3; do {PROGRAM} open /dev/nvidia$n 2>/dev/null; echo nvidia$n=$?; done"
NO_CARD = "".join(f"nvidia{place}=2\n" for place in range(4))  # ENOENT


@pytest.fixture(scope="module")
def ground() -> Iterator[Path]:
    """Folders of eve's, who attacks, and of bob's; `open` is what the daemon lets everybody mount."""
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    folder.chmod(0o755)
    for name, uid, mode in (("eve", EVE, 0o755), ("bob", BOB, 0o700), ("open", EVE, 0o755), ("only-read", BOB, 0o755)):
        (folder / name).mkdir()
        (folder / name).chmod(mode)
        os.chown(folder / name, uid, uid)
    for path in ("eve/code", "eve/data", "eve/data/sub", "bob/inside", "open/x"):
        (folder / path).mkdir()
        (folder / path).chmod(0o755)
        owner = (folder / path).parent.stat().st_uid
        os.chown(folder / path, owner, owner)
    (folder / "bob" / "inside" / "secret").write_text(SECRET)
    (folder / "only-read" / "file").write_text("x")
    os.mkfifo(folder / "open" / "pipe")
    os.mkfifo(folder / "eve" / "pipe")
    for name, target in {
        "etc": "/etc", "root": "/", "proc": "/proc/self", "bob": folder / "bob" / "inside", "out": folder / "eve",
        "docker": "/var/run/docker.sock", "loop": "to-loop", "magic": "/proc/self/root",
    }.items():  # fmt: skip
        for place in ("open", "eve"):
            (folder / place / f"to-{name}").symlink_to(target)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "open" / "socket"))
        yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def hostile(
    shared_docker_engine: Engine, fake_nvml_library: Path, ground: Path, tmp_path_factory: Any
) -> Iterator[Lab]:
    """A daemon with four cards, for all of these tests."""
    driver = FakeDriver(fake_nvml_library, tmp_path_factory.mktemp("driver")).add_cards(len(CARDS))
    shared_docker_engine.set_cards(CARDS)
    with (
        shared_docker_engine.leaving_no_containers(),
        lab_on(shared_docker_engine, env=driver.environment({})) as lab,
        lab.configured(containers={"allowed_mounts": [str(ground / "open")]}),
    ):
        yield lab


@pytest.fixture
def lab(hostile: Lab) -> Iterator[Lab]:
    """The daemon, which lives after the test as before it, and has met no error of its own."""
    process = hostile.daemon.process
    yield hostile
    assert process is not None and process.poll() is None
    assert hostile.daemon.client().health()
    assert "Traceback" not in hostile.daemon.log.read_text()


# -- refused at submit -----------------------------------------------------------------------------------------------------


def refused(lab: Lab, job: Mapping[str, Any], **document: Any) -> str:
    """What the daemon says to such a job, of root even; nothing of it may be queued."""
    before = len(list(lab.daemon.client().jobs()))
    with pytest.raises(RunnersError) as error:
        lab.daemon.submit({**CONTAINER, "command": "true", **job}, **document)
    assert 400 <= error.value.status < 500
    assert len(list(lab.daemon.client().jobs())) == before
    return str(error.value)


FORBIDDEN: Mapping[str, Any] = {
    "privileged": True, "network_mode": "host", "network": "host", "pid_mode": "host", "pid": "host", "ipc_mode": "host",
    "ipc": "host", "uts_mode": "host", "userns_mode": "", "cgroupns_mode": "host", "cgroup_parent": "/", "user": "0:0",
    "cap_add": ["SYS_ADMIN"], "cap_drop": [], "devices": ["/dev/sda:/dev/sda:rwm"], "init": False, "uid": 0, "gid": 0,
    "device_requests": [{"Driver": "nvidia", "Count": -1}], "device_cgroup_rules": ["c *:* rwm"], "groups": [0],
    "annotations": {"cdi.k8s.io/x": "nvidia.com/gpu=all"}, "labels": {"runners.job": "1"}, "runtime": "nvidia",
    "sysctls": {"kernel.core_pattern": "|/x"}, "security_opt": ["seccomp=unconfined", "apparmor=unconfined"],
    "volumes": ["/:/host"], "volumes_from": ["other"], "binds": ["/:/host"], "tmpfs": {"/x": "exec"}, "links": ["other"],
    "entrypoint": ["/evil"], "restart": "always", "auto_remove": True, "oom_score_adj": -1000, "ulimits": ["core=-1"],
    "group_add": ["docker"], "hostname": "host", "extra_hosts": ["x:1.2.3.4"], "dns": ["1.2.3.4"], "pids": -1,
    "HostConfig": {"Privileged": True}, "Privileged": True, "submitter": {"uid": 0}, "minors": [0], "masked": [],
    "allowed_mounts": ["/"], "gate": False, "healthcheck": {"Test": ["CMD", "x"]}, "stop_signal": "SIGCONT",
}  # fmt: skip


@pytest.mark.parametrize("key", FORBIDDEN)
def test_no_key_reaches_the_engine_that_the_table_does_not_know(lab: Lab, key: str) -> None:
    assert f"unknown key '{key}'" in refused(lab, {key: FORBIDDEN[key]})


@pytest.mark.parametrize("key", ["uid", "user", "gid", "groups", "submitter", "system", "operator"])
def test_nobody_says_of_themselves_who_they_are(lab: Lab, key: str) -> None:
    assert f"unknown key '{key}'" in refused(lab, {}, **{key: 0})


LONG = 128 * 1024
MALFORMED: Mapping[str, Mapping[str, Any]] = {
    "name with a newline": {"name": "a\nb"}, "name with a NUL": {"name": "a\0"}, "name of a path": {"name": "../../x"},
    "name of an option": {"name": "x y --privileged"}, "huge name": {"name": "x" * 5000},
    "command with a NUL": {"command": "echo \0"}, "word with a NUL": {"command": ["sh", "-c", "\0"]},
    "huge argument": {"command": ["echo", "x" * (1 << 20)]}, "huge command": {"command": "x" * (1 << 20)},
    "empty command": {"command": []}, "empty first word": {"command": ["", "x"]},
    "variable with a NUL": {"env": {"A": "\0"}}, "name with =": {"env": {"A=B": "x"}}, "empty name": {"env": {"": "x"}},
    "huge variable": {"env": {"A": "x" * LONG}}, "variable of another type": {"env": {"A": {"x": 1}}},
    "half a character": {"env": {"A": "\ud800"}}, "negative memory": {"memory": -1}, "no memory": {"memory": 0},
    "negative shm": {"shm_size": -1}, "negative cpus": {"cpus": -1}, "endless cpus": {"cpus": 1e308},
    "more memory than there is": {"memory": 1 << 60}, "all cards": {"gpus": "all"}, "a card by path": {"gpus": ["../0"]},
    "many cards": {"num_gpus": 999}, "fewer than no cards": {"num_gpus": -1}, "a port of root's": {"ports": ["22:22"]},
    "a port on every address": {"ports": ["0.0.0.0:8080:80"]}, "a port of another protocol": {"ports": ["8080:80/udp"]},
    "a range of ports": {"ports": ["8000-9000:80"]}, "workdir with a NUL": {"workdir": "\0"},
}  # fmt: skip


@pytest.mark.parametrize("what", MALFORMED)
def test_no_malformed_value_gets_further(lab: Lab, what: str) -> None:
    assert refused(lab, MALFORMED[what])


@pytest.mark.parametrize(
    "image",
    ["--privileged", "-v /:/host", "../x", "../containers/json?all=1&x=", "../../v1.41/info#", "x y", "x\ny", "x;reboot",
     "x" * 10_240, "$(id)", "file:///etc/passwd", "x\0", "sha256:../../x", "http://169.254.169.254/x"],
)  # fmt: skip
def test_no_text_that_names_no_image_reaches_the_engine(lab: Lab, image: str) -> None:
    assert "image" in refused(lab, {"image": image})
    if "\0" not in image:
        assert "cannot be the name of an image" in refused(lab, {"image": None}, env={"DOCKER_IMAGE_NAME": image})


@pytest.mark.parametrize(
    "mount",
    ["/:/x", "/etc:/x", "/proc:/x", "/sys:/x", "/dev:/x", "/run:/x", "/var/run/docker.sock:/x", "/root:/x",
     "OPEN/../bob:/x", "OPEN/../../etc:/x", "OPENED:/x", "open:/x", "./x:/x", "~:/x", ":/x", "OPEN:", "OPEN:x", "OPEN",
     "OPEN:/", "OPEN://", "OPEN:/.runners", "OPEN:/.runners/go", "OPEN:/proc", "OPEN:/proc/self", "OPEN:/dev",
     "OPEN:/dev/shm", "OPEN:/sys/fs/cgroup", "OPEN:/etc", "OPEN:/usr", "OPEN:/sbin", "OPEN:/sbin/docker-init", "OPEN:/run",
     "OPEN:/var/run/nvidia-container-devices/all", "OPEN:/run/nvidia-container-devices", "OPEN:/x/../etc", "OPEN:/..",
     "OPEN:/.home", "OPEN:/x:rw,shared", "OPEN:/x:z", "OPEN:/x:ro:rw", "OPEN:/x\0", "STATE:/x", "STATE/gates:/x"],
)  # fmt: skip
def test_no_mount_leads_out_of_what_is_allowed_or_onto_what_is_taken(lab: Lab, ground: Path, mount: str) -> None:
    mount = mount.replace("OPEN", str(ground / "open")).replace("STATE", str(lab.daemon.state))
    assert "mount" in refused(lab, {"mounts": [mount]})


def test_too_much_at_once_is_refused(lab: Lab) -> None:
    assert refused(lab, {"env": {f"V{n}": "x" * 100_000 for n in range(100)}})
    with pytest.raises(InvalidPipeline):
        lab.daemon.submit(*({**CONTAINER, "command": "true", "name": "same"} for _ in range(2)))


# -- taken in --------------------------------------------------------------------------------------------------------------


@dataclass
class Case:
    """A job of eve's: ``job`` over the usual keys, in ``cwd`` (of the ground), and what must become of it.

    ``never``: it must not start, for this reason (a pattern). Else it ends as ``state``, and ``out`` must match all that
    it wrote to stdout (None: anything without a secret and without evil's word).
    """

    job: Mapping[str, Any] = field(default_factory=dict)
    cwd: str = "GROUND/eve/code"
    env: Mapping[str, str] = field(default_factory=dict)
    never: str | None = None
    state: str = "succeeded"
    out: str | None = None


PEEK = "cat /workspace/secret /x/secret /evil 2>/dev/null; ls -a / >/dev/null; true"


def directories(**values: str) -> dict[str, str]:
    return {f"{name.upper()}_DIRECTORY": value for name, value in values.items()}


CASES: Mapping[str, Case] = {
    # -- cards
    "all cards by env, of a job with none": Case(
        {"env": dict.fromkeys(
            ["NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "DOCKER_RESOURCE_GPU", "DOCKER_RESOURCE_NVIDIA_GPU",
             "SWARM_RESOURCE_GPU", "CUDA_VISIBLE_DEVICES", "NVIDIA_MIG_CONFIG_DEVICES", "NVIDIA_IMEX_CHANNELS"], "all"),
         "command": CARDS_SEEN + "; env | grep -c '=all$'"}, state="failed", out=NO_CARD + "0\n"),
    "all cards by env, of a job with one": Case(
        {"env": {"NVIDIA_VISIBLE_DEVICES": "all", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, "num_gpus": 1,
         "command": CARDS_SEEN}, out=r"(?=(.*\n)*.*=6\n)((nvidia\d=2\n){3}nvidia\d=6\n|(nvidia\d=\d\n){4})"),
    "all cards by image, of a job with none": Case({"image": "evil/all:1", "command": CARDS_SEEN}, out=NO_CARD),
    "all cards by image, of a job with one": Case(
        {"image": "evil/all:1", "command": CARDS_SEEN, "num_gpus": 1}, out=r"(nvidia\d=[26]\n){4}"),
    "nodes of cards and disks in the image": Case(
        {"image": "evil/nodes:1", "command": f"{PROGRAM} open /nodes/nvidia1; echo $?; {PROGRAM} open /nodes/disk; echo $?"},
        out=r"1\n1\n"),
    # -- what the image says in our place
    "user root": Case({"image": "evil/user:1", "command": "id -u; id -g; id -G"}, out=rf"{EVE}\n{EVE}\n{EVE} {TEAM}\n"),
    "setuid root": Case({"image": "evil/setuid:1", "command": "/opt/busybox id -u"}, out=rf"{EVE}\n"),
    "entry point, command and triggers": Case({"image": "evil/entry:1", "command": ["echo", "mine"]}, out="mine\n"),
    "health check": Case({"image": "evil/health:1", "command": "sleep 1; ls /workspace/healthy /tmp/healthy 2>&1 | wc -l"},
                         out=r"2\n"),
    "labels of 600 KB": Case({"image": "evil/label:1"}, never="its labels take 600KiB"),
    "labels of ours": Case({"image": "evil/staged:1"}, never="it has the label runners.staged"),
    "a group called by a number": Case({"image": "evil/group:1", "command": "id -G"}, never=f"has the name {TEAM}"),
    "a group called by a number that is not asked for": Case(
        {"image": "evil/group2:1", "command": "id -G"}, out=rf"{EVE} {TEAM}\n"),
    # -- volumes and links of the image
    "volume over the code": Case({"image": "evil/volume-code:1", "command": "ls /workspace/evil || echo mine"}, out="mine\n"),
    "volume over the home": Case({"image": "evil/volume-home:1", "command": "echo $HOME; touch ~/x"}, out=rf"/home/{EVE}\n"),
    "volume within the code": Case({"image": "evil/volume-in-code:1"}, never="a volume at /workspace/evil"),
    "volume over the init": Case({"image": "evil/volume-init:1"}, never="/sbin would cover /sbin/docker-init"),
    "volume over the gate": Case({"image": "evil/volume-gate:1", "command": "echo mine"}, out="mine\n"),
    "volume at the word": Case({"image": "evil/volume-word:1"}, never="where the gate is"),
    "link and volume over the gate": Case({"image": "evil/link-gate:1"}, never="a link at /.runners"),
    "storage leads to the code": Case(
        {"image": "evil/link-storage:1"}, env=directories(data="GROUND/eve/data"), never="leads to /workspace/evil"),
    "home leads to the code": Case({"image": "evil/link-home:1"}, never=f"/home/{EVE} leads to /workspace"),
    "code leads to a mount": Case(
        {"image": "evil/link-code:1"}, env=directories(data="GROUND/eve/data"), never="/workspace leads to"),
    "code leads to /etc of the image": Case({"image": "evil/link-etc:1", "command": "head -n1 /etc/group; pwd -P"},
                                            out="root:x:0:\n/etc/evil\n"),
    # -- where it starts
    "workdir that is not there": Case({"workdir": "evil"}, never="cannot run in /workspace/evil"),
    "workdir that is not there, in what is only read": Case(
        {"workdir": "evil"}, cwd="GROUND/only-read", never="cannot run in /workspace/evil"),
    "workdir below another's directory": Case(
        {"workdir": "GROUND/bob/inside/evil"}, env=directories(data="GROUND"), never="cannot run in"),
    "workdir upwards": Case({"workdir": "../../../../../etc", "command": "pwd"}, out=r"/etc\n"),
    "workdir that is an option": Case({"workdir": "-P"}, never="cannot run in /workspace/-P"),
    "workdir through a link": Case({"workdir": "../to-bob"}, cwd="GROUND/eve/code", never="cannot run in"),
    "workdir in proc": Case({"workdir": "/proc/1/root", "command": f"cat .{Path(__file__)}; {PEEK}"}, out=""),
    "cwd that is the system's": Case(cwd="/etc", never="belongs to the system"),
    "cwd /": Case(cwd="/", never="belongs to the system"),
    "cwd by way of proc": Case(cwd="/proc/self/cwd", never="a link of /proc"),
    "cwd of another": Case(cwd="GROUND/bob/inside", never="Permission denied"),
    "cwd by a link to another's": Case(cwd="GROUND/eve/to-bob", never="Permission denied"),
    "cwd that is a pipe": Case(cwd="GROUND/eve/pipe", never="neither a directory nor a plain file"),
    "cwd that is not there": Case(cwd="GROUND/eve/nowhere", never="No such file"),
    "cwd in circles": Case(cwd="GROUND/eve/to-loop", never="in circles"),
    "cwd that is the daemon's": Case(cwd="STATE", never="Permission denied|belongs to"),
    # -- directories
    "data /": Case(env=directories(data="/"), never="/ holds what every container needs"),
    "data /etc": Case(env=directories(data="/etc"), never="/etc holds what every container needs"),
    "data /usr": Case(env=directories(data="/usr"), never="/usr holds what every container needs"),
    "data a socket": Case(env=directories(data="GROUND/open/socket"), never="neither a directory nor a plain file"),
    "data docker's socket": Case(env=directories(data="/var/run/docker.sock"), never="cannot mount"),
    "data of another": Case(env=directories(data="GROUND/bob"), never="Permission denied"),
    "data by a link": Case(env=directories(cache="GROUND/eve/to-etc"), never="belongs to the system"),
    "data relative": Case(env=directories(data="eve"), never="must be an absolute path"),
    "data upwards": Case(env=directories(data="GROUND/eve/../bob"), never="without ..|Permission denied"),
    "data with a colon": Case(env=directories(data="/etc:/x"), never="cannot mount"),
    "data that is a file of the system": Case(env=directories(nussl="/etc/passwd"), never="belongs to the system"),
    "data over the home": Case(
        {"command": "touch ~/x && echo $HOME"}, env=directories(data="GROUND/eve"), out=rf"/home/{EVE}\n"),
    "data within data": Case(
        {"command": "ls -d $DATA_DIRECTORY $CACHE_DIRECTORY /storage/cache"}, out=r"(/.*\n){3}",
        env=directories(data="GROUND/eve/data", cache="GROUND/eve/data/sub")),
    # -- mounts
    "mount by a link to /etc": Case({"mounts": ["GROUND/open/to-etc:/x"], "command": PEEK}, never="belongs to the system"),
    "mount by a link to /": Case({"mounts": ["GROUND/open/to-root:/x"]}, never="belongs to the system"),
    "mount by a link to proc": Case({"mounts": ["GROUND/open/to-proc:/x"]}, never="belongs to the system|link of /proc"),
    "mount by a link of proc": Case({"mounts": ["GROUND/open/to-magic:/x"]}, never="a link of /proc"),
    "mount by a link to another's": Case({"mounts": ["GROUND/open/to-bob:/x"], "command": PEEK}, never="Permission denied"),
    "mount by a link out of what is allowed": Case({"mounts": ["GROUND/open/to-out:/x"]}, never="not below what this daemon"),
    "mount of a pipe": Case({"mounts": ["GROUND/open/pipe:/x"]}, never="neither a directory nor a plain file"),
    "mount of a socket": Case({"mounts": ["GROUND/open/socket:/x"]}, never="neither a directory nor a plain file"),
    "mount in circles": Case({"mounts": ["GROUND/open/to-loop:/x"]}, never="in circles"),
    "mount within what is only read": Case(
        {"mounts": ["GROUND/open/x:/workspace/evil"]}, cwd="GROUND/only-read", never="cannot be made by the submitter"),
    "mount within one's own": Case(
        {"mounts": ["GROUND/open/x:/workspace/made/here"], "command": "ls -d made/here"}, out=r"made/here\n"),
    # -- the gate
    "a shell that is another program": Case({"image": "evil/shell:1", "command": ["/bin/busybox", "echo", "mine"]}, out="mine\n"),
    "variables for shells": Case(
        {"env": {"PATH": "/workspace:/bin", "ENV": "/workspace/rc", "BASH_ENV": "/workspace/rc", "IFS": "/.", "CDPATH": "/",
                 "BASH_FUNC_read%%": "() { echo evil-code-ran; }", "PS4": "$(echo evil-code-ran)", "SHELLOPTS": "xtrace",
                 "LD_PRELOAD": "/workspace/evil.so", "runners_word": "x", "word": "kept"},
         "command": ["sh", "-c", "echo $word"]}, out=r"kept\n"),
    "the word said by the payload": Case(
        {"command": "echo go > /.runners/go; echo $?; touch /.runners/x; echo $?; rm -f /.runners/go; ls /.runners"},
        out=r"1\n1\ngo\nsh\n"),
    # -- size
    "three megabytes of variables": Case({"env": {f"V{n}": "x" * 100_000 for n in range(30)}}, never="cannot|argument list"),
    "a thousand arguments": Case({"command": ["echo", *["x" * 10] * 1000]}, out=r"(x{10}[ \n]){1000}"),
    "odd characters": Case({"command": ["printf", "%s", "a\nb\x1b[31m$(id)`id`;|&\u202e"]}, out="a\nb\x1b\\[31m\\$\\(id\\)`id`;\\|&\u202e"),
    "a program that is not there": Case({"command": ["/bin/../../evil"]}, never="cannot run /bin/../../evil"),
    "an image without a shell asked for one": Case({"image": BARE, "command": "echo x"}, never="cannot run sh"),
}  # fmt: skip


def make_images(engine: Engine) -> None:
    """What a registry full of malice might hold."""
    evil = f"#!/bin/busybox sh\necho {EVIL}; echo {EVIL} >> /workspace/{EVIL}; cat /workspace/secret; exec sleep 1\n"
    doors = ["NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "DOCKER_RESOURCE_GPU", "SWARM_RESOURCE_GPU",
             "CUDA_VISIBLE_DEVICES", "NVIDIA_MIG_CONFIG_DEVICES"]  # fmt: skip
    busybox = Path(shutil.which("busybox") or "/bin/busybox").read_bytes()
    health = f"HEALTHCHECK --interval=10ms CMD echo {EVIL} | tee /workspace/healthy > /tmp/healthy"
    images: dict[str, tuple[list[str], dict[str, Any]]] = {
        "all": ([f"ENV {door}=all" for door in doors], {}),
        "user": (["USER root"], {}),
        "setuid": ([], {"files": {"/opt/busybox+s": busybox}}),
        "entry": (["ENTRYPOINT [\"/bin/evil\"]", f"CMD echo {EVIL}", f"ONBUILD RUN echo {EVIL}"], {"files": {"/bin/evil": evil}}),
        "health": ([health], {}),
        "staged": (["LABEL runners.staged=yes"], {}),
        "group": ([], {"files": {"/etc/group": f"root:x:0:\n{TEAM}:x:42:\n"}}),
        "group2": ([], {"files": {"/etc/group": f"root:x:0:eve\n{TEAM + 1}:x:42:{EVE}\n"}}),
        "volume-code": (["VOLUME /workspace"], {"files": {"/workspace/evil": evil}}),
        "volume-home": ([f"VOLUME /home/{EVE}"], {}),
        "volume-in-code": (["VOLUME /workspace/evil"], {}),
        "volume-init": (["VOLUME /sbin"], {"files": {"/sbin/docker-init": evil}}),
        "volume-gate": (["VOLUME /.runners"], {"files": {"/.runners/sh": evil}}),
        "volume-word": (["VOLUME /.runners/go"], {}),
        "link-gate": (["VOLUME /foo"], {"files": {"/foo/sh": evil}, "links": {"/.runners": "/foo"}}),
        "link-storage": ([], {"links": {"/storage": "/workspace/evil"}}),
        "link-home": ([], {"links": {"/home": "/workspace"}}),
        "link-code": ([], {"links": {"/workspace": "/storage/data/evil"}}),
        "link-etc": ([], {"links": {"/workspace": "/etc/evil"}}),
        "shell": ([], {"files": {"/bin/sh": evil}}),
    }  # fmt: skip
    for name, (changes, more) in images.items():
        engine.import_image(f"evil/{name}:1", changes, **more)
    plain = engine.docker("create", SHELL, "true").stdout.strip()
    labels = {"Labels": {"big": "x" * (600 << 10)}}
    assert engine.api("POST", f"/commit?container={plain}&repo=evil/label&tag=1", labels).status == 201
    engine.api("DELETE", f"/containers/{plain}")
    engine.import_image("evil/nodes:1", nodes={"/nodes/nvidia1": (195, 1, "c"), "/nodes/disk": (254, 0, "b")})


@dataclass
class Outcomes:
    """What became of every case."""

    jobs: Mapping[str, Any]

    def out(self, name: str, stream: str = "stdout") -> str:
        """What its job wrote."""
        logs = self.jobs[name].get("logs")  # none, where there was no attempt
        path = Path(logs[stream]) if logs else None
        return path.read_text(errors="replace") if path is not None and path.exists() else ""


@pytest.fixture(scope="module")
def outcomes(hostile: Lab, ground: Path) -> Outcomes:
    """Every case submitted by eve, and over."""
    make_images(hostile.engine)
    places = {"GROUND": str(ground), "STATE": str(hostile.daemon.state)}

    def placed(value: Any) -> Any:
        if isinstance(value, str):
            return re.sub("GROUND|STATE", lambda found: places[found[0]], value)
        if isinstance(value, list):
            return [placed(one) for one in value]
        return value

    ids = {}
    with Somebody(hostile.daemon, EVE, groups=[TEAM]) as eve:
        for name, case in CASES.items():
            job = {"command": f"echo {EVIL} > evil; echo {EVIL} > /evil; {PEEK}", **case.job}
            job = {key: placed(value) for key, value in job.items()}
            env = {key: placed(value) for key, value in case.env.items()}
            (ids[name],) = eve.submit({**CONTAINER, **job}, cwd=placed(case.cwd), env=env)
    return Outcomes(dict(zip(ids, hostile.daemon.wait(*ids.values(), patience=240.0), strict=True)))


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_job_does_no_harm(lab: Lab, outcomes: Outcomes, name: str) -> None:
    job, case = outcomes.jobs[name], CASES[name]
    out = outcomes.out(name)
    if case.never is not None:
        assert (job["state"], job["reason"]["code"]) == ("failed", "launch_failed"), (job["reason"], out)
        assert re.search(case.never, job["reason"]["text"]), job["reason"]["text"]
        assert out == ""
    else:
        assert job["state"] == case.state, (job["reason"], out, outcomes.out(name, "stderr"))
        assert case.out is None or re.fullmatch(case.out, out), out
    assert SECRET not in out and EVIL not in out
    assert EVIL not in job["reason"]["text"] and SECRET not in str(job)


def test_a_job_has_no_card_that_it_did_not_reserve(lab: Lab, outcomes: Outcomes) -> None:
    for name, job in outcomes.jobs.items():
        opened = set(re.findall(r"nvidia(\d)=6", outcomes.out(name)))  # ENXIO: the node may be opened
        assert opened == {str(CARDS[uuid]) for attempt in job["attempts"] for uuid in attempt["gpus"]}, name


def test_nothing_was_made_on_the_host_that_eve_could_not_have_made(lab: Lab, outcomes: Outcomes, ground: Path) -> None:
    by_owner = {str(path.relative_to(ground)): path.lstat().st_uid for path in ground.rglob("*")}
    of_root = {path for path, uid in by_owner.items() if uid == 0}
    assert {path for path in of_root if not re.search(r"/to-|pipe$|socket$|secret$|only-read/file$", path)} == set()
    assert not [path for path in by_owner if "evil" in path and by_owner[path] != EVE]
    assert not [path for path in by_owner if path.startswith(("bob/", "only-read/")) and "evil" in path]
    assert not os.path.exists("/evil") and not os.path.exists("/etc/evil")


def test_nothing_is_left_of_them(lab: Lab, outcomes: Outcomes) -> None:
    lab.clean()
    volumes = lab.engine.api("GET", "/volumes").json["Volumes"] or []
    assert volumes == []
