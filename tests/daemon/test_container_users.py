"""Two users without rights and a daemon that runs as root: what is one's stays out of the other's reach."""

from __future__ import annotations

import grp
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from daemon.containers import CONTAINER, Lab
from daemon.somebody import Refused, Somebody, at_a_shell
from engine import SHELL, Engine, Hang, Proxy
from harness.daemon import Daemon, eventually
from runnersd.environment import PRIVILEGED_GROUPS

ADA, BOB, TEAM = 61001, 61002, 61003
SECRETS = {"COMET_API_KEY": "comet-s3cret", "TOKEN": "env-s3cret"}
#: Runs until its code directory has a file `stop`.
UNTIL_STOP = "echo out-s3cret; while [ ! -e stop ]; do sleep 0.1; done"


@pytest.fixture
def ground(lab: Lab) -> Iterator[Path]:
    """A folder of each, open (`ada`, `bob`) and shut (`ada/private`, `bob/private`), and one of their team's."""
    with tempfile.TemporaryDirectory(prefix="users-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        for name, uid, gid, mode in (
            ("ada", ADA, ADA, 0o755), ("ada/private", ADA, ADA, 0o700), ("ada/private/deep", ADA, ADA, 0o755),
            ("bob", BOB, BOB, 0o755), ("bob/private", BOB, BOB, 0o700), ("bob/private/deep", BOB, BOB, 0o755),
            ("team", BOB, TEAM, 0o2770),
        ):  # fmt: skip
            (folder / name).mkdir()
            os.chown(folder / name, uid, gid)
            (folder / name).chmod(mode)
        for name in ("ada/private", "ada/private/deep", "bob/private", "bob/private/deep"):
            (folder / name / "secret").write_text("file-s3cret")
        yield folder


@pytest.fixture
def ada(lab: Lab) -> Iterator[Somebody]:
    """One of the two, also in groups that would give her the machine."""
    numbers = [group.gr_gid for group in grp.getgrall() if group.gr_name in PRIVILEGED_GROUPS]
    with Somebody(lab.daemon, ADA, groups=[TEAM, *numbers]) as somebody:
        yield somebody


@pytest.fixture
def bob(lab: Lab) -> Iterator[Somebody]:
    """The other."""
    with Somebody(lab.daemon, BOB) as somebody:
        yield somebody


def job(**keys: Any) -> dict[str, Any]:
    return {**CONTAINER, "name": "a", "command": UNTIL_STOP, **keys}


def outcome(lab: Lab, id: int) -> tuple[str, str]:
    """How it ended, and all that it wrote to stdout."""
    (ended,) = lab.daemon.wait(id)
    assert ended["state"] in ("succeeded", "failed")
    return ended["reason"]["text"] if ended["reason"]["code"] == "launch_failed" else ended["state"], lab.out(id)


def test_nobody_sees_or_changes_what_is_anothers(lab: Lab, ground: Path, ada: Somebody, bob: Somebody) -> None:
    (id,) = ada.submit(job(env={"INNER": "inner-s3cret"}), cwd=ground / "ada", env=SECRETS)
    lab.until_out(id, "out-s3cret\n")

    seen = [bob.call("job", id), bob.call("status"), bob.call("status", all=True), bob.call("jobs"), bob.call("gpus"),
            bob.call("jobs_of", "p1") if lab.daemon.job(id)["pipeline"] == "p1" else None]  # fmt: skip
    assert "s3cret" not in str(seen).replace("echo out-s3cret", "")  # commands are everybody's to see
    assert {"env"} & seen[0]["spec"].keys() == set() and "logs" not in seen[0]
    for method, arguments in [
        ("logs", [id]), ("cancel", [id]), ("hold", [id]), ("release", [id]), ("retry", [id]), ("signal", [id, 9]),
        ("update", [id, {"time_limit": 1}]), ("update", [id, {"name": "mine"}]), ("update", [id, {"image": SHELL}]),
        ("cancel", [lab.daemon.job(id)["pipeline"]]), ("drain", ["0"]), ("pause", []), ("shutdown", []),
    ]:  # fmt: skip
        with pytest.raises(Refused) as refused:
            bob.call(method, *arguments)
        assert refused.value.status == 403, method

    assert ada.call("logs", id) == "out-s3cret\n"
    assert ada.call("job", id)["spec"]["env"] == {"INNER": "inner-s3cret"}
    ada.call("cancel", id, now=True)
    assert lab.daemon.wait(id)[0]["state"] == "cancelled"


def test_nor_by_way_of_the_machine(lab: Lab, ground: Path, ada: Somebody) -> None:
    """Her processes, the daemon's files and the engine's, from a shell and from a container of bob's."""
    (id,) = ada.submit(job(), cwd=ground / "ada", env=SECRETS)
    lab.until_out(id, "out-s3cret\n")
    pids = lab.engine.pids(lab.container(id))
    logs = lab.daemon.job(id)["logs"]["stdout"]
    gate = lab.daemon.state / "gates"
    (word,) = gate.glob("*/go")
    for path in (*(f"/proc/{pid}/environ" for pid in pids), *(f"/proc/{pid}/root/." for pid in pids), logs,
                 lab.daemon.state / "runnersd.db", gate, word, lab.engine.directory / "data"):  # fmt: skip
        reading = at_a_shell(BOB, 'ls -a "$1" && cat "$1"', path)
        assert reading.returncode != 0 and reading.stdout.strip() in ("", str(path)), (path, reading)
    assert at_a_shell(BOB, 'echo go > "$1"', word).returncode != 0
    assert at_a_shell(ADA, 'echo go > "$1"', word).returncode != 0  # not even her own

    peek = f"ls {lab.daemon.state} {gate} {logs} 2>/dev/null; ls /proc | grep '^[0-9]' | wc -l; kill -9 -1; true"
    with Somebody(lab.daemon, BOB) as bob:
        (other,) = bob.submit(job(command=["sh", "-c", peek]), cwd=ground / "bob")
        said = outcome(lab, other)[1]
    assert said == "" or int(said) < 10
    assert lab.engine.pids(lab.container(id))[:2] == pids[:2]  # the init and the payload, not its last `sleep`
    (ground / "ada" / "stop").touch()
    assert outcome(lab, id)[0] == "succeeded"


@pytest.mark.parametrize("way", ["cwd", "link", "data", "link in data", "mount", "linked mount", "a file"])
def test_nobody_mounts_what_they_cannot_read(lab: Lab, ground: Path, bob: Somebody, way: str) -> None:
    theirs = ground / "ada" / "private" / "deep"
    link = ground / "bob" / "link"
    link.symlink_to(theirs)
    keys: dict[str, Any] = {"command": "cat secret $DATA_DIRECTORY/secret /x/secret /x; true"}
    env, cwd = {}, ground / "bob"
    match way:
        case "cwd":
            cwd = theirs
        case "link":
            cwd = link
        case "data" | "link in data":
            env = {"DATA_DIRECTORY": str(theirs if way == "data" else link)}
        case "mount" | "linked mount":
            keys["mounts"] = [f"{theirs if way == 'mount' else link}:/x"]
        case "a file":
            keys["mounts"] = [f"{ground}/ada/private/secret:/x"]
    with lab.configured(containers={"allowed_mounts": [str(ground)]}):
        (id,) = bob.submit(job(**keys), cwd=cwd, env=env)
        why, out = outcome(lab, id)
    assert "Permission denied, for the submitter" in why
    assert out == ""


def test_who_can_read_it_mounts_it(lab: Lab, ground: Path, ada: Somebody, bob: Somebody) -> None:
    """One's own, by a link too; and the team's, by a supplementary group."""
    (ground / "ada" / "link").symlink_to(ground / "ada" / "private" / "deep")
    (mine,) = ada.submit(job(command="cat secret"), cwd=ground / "ada" / "link")
    (teams,) = ada.submit(job(command="echo hers > made; cat made"), cwd=ground / "team", umask=0o007)
    assert outcome(lab, mine) == ("succeeded", "file-s3cret")
    assert outcome(lab, teams) == ("succeeded", "hers\n")
    made = (ground / "team" / "made").stat()
    assert (made.st_uid, made.st_gid, made.st_mode & 0o777) == (ADA, TEAM, 0o660)


def test_files_belong_to_who_submitted_and_groups_are_sifted(
    lab: Lab, ground: Path, ada: Somebody, bob: Somebody
) -> None:
    command = "mkdir -p made/deep; echo x > made/deep/file; id -u; id -g; id -G"
    ids = [who.submit(job(command=command), cwd=ground / name)[0] for who, name in ((ada, "ada"), (bob, "bob"))]
    for id, uid, name, more in zip(ids, (ADA, BOB), ("ada", "bob"), ([TEAM], []), strict=True):
        state, out = outcome(lab, id)
        assert state == "succeeded"
        user, group, groups = out.splitlines()
        assert (user, group) == (str(uid), str(uid))
        assert sorted(map(int, groups.split())) == sorted({uid, *more})
        for path in ("made", "made/deep", "made/deep/file"):
            found = (ground / name / path).stat()
            assert (found.st_uid, found.st_gid) == (uid, uid)


def test_after_newgrp_a_group_that_has_the_machine_is_not_the_containers(lab: Lab, ground: Path) -> None:
    docker = next(group for group in grp.getgrall() if group.gr_name in ("docker", "disk", "sudo")).gr_gid
    with Somebody(lab.daemon, ADA, gid=docker, groups=[docker, TEAM]) as ada:
        (id,) = ada.submit(job(command="id -g; id -G; touch made"), cwd=ground / "ada")
    state, out = outcome(lab, id)
    assert state == "succeeded"
    assert str(docker) not in out.split()
    assert (ground / "ada" / "made").stat().st_gid != docker


def test_secrets_are_nowhere_but_in_the_environment(lab: Lab, ground: Path, ada: Somebody) -> None:
    (id,) = ada.submit(job(env={"INNER": "inner-h1dden"}, command="while [ ! -e stop ]; do sleep 0.1; done"),
                       cwd=ground / "ada", env={"COMET_API_KEY": "comet-h1dden", "TOKEN": "env-h1dden"})  # fmt: skip
    eventually("it runs", lambda: lab.daemon.job(id)["state"] == "running")
    inspected = lab.inspect(id)
    environment = inspected["Config"].pop("Env")
    assert {"COMET_API_KEY=comet-h1dden", "INNER=inner-h1dden"} <= set(environment)
    assert not [one for one in environment if "env-h1dden" in one]
    arguments = [Path(f"/proc/{pid}/cmdline").read_text() for pid in lab.engine.pids(lab.container(id))]
    listed = lab.engine.api("GET", "/containers/json?all=1").json
    runs = [path.read_text(errors="replace") for path in (lab.daemon.state / "runs").rglob("*") if path.is_file()]
    log = lab.daemon.log.read_text()
    assert "h1dden" not in str([inspected, arguments, listed, runs, log])
    (ground / "ada" / "stop").touch()
    assert outcome(lab, id)[0] == "succeeded"


def test_the_sockets_group_lets_its_members_in_and_nobody_else(docker_engine: Engine, tmp_path: Path) -> None:
    group = next(group for group in grp.getgrall() if group.gr_name in ("users", "staff", "games"))
    config = {
        "socket": {"group": group.gr_name},
        "containers": {"socket": str(docker_engine.socket), "network": "none"},
    }
    with tempfile.TemporaryDirectory(prefix="group-") as made:
        Path(made).chmod(0o755)
        daemon = Daemon(Path(made) / "d", config=config)
        daemon.socket.parent.chmod(0o711)
        with daemon:
            with Somebody(daemon, BOB) as bob, pytest.raises(Refused, match="NotAllowed|DaemonUnreachable"):
                bob.call("health")
            with Somebody(daemon, ADA, groups=[group.gr_gid]) as ada:
                (id,) = ada.submit(job(command="id -u"), cwd=made)
                (ended,) = daemon.wait(id)
            assert (ended["state"], ended["uid"]) == ("succeeded", ADA)


# -- between the look and the start ----------------------------------------------------------------------------------------


@pytest.fixture
def proxied(docker_engine: Engine, tmp_path: Path) -> Iterator[tuple[Lab, Proxy]]:
    """A daemon whose calls to the engine can be held."""
    folder = Path(tempfile.mkdtemp(prefix="swap-"))
    folder.chmod(0o755)
    with Proxy(tmp_path / "proxy.sock", docker_engine.socket) as proxy:
        lab = Lab(docker_engine, folder, socket=proxy.socket)
        lab.start()
        try:
            yield lab, proxy
            lab.clean()
        finally:
            proxy.clear()
            lab.daemon.stop()


@contextmanager
def held_start(proxy: Proxy) -> Iterator[None]:
    """The next container is made and not yet started while the block runs."""
    hang = proxy.fault("POST", "/containers/*/start", Hang(), times=1)
    try:
        yield
    finally:
        hang.lift()


@pytest.mark.parametrize("image", [SHELL, "evil/reader:1"])
def test_a_directory_swapped_before_the_start_is_seen_before_the_payload_runs(
    proxied: tuple[Lab, Proxy], ground: Path, image: str
) -> None:
    """The engine mounts what has the name by then: bob's private files. Not even an image's own shell gets at them."""
    lab, proxy = proxied
    thief = '#!/bin/busybox sh\n/bin/busybox cp /workspace/secret $DATA_DIRECTORY/stolen\nexec /bin/busybox sh "$@"\n'
    lab.engine.import_image("evil/reader:1", files={"/bin/sh": thief})
    mine, loot = ground / "ada" / "mine", ground / "ada" / "loot"
    for path in (mine, loot):
        path.mkdir()
        os.chown(path, ADA, ADA)
    with Somebody(lab.daemon, ADA) as ada, held_start(proxy):
        env = {"DATA_DIRECTORY": str(loot)}
        (id,) = ada.submit(job(command="cat secret > $DATA_DIRECTORY/stolen", image=image), cwd=mine, env=env)
        eventually("its start is asked for", lambda: proxy.calls("POST", "/containers/*/start"))
        mine.rename(ground / "ada" / "away")
        mine.symlink_to(ground / "bob" / "private" / "deep")
    why, out = outcome(lab, id)
    assert f"is not {mine} as it was looked up" in why
    assert out == "" and list(loot.iterdir()) == []


def test_a_place_swapped_before_the_start_is_seen(proxied: tuple[Lab, Proxy], ground: Path) -> None:
    """Where a mount lies within another, a link put in its place would have it elsewhere."""
    lab, proxy = proxied
    code = ground / "ada" / "code"
    (code / "in").mkdir(parents=True)
    for path in (code, code / "in"):
        os.chown(path, ADA, ADA)
    with (
        lab.configured(containers={"allowed_mounts": [str(ground)], "socket": str(proxy.socket), "network": "none"}),
        Somebody(lab.daemon, ADA) as ada,
    ):
        with held_start(proxy):
            mounts = [f"{ground}/ada/private:/workspace/in"]
            (id,) = ada.submit(job(command="echo ran", mounts=mounts), cwd=code)
            eventually("its start is asked for", lambda: proxy.calls("POST", "/containers/*/start"))
            (code / "in").rmdir()
            (code / "in").symlink_to("/tmp")
        why, out = outcome(lab, id)
    assert "is mounted at /tmp and not at /workspace/in" in why
    assert out == ""


def test_a_gate_opens_for_its_own_container_when_the_daemon_says_so(proxied: tuple[Lab, Proxy], ground: Path) -> None:
    """Whoever its owner is, and whatever runs beside it: before that nothing of the payload runs."""
    lab, proxy = proxied
    code = ground / "ada"
    with Somebody(lab.daemon, ADA) as ada:
        # Held once it has started and waits: the look at it afterwards.
        first = proxy.fault("GET", "/containers/*/json", Hang(after_effect=True), skip=1, times=1)
        (id,) = ada.submit(job(command="echo ran > ran"), cwd=code)
        eventually("it waits at its gate", lambda: lab.engine.pids(lab.container(id)) if id in lab.containers() else [])
        (word,) = (lab.daemon.state / "gates").glob("*/go")
        assert at_a_shell(ADA, 'echo go > "$1"', word).returncode != 0
        assert at_a_shell(ADA, 'kill -CONT -1; ls "$1"', word.parent).returncode != 0
        assert not (code / "ran").exists()
        first.lift()
        assert outcome(lab, id)[0] == "succeeded"
    assert (code / "ran").stat().st_uid == ADA
