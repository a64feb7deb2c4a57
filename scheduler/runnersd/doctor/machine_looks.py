"""What files, groups and programs of this machine tell. Each may raise :class:`OSError`, and each may hang."""

from __future__ import annotations

import grp
import os
import pwd
import re
import resource
import shutil
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

from runnersd.doctor.facts import Card, CardFacts, Driver, LockFacts, PlaceFacts, SocketFile
from runnersd.machine.nvml.survey import MISMATCH, survey
from runnersd.store.place import file_system, is_network, read_mountinfo

#: Seconds for the NVIDIA driver, which takes up to three a card where nothing keeps it awake.
DRIVER = 30.0
#: Seconds for a program to say its version.
PROGRAM = 4.0

_MODULE = re.compile(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)*)\s")
_NVIDIA, _DISPLAYS = "0x10de", ("0x0300", "0x0302")


# -- cards -------------------------------------------------------------------------------------------------------------


def card_facts(environment: Mapping[str, str], timeout: float = DRIVER, root: Path = Path("/")) -> CardFacts:
    """The driver and its cards. ``environment`` is that of the process that asks it."""
    seen = survey(timeout, environment)
    cards = tuple(Card(card.name, card.persistent) for card in seen.cards)
    driver = Driver(seen.driver, cards, seen.absent, seen.error, seen.code == MISMATCH)
    return CardFacts(module_version(root), cards_on_bus(root), driver, are_linked(root))


def module_version(root: Path = Path("/")) -> str | None:
    """The version of the kernel's NVIDIA driver; None while it is not loaded."""
    try:
        text = (root / "proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    match = _MODULE.search(text)
    return match[1] if match else "of an unknown version"


def cards_on_bus(root: Path = Path("/")) -> int:
    """How many NVIDIA cards the PCI bus shows."""
    return sum(
        (device / "vendor").read_text().strip() == _NVIDIA
        and (device / "class").read_text().strip().startswith(_DISPLAYS)
        for device in (root / "sys/bus/pci/devices").glob("*")
    )


def are_linked(root: Path = Path("/")) -> bool | None:
    """Whether every card's device file has its link in /dev/char; None where there is no such file."""
    found = [node.stat() for node in (root / "dev").glob("nvidia[0-9]*")]
    devices = [(os.major(one.st_rdev), os.minor(one.st_rdev)) for one in found if stat.S_ISCHR(one.st_mode)]
    if not devices:
        return None
    return all(os.path.lexists(root / f"dev/char/{major}:{minor}") for major, minor in devices)


# -- sockets and people ------------------------------------------------------------------------------------------------


def socket_file(path: Path) -> SocketFile:
    """Who may open the socket at ``path``."""
    found = path.stat()
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError("something that is no socket is there")
    return SocketFile(found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode), group_name(found.st_gid))


def readable_mode(path: Path) -> int:
    """The permission bits of a file that can be read."""
    with path.open("rb") as file:
        return stat.S_IMODE(os.fstat(file.fileno()).st_mode)


def group_name(gid: int) -> str:
    """The group's name, or its number as text."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def user_name(uid: int) -> str:
    """The user's name, or the number as text."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def existing_groups(names: tuple[str, ...]) -> dict[str, bool]:
    """Which of these groups there are."""
    found = {}
    for name in names:
        try:
            grp.getgrnam(name)
        except KeyError:
            found[name] = False
        else:
            found[name] = True
    return found


def group_members(socket: Path) -> tuple[str, ...]:
    """Everybody in the group that a socket belongs to, by the group database or as their own group."""
    gid = socket.stat().st_gid
    try:
        named = set(grp.getgrgid(gid).gr_mem)
    except KeyError:
        named = set()
    return tuple(sorted(named | {user.pw_name for user in pwd.getpwall() if user.pw_gid == gid}))


# -- directories -------------------------------------------------------------------------------------------------------


def place_facts(path: Path) -> PlaceFacts:
    """What a path offers to who writes there; for one that does not exist, the nearest directory above it."""
    there = path
    while not there.exists():
        there = there.parent
    kind = file_system(there.resolve(), read_mountinfo())
    room = os.statvfs(there)
    return PlaceFacts(
        path=str(path),
        there=str(there),
        file_system=kind,
        writable=os.access(there, os.W_OK | os.X_OK),
        free=room.f_bavail * room.f_frsize,
        total=room.f_blocks * room.f_frsize,
        network=is_network(kind),
        free_inodes=room.f_favail,
        total_inodes=room.f_files,
    )


def lock_facts(path: Path) -> LockFacts:
    """The directory of the cards' locks."""
    place = place_facts(path)
    if not place.exists:
        return LockFacts(place)
    found = path.stat()
    return LockFacts(place, stat.S_IMODE(found.st_mode), found.st_uid)


def cdi_files(directories: tuple[str, ...]) -> tuple[str, ...]:
    """CDI specifications in these directories that name NVIDIA cards by UUID."""
    found = []
    for directory in directories:
        for file in sorted(Path(directory).glob("*")):
            if file.suffix in (".yaml", ".yml", ".json"):
                text = file.read_text(encoding="utf-8", errors="replace")
                if "nvidia.com/gpu" in text and "GPU-" in text:
                    found.append(str(file))
    return tuple(found)


# -- programs and the kernel -------------------------------------------------------------------------------------------


def toolkit_version() -> str | None:
    """The version of the NVIDIA Container Toolkit; None where it is not installed."""
    program = shutil.which("nvidia-ctk") or shutil.which("nvidia-container-runtime")
    if program is None:
        return None
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=PROGRAM, check=False)
    except subprocess.TimeoutExpired:
        return "unknown"
    match = re.search(r"version\D*(\S+)", said.stdout)
    return match[1] if match else "unknown"


def cgroup_version(mountinfo: str) -> str:
    """`v2`, `v1`, or `hybrid` for both side by side."""
    kinds = {line.partition(" - ")[2].split(" ")[0] for line in mountinfo.splitlines()}
    if "cgroup" not in kinds:
        return "v2"
    return "hybrid" if "cgroup2" in kinds else "v1"


def open_files(pid: int | None) -> int:
    """The soft limit on open files of a process, or our own."""
    if pid is None:
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
        if line.startswith("Max open files"):
            soft = line.split()[3]
            return int(soft) if soft.isdigit() else 1 << 30
    raise OSError(f"the kernel does not tell that of process {pid}")


def has_pidfd() -> bool:
    """Whether the kernel can hold on to a process."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True
