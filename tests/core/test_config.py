"""The daemon's settings: defaults, who beats whom, and what is said of a wrong file."""

from __future__ import annotations

import os
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import runners.paths
from runners.errors import InvalidConfig
from runners.pipeline import reader
from runners.pipeline.values import plain
from runnersd.config import (
    CommandConfig,
    Config,
    HookConfig,
    Quota,
    SmtpConfig,
    SocketConfig,
    UserNotifyConfig,
    build,
    needs_restart,
    reloaded,
)
from runnersd.config_load import load

SHIPPED = Path(__file__).parents[2] / "configs" / "runnersd.yml"


def settings(config: Config) -> Config:
    """Only what a file can say."""
    return replace(config, system=False, paths=None)


def write(folder: Path, text: str) -> str:
    path = folder / "runnersd.yml"
    path.write_text(text)
    return str(path)


def problems_of(folder: Path, text: str) -> list[str]:
    file = write(folder, text)
    with pytest.raises(InvalidConfig) as caught:
        load(config=file, environ={})
    return [line.removeprefix(file + ":") for line in str(caught.value).splitlines()[1:]]


# -- the file ----------------------------------------------------------------------------------------------------------


def keys_of(of: Any, prefix: str = "") -> set[str]:
    """Every key a file may have, dotted."""
    found = set()
    for field in fields(of):
        value = getattr(of, field.name)
        if is_dataclass(value) and "short" not in field.metadata:
            found |= keys_of(value, f"{prefix}{field.name}.")
        elif field.metadata:
            found.add(prefix + field.name)
    return found


def keys_in(data: dict[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for name, value in data.items():
        found |= keys_in(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name}
    return found


def shipped() -> Any:
    """What the shipped file says, read as the daemon reads it: for YAML 1.1 a key `on` would be `true`."""
    root = reader.read(SHIPPED.read_bytes(), str(SHIPPED), {}, lambda problem: pytest.fail(str(problem)))
    assert root is not None
    return plain(root)


def test_the_shipped_file_says_every_default_and_names_every_key() -> None:
    assert settings(load(config=str(SHIPPED), environ={})) == Config()
    assert keys_in(shipped()) == keys_of(Config())


@pytest.mark.parametrize("text", ["", "# nothing but words\n\n", "---\n# the same\n", "gpus:\n", "jobs: {}\n"])
def test_a_file_that_says_nothing_changes_nothing(tmp_path: Path, text: str) -> None:
    assert settings(load(config=write(tmp_path, text), environ={})) == Config()


def test_values_become_seconds_and_bytes(tmp_path: Path) -> None:
    text = """
gpus: {only: [0, GPU-abc], poll: 500ms, margin: 1GiB}
jobs: {time_limit: 1:30:00, max_time_limit: 2d, log_max: 10MiB}
notify: {command: [notify-send, done]}
scheduling: {quotas: {default: {gpus: 4}, users: {ada: {running: 2}, 1000: {queued: 5}}, groups: {students: {}}}}
"""
    config = load(config=write(tmp_path, text.replace("500ms", "0.5s")), environ={})
    assert config.gpus.only == ("0", "GPU-abc")
    assert (config.gpus.poll, config.gpus.margin) == (0.5, 1 << 30)
    assert (config.jobs.time_limit, config.jobs.max_time_limit, config.jobs.log_max) == (5400.0, 172800.0, 10 << 20)
    assert config.notify.command == CommandConfig(("notify-send", "done"))
    quotas = config.scheduling.quotas
    assert quotas.default == Quota(gpus=4)
    assert quotas.users == {"ada": Quota(running=2), "1000": Quota(queued=5)}
    assert quotas.groups == {"students": Quota()}


def test_who_is_told_is_said_in_a_word_or_in_full(tmp_path: Path) -> None:
    text = """
notify:
  webhook: https://chat.lab/hooks/x
  smtp: {host: "mail.lab:587", from: gpu@lab, to: "${user}@lab", user: gpu, password_file: /etc/runners/mail, on: failure}
  command: echo done
  users: {ann: {email: ann@lab, webhook: https://ann.lab/, on: [idle, end]}}
  subject: "$host: $subject"
"""
    notify = load(config=write(tmp_path, text), environ={}).notify
    assert notify.webhook == HookConfig("https://chat.lab/hooks/x")
    assert notify.smtp == SmtpConfig(
        "mail.lab:587", None, "gpu@lab", "${user}@lab", "gpu", "/etc/runners/mail", on=("failure",)
    )
    assert notify.command == CommandConfig("echo done")
    assert notify.users == {"ann": UserNotifyConfig("ann@lab", "https://ann.lab/", ("end", "idle"))}
    assert notify.subject == "$host: $subject" and notify.gather == 10.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("webhook: https://u:s3cret@chat.lab/", "1: notify.webhook.url: must be an http or https URL, without"),
        ("webhook: {on: end}", "1: notify.webhook: must say its url"),
        ("webhook: {url: https://chat.lab/s3cret, on: ends}", "1: notify.webhook.on: found 'ends': must be a list of end,"),
        ("smtp: 'smtp://u:s3cret@mail.lab'", "1: notify.smtp.host: must be a host, or host:port"),
        ("smtp: {host: mail.lab, user: gpu}", "1: notify.smtp: has a user: say where the password is"),
        ("smtp: {host: mail.lab, password: s3cret}", "1: notify.smtp.password: unknown key; did you mean 'password_"),
        ("smtp: {host: mail.lab, to: '${usr}@lab'}", "1: notify.smtp.to: found '${usr}@lab': must be an e-mail address"),
        ("users: {ann: {webhook: 'ftp://s3cret'}}", "1: notify.users.ann.webhook: must be an http or https URL"),
        ("subject: '$job $nme'", "1: notify.subject: found '$job $nme': has no $nme; allowed are event, subject, job,"),
        ("text: 'cost: 5$'", "1: notify.text: found 'cost: 5$': has a $ that begins no name; write $$"),
        ("gather: 0s", "1: notify.gather: found '0s': must be at least"),
    ],
)  # fmt: skip
def test_a_wrong_notice_is_told_of_without_secrets(tmp_path: Path, text: str, said: str) -> None:
    [problem] = problems_of(tmp_path, f"notify: {{{text}}}")
    assert problem.startswith(said)
    assert "s3cret" not in problem


def test_all_problems_are_told_at_once_with_line_path_and_what_is_allowed(tmp_path: Path) -> None:
    text = """engine: slurm
gpus:
  pol: 1s
  foreign: shared
jobs: {log_max: -3, max_running: many, max_queued: true}
socket: {path: here/runnersd.sock}
scheduling:
  quotas: {users: {ada: {rnning: 3}}}
operators: [wheel]
zebra: 1
containers: 7
"""
    problems = problems_of(tmp_path, text)
    assert problems[0] == "1: engine: found 'slurm': must be local"
    assert problems[1] == "3: gpus.pol: unknown key; did you mean 'poll'?"
    assert problems[2] == "4: gpus.foreign: found 'shared': must be exclude or share"
    assert problems[3].startswith("5: jobs.log_max: found -3: ")
    assert problems[4] == "5: jobs.max_running: found 'many': must be a whole number, at least 1"
    assert problems[5] == "5: jobs.max_queued: found True: must be a whole number, at least 1"
    assert problems[6] == "6: socket.path: found 'here/runnersd.sock': must be an absolute path"
    assert problems[7] == "8: scheduling.quotas.users.ada.rnning: unknown key; did you mean 'running'?"
    assert problems[8].startswith("9: operators: ")
    assert problems[9].startswith("10: zebra: unknown key; allowed are engine, socket, ")
    assert problems[10] == "11: containers: found 7: must be a mapping"
    assert len(problems) == 11


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("jobs: {time_limit: 2h, max_time_limit: 1h}", "1: jobs.time_limit: is more than jobs.max_time_limit"),
        ("gpus: {only: [0], exclude: [0]}", "1: gpus.exclude: 0 is in gpus.only too"),
        ("gpus: {xid: {quarantine: [13, 79], ignore: [79]}}", "1: gpus.xid.ignore: 79 is in gpus.xid.quarantine too"),
        ("gpus: {xid: {unknown: drain}}", "1: gpus.xid.unknown: found 'drain': must be ignore or quarantine"),
        ("gpus: {poll: 0s}", "1: gpus.poll: found '0s': must be at least 0.05s"),
        ("log:\n  level: 3", "2: log.level: found 3: must be debug or info"),
        ("jobs: [", "not valid YAML"),
        ("a: 1\na: 2", "twice"),
        ("- engine", "found ['engine']: must be a mapping"),
        ("log: {level: \x01}", "control character"),
    ],
)
def test_a_wrong_file_is_told_of(tmp_path: Path, text: str, said: str) -> None:
    assert said in "\n".join(problems_of(tmp_path, text))


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(sorted(keys_in(shipped())))


@given(st.dictionaries(names, json_like, max_size=6), json_like)
def test_whatever_a_file_says_gives_settings_or_problems(values: dict[str, Any], anything: Any) -> None:
    data: dict[str, Any] = {}
    for path, value in values.items():
        at = data
        *above, last = path.split(".")
        for part in above:
            at = at.setdefault(part, {})
        at[last] = value
    for document in (data, anything):
        config, problems = build(document, lambda path: 0)
        assert isinstance(config, Config)
        assert problems or keys_of(config) == keys_of(Config())


# -- places ------------------------------------------------------------------------------------------------------------


def test_flags_beat_variables_and_variables_beat_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "socket: {path: /from/file.sock}")
    environ = {"RUNNERS_CONFIG": file, "HOME": "/home/ada"}

    def socket(flag: str | None = None, **more: str) -> str:
        paths = load(socket=flag, environ={**environ, **more}, system=False).paths
        assert paths is not None
        return str(paths.socket)

    assert socket() == "/from/file.sock"
    assert socket(RUNNERS_SOCKET="/from/variable.sock") == "/from/variable.sock"
    assert socket("/from/flag.sock", RUNNERS_SOCKET="/from/variable.sock") == "/from/flag.sock"


def test_a_file_named_by_a_flag_goes_before_one_named_by_a_variable(tmp_path: Path) -> None:
    file = write(tmp_path, "jobs: {max_running: 3}")
    assert load(config=file, environ={"RUNNERS_CONFIG": "/nowhere"}).jobs.max_running == 3


def places(**environ: str) -> list[str]:
    system = environ.pop("system", "") == "yes"
    state_dir = environ.pop("state_dir", None)
    config = load(state_dir=state_dir, environ={"HOME": "/home/ada", **environ}, system=system, read_file=no_file)
    assert config.paths is not None and config.system is system
    return [str(config.paths.file), str(config.paths.socket), str(config.paths.state), str(config.paths.locks)]


def no_file(path: Path) -> bytes:
    raise FileNotFoundError(path)


def test_places_of_roots_daemon() -> None:
    assert places(system="yes", XDG_RUNTIME_DIR="/run/user/0", XDG_STATE_HOME="/x") == [
        "/etc/runners/runnersd.yml",
        "/run/runners/runnersd.sock",
        "/var/lib/runners",
        "/run/lock/runners",
    ]


def test_places_of_a_users_daemon() -> None:
    assert places(XDG_RUNTIME_DIR="/run/user/7", XDG_CONFIG_HOME="/c", XDG_STATE_HOME="/s", RUNNERS_LOCK_DIR="/l") == [
        "/c/runners/runnersd.yml",
        "/run/user/7/runners/runnersd.sock",
        "/s/runners",
        "/l",
    ]


def test_unset_or_relative_xdg_variables_mean_the_homes_own_folders() -> None:
    home = ["/home/ada/.config/runners/runnersd.yml", "/home/ada/.local/state/runners/runnersd.sock"]
    home += ["/home/ada/.local/state/runners", "/run/lock/runners"]
    assert places() == home
    assert places(XDG_CONFIG_HOME="c", XDG_STATE_HOME="s", XDG_RUNTIME_DIR="r") == home


def test_without_a_runtime_directory_the_socket_is_in_the_state_directory_that_was_chosen() -> None:
    assert places(state_dir="/d")[1:3] == ["/d/runnersd.sock", "/d"]
    assert places(RUNNERS_STATE_DIR="/v")[1:3] == ["/v/runnersd.sock", "/v"]
    assert places(RUNNERS_STATE_DIR="/v", state_dir="/d")[2] == "/d"


def test_the_client_looks_where_the_daemon_listens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("XDG_", "RUNNERS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for variables in ({}, {"XDG_RUNTIME_DIR": str(tmp_path / "run")}, {"RUNNERS_STATE_DIR": str(tmp_path / "s")}):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        paths = load(environ=os.environ, read_file=no_file).paths
        assert paths is not None
        assert str(paths.socket) == runners.paths.own_socket()
        assert str(paths.state) == runners.paths.state_dir()
        assert str(paths.file) == runners.paths.config_file()
        assert str(paths.locks) == runners.paths.lock_dir()


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    for how in ({"config": "/nowhere/x.yml", "environ": {}}, {"environ": {"RUNNERS_CONFIG": "/nowhere/x.yml"}}):
        with pytest.raises(InvalidConfig, match=r"^cannot read /nowhere/x.yml: there is no such file"):
            load(**how)
    with pytest.raises(InvalidConfig, match="directory"):
        load(config=str(tmp_path), environ={})


# -- changes while it runs ---------------------------------------------------------------------------------------------


def test_what_cannot_change_live_is_named_and_stays() -> None:
    old = Config()
    new = replace(
        old, socket=SocketConfig("/other.sock", "others"), jobs=replace(old.jobs, max_running=1), operators="admins"
    )
    assert needs_restart(old, new) == ["socket.path", "socket.group"]
    assert needs_restart(old, replace(old, operators="admins")) == []
    after = reloaded(old, new)
    assert after.socket == old.socket
    assert (after.jobs.max_running, after.operators) == (1, "admins")
