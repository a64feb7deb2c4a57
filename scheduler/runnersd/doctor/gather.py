"""Looks at the whole machine at once and makes facts of it, in about the time that the slowest look takes."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from runnersd.config import Config
from runnersd.doctor import engine_answers, machine_looks
from runnersd.doctor.facts import (
    CardFacts,
    DaemonFacts,
    EngineFacts,
    EngineInfo,
    Facts,
    LockFacts,
    PeopleFacts,
    Unseen,
)
from runnersd.doctor.looking import Look
from runnersd.machine.docker import shells
from runnersd.machine.docker.instance import finds_hook, who_answers
from runnersd.store.opening import SQLITE_VERSION
from runnersd.store.place import read_mountinfo

#: Seconds for the engine or the daemon to go on with its answer, and to be done with it.
PIECE, ANSWER = 3.0, 8.0
#: Seconds for files, groups and programs.
FILES = 5.0

Seen = TypeVar("Seen")


def gather(config: Config, config_problem: str | None, environment: Mapping[str, str] = os.environ) -> Facts:
    """Everything there is to see."""
    paths = config.paths
    assert paths is not None, "doctor's configuration has paths"
    cards = Look(partial(machine_looks.card_facts, environment), machine_looks.DRIVER + 2)
    wanted = {"state": paths.state, **_directories(config)}
    places = {role: Look(partial(machine_looks.place_facts, path), FILES) for role, path in wanted.items()}
    names = tuple(name for name in (config.socket.group, config.operators) if name)
    groups = Look(partial(machine_looks.existing_groups, names), FILES)
    members = Look(partial(machine_looks.group_members, Path(config.containers.socket)), FILES)
    locks = Look(partial(machine_looks.lock_facts, paths.locks), FILES)
    socket = Look(partial(machine_looks.socket_file, paths.socket), FILES)
    cgroup = Look(lambda: machine_looks.cgroup_version(read_mountinfo()), FILES)
    daemon = Look(partial(_daemon, str(paths.socket)), ANSWER)
    engine = _engine(config)
    if isinstance(engine.info, EngineInfo) and engine.info.root:
        places["docker"] = Look(partial(machine_looks.place_facts, Path(engine.info.root)), FILES)
    answering = daemon.seen()
    pid = None if isinstance(answering, Unseen) else answering.pid
    password = None if config.notify.smtp is None else config.notify.smtp.password_file
    mode = None if password is None else Look(partial(machine_looks.readable_mode, Path(password)), FILES)
    return Facts(
        config=config,
        config_file=paths.file.exists(),
        config_problem=config_problem,
        root=os.geteuid() == 0,
        cards=_or(cards.seen(), lambda unseen: CardFacts(nvml=unseen)),
        engine=engine,
        daemon=answering,
        daemon_socket=socket.seen(),
        people=PeopleFacts(groups.seen(), members.seen(), machine_looks.user_name(os.geteuid())),
        locks=_or(locks.seen(), LockFacts),
        places={role: look.seen() for role, look in places.items()},
        cgroup=cgroup.seen(),
        sqlite=SQLITE_VERSION,
        open_files=Look(partial(machine_looks.open_files, pid), FILES).seen(),
        kernel=platform.release(),
        pidfd=machine_looks.has_pidfd(),
        mail_password=None if mode is None else mode.seen(),
    )


def _directories(config: Config) -> dict[str, Path]:
    """The configured directories that jobs use."""
    chosen = {name: getattr(config.directories, name) for name in ("data", "cache", "artifacts", "nussl")}
    return {name: Path(path) for name, path in chosen.items() if path}


def _daemon(socket: str) -> DaemonFacts:
    said = engine_answers.ask(socket, "/v1/status?limit=1", PIECE)
    try:
        return DaemonFacts(str(said["daemon"]["version"]), int(said["daemon"]["pid"]))
    except (KeyError, TypeError, ValueError):
        raise engine_answers.NotAnEngine("what answers there is no runnersd") from None


def _engine(config: Config) -> EngineFacts:
    path, name = config.containers.socket, config.containers.image

    def asked(target: str, make: Callable[[object], Seen]) -> Look[Seen]:
        return Look(lambda: make(engine_answers.ask(path, target, PIECE)), ANSWER)

    file = Look(partial(machine_looks.socket_file, Path(path)), FILES)
    toolkit = Look(machine_looks.toolkit_version, FILES)
    shell = Look(shells.found, FILES)
    hook = Look(lambda: finds_hook(asyncio.run(who_answers(path))), ANSWER)
    version = asked("/version", engine_answers.version)
    info = asked("/info", engine_answers.info)
    image = asked(f"/images/{quote(name, safe='/:@')}/json", lambda said: said is not None) if name else None
    answered, found = info.seen(), toolkit.seen()
    specs: tuple[str, ...] | Unseen = ()
    if isinstance(answered, EngineInfo):
        specs = Look(partial(machine_looks.cdi_files, answered.cdi_directories), FILES).seen()
    return EngineFacts(
        path=path,
        file=file.seen(),
        version=version.seen(),
        info=answered,
        cdi_files=() if isinstance(specs, Unseen) else specs,
        hook=hook.seen() is True,
        toolkit="unknown" if isinstance(found, Unseen) else found,
        image=image.seen() if image is not None else None,
        shell=shell.seen() is not None,
    )


def _or(seen: Seen | Unseen, make: Callable[[Unseen], Seen]) -> Seen:
    return make(seen) if isinstance(seen, Unseen) else seen
