"""Checks of who may do what: sockets and groups. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from runnersd.config import Config
from runnersd.doctor.facts import EngineFacts, Facts, PeopleFacts, SocketFile, Unseen
from runnersd.doctor.finding import Finding, failure, ok, warning

_ROOT_TOO = ("root", "runners")


def check_people(facts: Facts) -> Iterator[Finding]:
    """Groups that should exist, sockets that should be closed, and who can go around `runners`."""
    if facts.config.system:
        yield from _groups(facts.people, facts.config)
    yield from _daemon_socket(facts)
    yield from _engine_socket(facts.engine)
    if not isinstance(facts.engine.file, Unseen):
        yield from _engine_group(facts)


def _groups(people: PeopleFacts, config: Config) -> Iterator[Finding]:
    if isinstance(people.groups, Unseen):
        yield warning("users", f"cannot look at the groups: {people.groups.why}")
        return
    for check, name, what, otherwise in (
        ("users", config.socket.group, "may submit and look", "only root can connect"),
        ("operators", config.operators, "may change everybody's jobs", "only root can"),
    ):
        if name is None:
            continue
        if people.groups.get(name):
            yield ok(check, f"the members of the group `{name}` {what}")
        else:
            text = f"there is no group `{name}`, whose members {what}: {otherwise}"
            yield warning(check, text, f"groupadd --system {name}", f"usermod --append --groups {name} SOMEBODY")


def _daemon_socket(facts: Facts) -> Iterator[Finding]:
    file = facts.daemon_socket
    if isinstance(file, Unseen):
        return
    assert facts.config.paths is not None, "doctor's configuration has paths"
    path = facts.config.paths.socket
    if file.mode & 0o002:
        text = f"{path} is open to everybody on this machine: whoever connects may submit"
        yield failure("socket-rights", text, f"chmod o= {path}")
    else:
        yield ok("socket-rights", f"{path} is {_rights(file)}")


def _engine_socket(engine: EngineFacts) -> Iterator[Finding]:
    file = engine.file
    if isinstance(file, Unseen):
        return
    if file.mode & 0o002:
        text = f"{engine.path} is open to everybody on this machine: each of them is root by it"
        yield failure("engine-rights", text, f"chmod o= {engine.path}")
    else:
        yield ok("engine-rights", f"{engine.path} is {_rights(file)}")


def _engine_group(facts: Facts) -> Iterator[Finding]:
    """Whoever may speak to the engine can start a container on any card, and is root in effect."""
    assert isinstance(facts.engine.file, SocketFile)
    group = facts.engine.file.group
    members = facts.people.docker
    if isinstance(members, Unseen):
        yield warning("engine-group", f"cannot tell who is in the group `{group}`: {members.why}")
        return
    allowed = {*_ROOT_TOO, *(() if facts.config.system else (facts.people.me,))}
    others = [name for name in members if name not in allowed]
    if not others:
        yield ok("engine-group", f"nobody else can go around `runners` by the group `{group}`")
        return
    shown = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
    who, be = (shown, "is") if len(others) == 1 else (shown, "are")
    text = f"{who} {be} in the group `{group}`, which is root by another name: they can take any card past the queue"
    yield warning("engine-group", text, *(f"gpasswd --delete {name} {group}" for name in others[:5]))


def _rights(file: SocketFile) -> str:
    readers = f"of the group `{file.group}`" if file.mode & 0o020 else "its owner's alone"
    return f"{readers} (mode {file.mode:04o})"
