"""Mounts that lie within one another, and links in an image that would lead one into another.

An engine makes the place of a mount where it is missing, as root. Within another mount that is a folder on the host, in
a directory that the submitter may only be able to read. So a mount lies within another only where its place is there
already, or where the submitter has just made it. Whoever swaps that for a link in the same moment gains an empty
folder; the container is looked at before its payload runs.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import PurePosixPath

from runnersd.environment import refused_target
from runnersd.machine import LaunchFailed
from runnersd.machine.docker import gate
from runnersd.machine.docker.openat import ANYWHERE, NO_MAGICLINKS, NO_SYMLINKS, held
from runnersd.machine.docker.paths import Found

#: Where an engine puts its init into every container.
INIT = "/sbin/docker-init"


def arranged(found: Sequence[Found]) -> list[Found]:
    """The mounts as they are to be made, those above others first; with this thread's rights. Blocks.

    One that another shows at its place anyway is left out. One that is behind a link within another is put where the
    link leads. Where the place of one is missing within another, it is made.

    Raises:
        LaunchFailed: one has no place within another.
    """
    kept: list[Found] = []
    for one in sorted(found, key=lambda each: len(PurePosixPath(each.mount.target).parts)):
        outer = _outer(one.mount.target, kept)
        if outer is None:
            kept.append(one)
            continue
        rest = os.path.relpath(one.mount.target, outer.mount.target)
        if one.mount.source == f"{outer.mount.source}/{rest}" and one.mount.read_only == outer.mount.read_only:
            continue
        if not _has_place(one, outer, rest):
            one = replace(one, mount=replace(one.mount, target=one.mount.source))
            if refused_target(one.mount.target) or _outer(one.mount.target, kept) is not None:
                raise LaunchFailed(_cannot(one, outer, "a link leads to it there; name the directory itself"))
        kept.append(one)
    return _each_once(kept)


def landed(leads: Mapping[str, str], paths: Sequence[str]) -> dict[str, str]:
    """Where mounts at these paths really come to lie; ``leads`` says where each leads in the image. Pure.

    Within another one of them the image is hidden, and its links with it.
    """
    places: dict[str, str] = {}
    for path in sorted(paths, key=len):
        outer = max((one for one in places if _within(path, one)), key=len, default=None)
        places[path] = leads[path] if outer is None else places[outer].rstrip("/") + path[len(outer) :]
    return places


def astray(leads: Mapping[str, str], targets: Sequence[str], home: str, volumes: Sequence[str]) -> str | None:
    """Why these mounts cannot be made in an image without one leading into another, in a sentence; None if they can.

    ``leads`` says where in the image each path leads, ``volumes`` are the image's own. Pure.
    """
    if leads[gate.INSIDE] != gate.INSIDE:
        return f"it has a link at {gate.INSIDE}, where the gate is"
    ours = [*targets, home]
    own = [volume for volume in volumes if volume not in (*ours, gate.INSIDE)]  # ours take the places of the others
    inside = next(((one, outer) for one in own for outer in targets if _within(one, outer)), None)
    if inside is not None:
        return f"it has a volume at {inside[0]}, which lies in {inside[1]}"
    places = landed(leads, ours) | {volume: leads[volume] for volume in own}
    for path, place in places.items():
        for fixed in (gate.INSIDE, INIT):
            if _within(leads[fixed], place):
                return f"{path} would cover {fixed} in it"
        if _within(place, gate.INSIDE):
            return f"{path} leads to {place} in it, where the gate is"
    for path, place in places.items():
        for outer in ours:
            named_so = _within(path, outer) and place == places[outer] + path[len(outer) :]
            if path != outer and _within(place, places[outer]) and not named_so:
                moved, other = (outer, path) if place == path else (path, outer)
                return f"{moved} leads to {places[moved]} in it, where it meets {other}"
    return None


def _outer(target: str, kept: Sequence[Found]) -> Found | None:
    """The innermost mount that the target lies in."""
    around = [one for one in kept if target != one.mount.target and _within(target, one.mount.target)]
    return max(around, key=lambda one: len(one.mount.target), default=None)


def _each_once(found: Sequence[Found]) -> list[Found]:
    places: dict[str, Found] = {}
    for one in found:
        other = places.setdefault(one.mount.target, one)
        if other.mount.source != one.mount.source:
            raise LaunchFailed(f"cannot mount {one.mount.source} at {one.mount.target}: {other.mount.source} is there")
    return list(places.values())


def _has_place(one: Found, outer: Found, rest: str) -> bool:
    """Whether its place within another is, or now is, a plain one; False when a link leads there."""
    try:
        with held(ANYWHERE, outer.mount.source, NO_MAGICLINKS | NO_SYMLINKS) as base:
            try:
                with held(base, rest, NO_MAGICLINKS | NO_SYMLINKS) as fd:
                    kind = os.fstat(fd).st_mode
            except FileNotFoundError:
                _make(base, PurePosixPath(rest).parts, directory=one.directory)
                return True
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        why = f"its place in {outer.mount.source} cannot be made by the submitter: {error.strerror}"
        raise LaunchFailed(_cannot(one, outer, why)) from error
    if stat.S_ISDIR(kind) != one.directory or not (one.directory or stat.S_ISREG(kind)):
        raise LaunchFailed(_cannot(one, outer, f"in {outer.mount.source} something else has its place"))
    return True


def _make(base: int, parts: Sequence[str], *, directory: bool) -> None:
    """Make the folders on the way, and at its end a folder or an empty file."""
    first, *rest = parts
    if rest or directory:
        with suppress(FileExistsError):
            os.mkdir(first, 0o755, dir_fd=base)
        if rest:
            with held(base, first, NO_MAGICLINKS | NO_SYMLINKS) as fd:
                _make(fd, rest, directory=directory)
    else:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(first, flags, 0o644, dir_fd=base))


def _cannot(one: Found, outer: Found, why: str) -> str:
    mount = one.mount
    return f"cannot mount {mount.source} at {mount.target}, within {outer.mount.target}: {why}"


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")
