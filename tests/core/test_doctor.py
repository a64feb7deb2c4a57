"""`runnersd doctor`: what is made of what was seen. A machine with nothing wrong, and then one thing wrong at a time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.pages import rows, section, text_of, words_in
from runnersd.config import Config, ContainersConfig, DirectoriesConfig, NotifyConfig, Paths, SmtpConfig
from runnersd.doctor import containers, report
from runnersd.doctor.examination import examine
from runnersd.doctor.facts import (
    Card,
    CardFacts,
    DaemonFacts,
    Driver,
    EngineFacts,
    EngineInfo,
    EngineVersion,
    Facts,
    LockFacts,
    PeopleFacts,
    PlaceFacts,
    SocketFile,
    Unseen,
)
from runnersd.doctor.finding import Finding, Level, failure, ok, warning
from runnersd.doctor.versions import HOLES, check_version, is_mended, parse, parse_api
from runnersd.machine.docker import connection

GIB = 1 << 30
PATHS = Paths(
    Path("/etc/runners/runnersd.yml"), Path("/run/runners/s"), Path("/var/lib/runners"), Path("/run/lock/runners")
)


def place(path: str = "/var/lib/runners", **keys: Any) -> PlaceFacts:
    found = {"there": path, "file_system": "ext4", "writable": True, "free": 100 * GIB, "total": 400 * GIB, **keys}
    return PlaceFacts(path, **found)


COMPONENTS = {"engine": "29.5.1", "containerd": "v2.2.5", "runc": "1.3.4", "docker-init": "0.19.0"}
INFO = EngineInfo(
    cgroup_driver="systemd",
    live_restore=True,
    logging="json-file",
    logging_drivers=("json-file", "local"),
    runtimes=("runc", "nvidia"),
    default_runtime="runc",
    cdi_directories=("/etc/cdi",),
    devices=("nvidia.com/gpu=all", "nvidia.com/gpu=GPU-1f"),
    security=("name=apparmor", "name=seccomp,profile=builtin"),
    root="/var/lib/docker",
)
HEALTHY = Facts(
    config=Config(
        system=True,
        paths=PATHS,
        containers=ContainersConfig(image="lab/torch"),
        directories=DirectoriesConfig(data="/srv/data"),
    ),
    config_file=True,
    config_problem=None,
    root=True,
    cards=CardFacts("550.54.15", 2, Driver("550.54.15", (Card("H100", True), Card("H100", True))), True),
    engine=EngineFacts(
        "/var/run/docker.sock",
        SocketFile(0, 999, 0o660, "docker"),
        EngineVersion("29.5.1", "1.52", "1.44", COMPONENTS),
        INFO,
        toolkit="1.19.1",
        image=True,
    ),
    daemon=DaemonFacts("0.1.0", 7),
    daemon_socket=SocketFile(0, 998, 0o660, "runners"),
    people=PeopleFacts({"runners": True, "runners-operators": True}, ("runners",), "root"),
    locks=LockFacts(place("/run/lock/runners", file_system="tmpfs"), 0o1777, 0),
    places={"state": place(), "data": place("/srv/data"), "docker": place("/var/lib/docker")},
    cgroup="v2",
    sqlite="3.51.3",
    open_files=65536,
    kernel="6.1.0",
)


def findings(facts: Facts) -> list[Finding]:
    return [one for _group, found in examine(facts) for one in found]


def found(facts: Facts, check: str) -> Finding:
    [one] = [one for one in findings(facts) if one.check == check]
    return one


def engine(**keys: Any) -> Facts:
    return replace(HEALTHY, engine=replace(HEALTHY.engine, **keys))


def info(**keys: Any) -> Facts:
    return engine(info=replace(INFO, **keys))


def version(**keys: Any) -> Facts:
    return engine(
        version=EngineVersion(
            **{"version": "29.5.1", "api": "1.52", "oldest_api": "1.44", "components": COMPONENTS, **keys}
        )
    )


def cards(**keys: Any) -> Facts:
    return replace(HEALTHY, cards=replace(HEALTHY.cards, **keys))


def driver(**keys: Any) -> Facts:
    return cards(nvml=Driver(**keys))


def places(**keys: Any) -> Facts:
    return replace(HEALTHY, places={**HEALTHY.places, **keys})


def locks(**keys: Any) -> Facts:
    return replace(HEALTHY, locks=LockFacts(**{"place": HEALTHY.locks.place, "mode": 0o1777, "uid": 0, **keys}))


def as_user(facts: Facts, **keys: Any) -> Facts:
    return replace(facts, config=replace(facts.config, system=False), root=False, **keys)


def mailing(password: int | Unseen | None) -> Facts:
    smtp = SmtpConfig("mail.lab", user="gpu", password_file="/etc/runners/mail")
    config = replace(HEALTHY.config, notify=NotifyConfig(smtp=smtp))
    return replace(HEALTHY, config=config, mail_password=password)


def people(**keys: Any) -> Facts:
    return replace(HEALTHY, people=replace(HEALTHY.people, **keys))


def test_nothing_is_wrong_with_a_healthy_machine() -> None:
    assert [one for one in findings(HEALTHY) if one.level is not Level.OK] == []
    assert not [one for one in findings(HEALTHY) if one.fix]


def test_a_password_of_the_daemons_own_is_not_spoken_of() -> None:
    assert findings(mailing(0o600)) == findings(HEALTHY) == findings(mailing(None))


def test_a_laptop_has_warnings_and_no_failure() -> None:
    """Neither cards, nor Docker, nor groups, and the daemon is the user's own."""
    laptop = as_user(
        HEALTHY,
        config_file=False,
        cards=CardFacts(nvml=Driver(absent="libnvidia-ml.so.1 is not found")),
        engine=EngineFacts("/var/run/docker.sock", *[Unseen("no such file or directory")] * 3),
        daemon=Unseen("no such file or directory"),
        daemon_socket=Unseen("no such file or directory"),
        people=PeopleFacts({}, Unseen("no such file or directory"), "ada"),
        cgroup="hybrid",
        open_files=1024,
    )
    levels = {one.check: one.level for one in findings(laptop) if one.level is not Level.OK}
    assert levels == dict.fromkeys(("daemon", "driver", "engine", "open-files", "cgroup"), Level.WARNING)
    assert found(laptop, "daemon").fix == ("runners-client up",)


CASES: list[tuple[Facts, str, Level, str, str]] = [
    # what is so, the check that says it, how bad it is, words of the text, words of the first mend
    (replace(HEALTHY, config_problem="cannot use x: 1 problem"), "config", Level.FAILURE, "1 problem", "--check-config"),
    (replace(HEALTHY, daemon=Unseen("no such file")), "daemon", Level.WARNING, "no daemon answers", "systemctl enable"),
    # the cards
    (cards(module=None, on_bus=2, nvml=Driver(absent="not loaded")), "driver", Level.WARNING, "2 NVIDIA cards", "nvidia-driver"),
    (cards(module=None, on_bus=0, nvml=Driver(absent="not loaded")), "driver", Level.WARNING, "no NVIDIA card", ""),
    (driver(absent="libnvidia-ml.so.1 is not found"), "nvml", Level.FAILURE, "loaded, but libnvidia-ml", "libnvidia-ml1"),
    (driver(absent="nvidia-ml-py is not installed"), "nvml", Level.FAILURE, "nvidia-ml-py", "nvidia-smi"),
    (driver(error="mismatch", mismatch=True), "nvml", Level.FAILURE, "changed under the running one", "pause"),
    (driver(error="it has not answered for 30 s"), "nvml", Level.FAILURE, "has not answered", "dmesg"),
    (driver(version="550.54.15"), "nvml", Level.WARNING, "shows no card", "lspci"),
    (cards(nvml=Unseen("no answer in 32 s")), "nvml", Level.WARNING, "no answer in 32 s", ""),
    (driver(version="1", cards=(Card("A", True), Card("A", False))), "persistence", Level.WARNING, "off on card 1:", "persistenced"),
    (driver(version="1", cards=(Card("A", False),)), "persistence", Level.WARNING, "off on every card", "persistenced"),
    # the engine
    (engine(file=Unseen("no such file or directory")), "engine", Level.WARNING, "on the host only", "docker"),
    (engine(info=Unseen("no answer in 8 s")), "engine", Level.FAILURE, "does not answer: no answer in 8 s", "systemctl status"),
    (engine(version=Unseen("connection refused")), "engine", Level.FAILURE, "connection refused", "systemctl status"),
    (engine(version=Unseen("permission denied")), "engine", Level.WARNING, "permission denied", ""),
    (version(components={"podman engine": "5.0"}), "engine", Level.WARNING, "Podman", ""),
    (version(api="1.39", oldest_api="1.12"), "api", Level.FAILURE, "1.40 (Docker 19.03) is the oldest", "apt-get"),
    (version(api="1.60", oldest_api="1.55"), "api", Level.FAILURE, "1.51 is the newest", "pip install"),
    (version(version="20.10.17"), "dockerd", Level.FAILURE, "CVE-2022-36109", "docker-ce"),
    (version(version="28.5.2"), "dockerd", Level.WARNING, "docker cp", "docker-ce"),
    (version(version="20.10.17+dfsg1"), "dockerd", Level.WARNING, "security tracker", "docker.io"),
    (version(version="dev"), "dockerd", Level.WARNING, "cannot tell its version from 'dev'", ""),
    (version(components={**COMPONENTS, "runc": "1.3.2"}), "runc", Level.FAILURE, "mended in 1.2.8, 1.3.3", "containerd.io"),
    (version(components={**COMPONENTS, "runc": "1.1.5+ds1"}), "runc", Level.WARNING, "security tracker", "upgrade runc"),
    (version(components={**COMPONENTS, "containerd": "v2.1.4"}), "containerd", Level.FAILURE, "CVE-2024-25621", "containerd.io"),
    (version(components={"engine": "29.5.1"}), "docker-init", Level.FAILURE, "no job can start", "tini"),
    (engine(toolkit="1.17.7"), "nvidia-container-toolkit", Level.FAILURE, "CVE-2025-23266", "nvidia-container-toolkit"),
    (engine(shell=False), "gate-shell", Level.WARNING, "a hostile image's own may run", "apt-get install busybox-static"),
    (info(security=()), "seccomp", Level.WARNING, "filters no system calls", "#"),
    (info(security=("name=seccomp,profile=unconfined",)), "seccomp", Level.WARNING, "filters no", "#"),
    (info(warnings=("WARNING: API is accessible on http://0.0.0.0:2375 without encryption.",)), "engine-tcp", Level.FAILURE, "without TLS", "# remove -H"),
    (info(runtimes=("nvidia",)), "runtime", Level.FAILURE, "no runtime `runc`", "systemctl"),
    (info(live_restore=False), "live-restore", Level.WARNING, "ends every running container", '# add "live-restore": true'),
    (info(live_restore=False, swarm=True), "live-restore", Level.WARNING, "beside swarm", "swarm leave"),
    (info(logging_drivers=("json-file", "syslog")), "logging", Level.FAILURE, "the engine has json-file, syslog", "systemctl"),
    (info(memory_limit=False, pids_limit=False), "limits", Level.WARNING, "memory and processes", "# add cgroup_enable"),
    (engine(info=replace(INFO, devices=(), runtimes=("runc",)), toolkit=None), "gpu-path", Level.WARNING, "cannot pass cards", "apt-get install nvidia-container"),
    (info(devices=(), runtimes=("runc",)), "gpu-path", Level.WARNING, "installed, but the engine does not use it", "nvidia-ctk"),
    (engine(info=replace(INFO, devices=()), toolkit="1.19.1"), "gpu-reload", Level.OK, "links in /dev/char", ""),
    (engine(image=False), "image", Level.WARNING, "is not there", "docker pull lab/torch"),
    (engine(image=Unseen("no answer in 8 s")), "image", Level.WARNING, "cannot tell", ""),
    # people
    (people(groups={"runners": False, "runners-operators": True}), "users", Level.WARNING, "only root can connect", "groupadd --system runners"),
    (people(groups={"runners": True, "runners-operators": False}), "operators", Level.WARNING, "`runners-operators`", "groupadd"),
    (people(groups=Unseen("no answer in 5 s")), "users", Level.WARNING, "no answer", ""),
    (people(docker=("ada", "root", "runners")), "engine-group", Level.WARNING, "ada is in the group `docker`", "gpasswd --delete ada docker"),
    (people(docker=("ada", "bob")), "engine-group", Level.WARNING, "ada, bob are in", "gpasswd --delete ada docker"),
    (people(docker=tuple("abcdefg")), "engine-group", Level.WARNING, "and 2 more", "gpasswd"),
    (people(docker=Unseen("no answer in 5 s")), "engine-group", Level.WARNING, "cannot tell", ""),
    (engine(file=SocketFile(0, 999, 0o666, "docker")), "engine-rights", Level.FAILURE, "open to everybody", "chmod o= /var/run/docker.sock"),
    (replace(HEALTHY, daemon_socket=SocketFile(0, 0, 0o777, "root")), "socket-rights", Level.FAILURE, "open to everybody", "chmod o= /run/runners/s"),
    # places
    (places(state=place(file_system="nfs4", network=True)), "state", Level.FAILURE, "network file system (nfs4)", "#"),
    (places(state=place(writable=False)), "state", Level.FAILURE, "no permission", "ls -ld"),
    (places(state=Unseen("no answer in 5 s")), "state", Level.FAILURE, "no answer", ""),
    (places(state=place(free=GIB)), "disk-state", Level.FAILURE, "nothing starts", "find /var/lib/runners/runs"),
    (places(state=place(free=3 * GIB)), "disk-state", Level.WARNING, "little", "du"),
    (places(docker=place("/var/lib/docker", free=GIB)), "disk-docker", Level.WARNING, "below 2GiB", "docker system prune"),
    (places(docker=place("/var/lib/docker", free_inodes=5, total_inodes=1000)), "disk-docker", Level.WARNING, "room for 5 more files", "du --inodes"),
    (places(data=place("/srv/data", there="/srv")), "disk-data", Level.WARNING, "there is no /srv/data", "mkdir -p /srv/data"),
    (places(data=Unseen("no answer in 5 s")), "disk-data", Level.WARNING, "cannot look", ""),
    (locks(mode=0o755), "locks", Level.WARNING, "not 1777", "install -d -m 1777"),
    (locks(uid=1000), "locks", Level.WARNING, "uid 1000", "install -d"),
    (locks(place=place("/run/lock/runners", writable=False)), "locks", Level.FAILURE, "no permission", "install -d -m 1777"),
    (locks(place=place("/run/lock/runners", there="/run/lock", writable=False)), "locks", Level.FAILURE, "cannot make", "install -d"),
    (locks(place=place("/mnt/locks", file_system="nfs", network=True)), "locks", Level.FAILURE, "network", "# set RUNNERS_LOCK_DIR"),
    (locks(place=Unseen("not a directory")), "locks", Level.FAILURE, "not a directory", ""),
    (replace(HEALTHY, open_files=1024), "open-files", Level.WARNING, "1024 open files of the daemon", "# set LimitNOFILE"),
    (replace(HEALTHY, open_files=Unseen("gone")), "open-files", Level.WARNING, "gone", ""),
    (replace(HEALTHY, cgroup="v1"), "cgroup", Level.WARNING, "version 1: works", "# add systemd.unified"),
    (replace(HEALTHY, cgroup="hybrid"), "cgroup", Level.WARNING, "version 1 beside 2", "# add"),
    (replace(HEALTHY, cgroup=Unseen("x")), "cgroup", Level.WARNING, "cannot tell", ""),
    (replace(HEALTHY, pidfd=False, kernel="5.2"), "kernel", Level.FAILURE, "5.3 is the oldest", "apt-get"),
    (replace(HEALTHY, sqlite="3.40.1"), "sqlite", Level.OK, "the daemon has one", ""),
    (replace(HEALTHY, sqlite="3.7.17"), "sqlite", Level.FAILURE, "3.31.0 is the oldest", "#"),
    (mailing(0o644), "mail-password", Level.WARNING, "others may read /etc/runners/mail", "chmod 600 /etc/runners/mail"),
    (mailing(Unseen("No such file")), "mail-password", Level.WARNING, "no mail can be sent: ", "ls -l /etc/runners/mail"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "check", "level", "text", "fix"), CASES, ids=[f"{one[1]}: {one[3]}" for one in CASES]
)
def test_one_thing_is_wrong(facts: Facts, check: str, level: Level, text: str, fix: str) -> None:
    said = found(facts, check)
    assert said.level is level, said
    assert text in said.text
    assert fix in (said.fix[0] if said.fix else "")
    assert bool(said.fix) == bool(fix), "a mend is there exactly where the case names one"


def test_cards_are_lost_at_a_daemon_reload_only_where_a_hook_brings_them() -> None:
    """systemd's cgroups, the NVIDIA runtime, no CDI and no links: PITFALL of every default installation."""
    bare = replace(cards(linked=False), engine=replace(HEALTHY.engine, info=replace(INFO, devices=())))
    said = found(bare, "gpu-reload")
    assert said.level is Level.FAILURE
    assert "nvidia-ctk cdi generate" in said.fix[0]

    def level(**keys: Any) -> Level:
        assert isinstance(bare.engine.info, EngineInfo)
        return found(
            replace(bare, engine=replace(bare.engine, info=replace(bare.engine.info, **keys))), "gpu-reload"
        ).level

    assert level(cgroup_driver="cgroupfs") is Level.OK
    assert level(devices=("nvidia.com/gpu=GPU-1f",)) is Level.OK
    assert level(devices=("vendor.com/nic=0", "nvidia.com/gpu=0")) is Level.FAILURE, "jobs ask by UUID"
    older = replace(bare, engine=replace(bare.engine, info=replace(INFO, devices=()), cdi_files=("/etc/cdi/a.yaml",)))
    assert found(older, "gpu-reload").level is Level.OK
    without = replace(bare, engine=replace(bare.engine, info=replace(INFO, devices=(), runtimes=("runc",))))
    assert not [one for one in findings(without) if one.check == "gpu-reload"], "no card comes at all"
    hooked = replace(without, engine=replace(without.engine, hook=True))
    assert found(hooked, "gpu-reload").level is Level.FAILURE
    none = replace(bare, cards=CardFacts(nvml=Driver(absent="not loaded")))
    assert not [one for one in findings(none) if one.check in ("gpu-reload", "gpu-path", "nvml")]


def test_the_versions_of_the_api_are_the_launchers() -> None:
    assert containers.API == (connection.OLDEST, connection.NEWEST)


def test_a_user_may_be_in_the_engines_group_for_a_daemon_of_their_own() -> None:
    mine = as_user(people(docker=("ada",), me="ada"))
    assert found(mine, "engine-group").level is Level.OK
    assert found(as_user(people(docker=("ada", "bob"), me="ada")), "engine-group").text.startswith("bob is in")
    assert not [one for one in findings(mine) if one.check in ("users", "operators")]


def test_who_is_not_root_is_not_told_that_roots_state_cannot_be_written() -> None:
    assert found(replace(places(state=place(writable=False)), root=False), "state").level is Level.OK


def test_open_files_are_our_own_where_no_daemon_answers() -> None:
    facts = as_user(replace(HEALTHY, open_files=1024, daemon=Unseen("x")))
    assert "1024 open files here" in found(facts, "open-files").text
    assert found(facts, "open-files").fix == ("ulimit -n 1536",)


# -- versions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("20.10.24+dfsg1", (20, 10, 24)),
        ("v2.2.5", (2, 2, 5)),
        ("1.6.20~ds1", (1, 6, 20)),
        ("NVIDIA Container Toolkit CLI version 1.17.8", (1, 17, 8)),
        ("27.0", (27, 0, 0)),
        ("3.40.1", (3, 40, 1)),
    ],
)
def test_versions_are_read_as_programs_print_them(text: str, numbers: tuple[int, ...]) -> None:
    version = parse(text)
    assert version is not None
    assert version[:3] == numbers


def test_what_is_no_version() -> None:
    assert parse("dev") is parse("") is parse("29") is None
    assert parse_api("1.41") == (1, 41)
    assert parse_api("") == (0, 0)


@pytest.mark.parametrize(
    ("version", "mended"),
    [
        ("1.1.15", False), ("1.2.7", False), ("1.2.8", True), ("1.3.2", False), ("1.3.3", True),
        ("1.4.0-rc.2", False), ("1.4.0-rc.3", True), ("1.4.0", True), ("1.5.0", True), ("2.0.0", True),
    ],
)  # fmt: skip
def test_each_branch_has_its_own_mend(version: str, mended: bool) -> None:
    numbers = parse(version)
    assert numbers is not None
    assert is_mended(numbers, HOLES["runc"][0].mended) is mended


def test_a_branch_that_got_no_mend_stays_open() -> None:
    assert check_version("containerd", "1.6.38").level is Level.FAILURE
    assert "CVE-2024-40635" not in check_version("containerd", "1.6.38").text


def test_authorization_plugins_matter_only_where_there_is_one() -> None:
    assert "CVE-2026-34040" not in check_version("dockerd", "29.0.0").text
    assert "CVE-2026-34040" in check_version("dockerd", "29.0.0", authorization=True).text
    assert "CVE-2026-34040" in found(
        replace(info(authorization=("guard",)), engine=replace(info(authorization=("guard",)).engine, version=EngineVersion("29.0.0", "1.52", "1.44"))), "dockerd"
    ).text  # fmt: skip


# -- the report --------------------------------------------------------------------------------------------------------

GROUPS = [
    ("Daemon", [ok("config", "fine")]),
    ("Cards", [warning("driver", "a word " * 30 + "end", "first --thing", "# by hand")]),
    ("Containers", [failure("engine", "does not answer\nat all", "systemctl restart docker")]),
    ("People", []),
]


def test_lines_for_a_pipe_begin_with_the_level() -> None:
    lines = list(report.plain(GROUPS))
    assert [line.split(" ")[0] for line in lines if not line.startswith(" ")] == ["ok", "warning", "failure", "1"]
    assert "         $ first --thing" in lines
    assert "         # by hand" in lines
    assert "         at all" in lines
    assert lines[-1] == "1 failure, 1 warning, 1 ok"


def drawn(width: int, **keys: bool) -> list[str]:
    switches = {"colour": False, "unicode": True, "root": True, **keys}
    return list(report.drawn(GROUPS, "title", width, **switches))


def test_lines_for_a_terminal_fit_and_stand_in_columns() -> None:
    lines = drawn(60)
    assert max(map(len, lines)) <= 60
    assert " ✓ config  fine" in lines
    assert any(line.startswith(" ! driver  a word") for line in lines)
    assert f"{'':11}$ first --thing" in lines
    assert f"{'':11}at all" in lines
    assert " People" not in lines, "a group without findings is not shown"
    assert lines[-1].strip() == "1 failure, 1 warning, 1 ok"


def test_colour_and_signs_are_the_terminals() -> None:
    assert "\x1b[" not in "".join(drawn(80))
    assert "\x1b[1;31m✗\x1b[0m engine" in "".join(drawn(80, colour=True))
    plain = "".join(drawn(80, unicode=False))
    assert plain.isascii()
    assert " x engine" in plain


def test_who_is_not_root_is_told_who_runs_the_commands() -> None:
    assert "for root" in drawn(80, root=False)[-1]
    assert "for root" not in "".join(drawn(80))


def test_the_document_has_everything() -> None:
    said = json.loads(json.dumps(report.document(GROUPS, {"version": "1"})))
    assert said["ok"] is False
    assert said["counts"] == {"ok": 1, "warning": 1, "failure": 1}
    assert said["checks"][1] == {
        "check": "driver", "group": "Cards", "level": "warning", "text": "a word " * 30 + "end", "fix": ["first --thing", "# by hand"],
    }  # fmt: skip
    assert report.document(GROUPS[:2], {})["ok"] is True


def test_every_check_is_on_the_page() -> None:
    cases = [HEALTHY, *(case[0] for case in CASES)]
    checks = {one.check for facts in cases for one in findings(facts)}
    page = section(text_of("docs/administration.md"), "Examine the machine")
    told = {word for row in rows(page) for word in words_in(row[0])}
    assert told == {"disk-*" if name.startswith("disk-") else name for name in checks}
