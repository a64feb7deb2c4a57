"""Whose rights a container's processes are to have, and which its first one has, as the kernel says.

An engine makes numbers of what it is told by looking into the image's own /etc/group: there an image can call a group
by a number that is another's. And engines have been known to forget groups.
"""

from __future__ import annotations

import grp
import pwd
from collections.abc import Collection, Sequence
from pathlib import Path

from runnersd.environment import PRIVILEGED_GROUPS, supplementary

#: The group of somebody who is left with none of their own.
NOBODY = 65534


def sifted(uid: int, gid: int, groups: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """The group and the supplementary groups that a submitter's container keeps. Asks the group database: blocks."""
    privileged = _privileged()
    if uid != 0 and (gid == 0 or gid in privileged):
        # As after `newgrp docker`: then their account's own group, unless that is such a one too.
        try:
            gid = pwd.getpwuid(uid).pw_gid
        except KeyError:
            gid = NOBODY
        gid = NOBODY if gid == 0 or gid in privileged else gid
    return gid, supplementary(groups, gid, privileged)


def difference(pid: int, uid: int, gid: int, groups: Collection[int]) -> str | None:
    """What the process has otherwise than it should, in a sentence; None when nothing.

    Raises:
        OSError: it has ended.
    """
    said = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    for name, number in (("Uid", uid), ("Gid", gid)):
        if set(said[name].split()) != {str(number)}:
            return f"its {name.lower()} is {said[name].split()[1]} and not {number}"
    more = {int(group) for group in said["Groups"].split()} ^ {gid, *groups}
    if more - {gid}:
        return f"its groups are {' '.join(said['Groups'].split()) or 'none'}: those of its submitter would be others"
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        if int(said[name], 16):
            return f"it has capabilities ({name} {said[name]})"
    if said.get("NoNewPrivs", "1") != "1":
        return "it may gain privileges"
    return None


def _privileged() -> set[int]:
    """The numbers of the groups whose members could have the whole machine, where there are such groups."""
    found = set()
    for name in PRIVILEGED_GROUPS:
        try:
            found.add(grp.getgrnam(name).gr_gid)
        except KeyError:
            continue
    return found
