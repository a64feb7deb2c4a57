"""Versions with known holes: a table, and the comparison. Pure.

Last compared with the projects' advisories in October 2026. A distribution often mends an old version without giving it
a new number; so what looks like a distribution's build is only a warning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from runnersd.doctor.finding import Finding, failure, ok, warning

#: A version's numbers; a release candidate sorts before its release.
Version = tuple[int, int, int, int]

_NUMBERS = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?:[-~]?rc\.?(\d+))?")
_DISTRIBUTION = re.compile(r"[+~]|ubuntu|deb|dfsg|\.el\d|\.fc\d", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Hole:
    """A weakness, and the first mended version of each branch; every newer branch has the mend too.

    ``grave``: one that lets a job out of its container, or a user into what is not theirs.
    """

    what: str
    ids: str
    mended: tuple[str, ...]
    grave: bool = True


HOLES = {
    "dockerd": (
        Hole("a job's supplementary groups are set up wrongly", "CVE-2022-36109", ("20.10.18",)),
        Hole(
            "`docker cp` into or out of a hostile container reaches the host; never copy from running jobs",
            "CVE-2026-41567, CVE-2026-41568, CVE-2026-42306",
            ("29.5.1",),
            grave=False,
        ),
    ),
    "containerd": (
        Hole("local users can reach its directories", "CVE-2024-25621", ("1.7.29", "2.0.7", "2.1.5", "2.2.0")),
        Hole("a user id above 2^31 runs as root", "CVE-2024-40635", ("1.6.38", "1.7.27", "2.0.4")),
    ),
    "runc": (
        Hole(
            "a container can write to the host's /proc and so leave it",
            "CVE-2025-31133, CVE-2025-52565, CVE-2025-52881",
            ("1.2.8", "1.3.3", "1.4.0-rc.3"),
        ),
    ),
    "nvidia-container-toolkit": (
        Hole("an image's environment reaches a program that root runs on the host", "CVE-2025-23266", ("1.17.8",)),
    ),
}

#: Only who guards the engine by an authorization plugin is concerned.
AUTHORIZATION = Hole("large requests pass the authorization plugin unseen", "CVE-2026-34040", ("29.3.1",))

_PACKAGES = {
    "dockerd": ("docker-ce", "docker.io"),
    "containerd": ("containerd.io", "containerd"),
    "runc": ("containerd.io", "runc"),
    "nvidia-container-toolkit": ("nvidia-container-toolkit", "nvidia-container-toolkit"),
}


def parse(text: str) -> Version | None:
    """The numbers of a version as programs print it; None when there are none."""
    match = _NUMBERS.search(text)
    if match is None:
        return None
    major, minor, patch, candidate = match.groups()
    return int(major), int(minor), int(patch or 0), int(candidate) if candidate else 1 << 20


def parse_api(text: str) -> tuple[int, int]:
    """The numbers of an engine's API version, `1.41`; zeros when it is none."""
    found = parse(text)
    return found[:2] if found else (0, 0)


def is_mended(version: Version, mended: tuple[str, ...]) -> bool:
    """Whether a version has the mend that came to each branch with these versions."""
    floors = [floor for floor in map(parse, mended) if floor is not None]
    same_branch = [floor for floor in floors if floor[:2] == version[:2]]
    if same_branch:
        return version >= same_branch[0]
    return version[:2] > max(floor[:2] for floor in floors)


def check_version(name: str, text: str, *, authorization: bool = False) -> Finding:
    """A program's version, ``text`` as it was printed. ``authorization``: the engine has such a plugin."""
    version = parse(text)
    if version is None:
        return warning(name, f"cannot tell its version from {text!r}")
    holes = [*HOLES[name], *([AUTHORIZATION] if authorization and name == "dockerd" else ())]
    found = [hole for hole in holes if not is_mended(version, hole.mended)]
    if not found:
        return ok(name, f"{text}: no known hole that matters here")
    distribution = _DISTRIBUTION.search(text) is not None
    text = f"{text}: {'; '.join(map(_sentence, found))}"
    if distribution:
        text += "; your distribution may have mended it without a new number: see its security tracker"
    package = _PACKAGES[name][distribution]
    fix = f"apt-get update && apt-get install --only-upgrade {package}"
    grave = any(hole.grave for hole in found)
    return (failure if grave and not distribution else warning)(name, text, fix)


def _sentence(hole: Hole) -> str:
    return f"{hole.what} ({hole.ids}; mended in {', '.join(hole.mended)})"
