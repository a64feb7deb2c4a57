# ruff: noqa: PTH103 - pathlib would weigh on every fork
"""Keeps a process, and all that it starts, from cards that are not its own: by a control group that cannot open them.

`CUDA_VISIBLE_DEVICES` is advice, which a job may set anew. The kernel's device control is not: version 1 of control
groups has a list for it, version 2 a BPF program (Linux, Documentation/admin-guide/cgroup-v2.rst, "Device controller").
The groups lie below this process's own, one for each set of cards that is kept away, and stay there: they are named by
that set, and what is asked of one is asked again each time. So nothing is to be undone, whoever is killed when.

Loaded by supervisors, so it loads next to nothing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TextIO

#: The driver's major number: /dev/nvidiaN is 195:N, its other nodes have minors above any card's, or other majors.
MAJOR = 195

#: The number of bpf(2), by machine.
_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
#: From linux/bpf.h: two commands of bpf(2), a type of programs, and where such a program is attached.
_PROG_LOAD, _PROG_ATTACH, _CGROUP_DEVICE_PROGRAM, _CGROUP_DEVICE = 5, 8, 15, 6
_CHARACTER = 2
_ALLOW, _DENY = 1, 0

_libc = ctypes.CDLL(None, use_errno=True)


def confine(minors: Sequence[int]) -> str | None:
    """Keep this process from the cards /dev/nvidiaN with these numbers, for good. Returns why that does not work.

    Only root can, and a process that is root can undo it.
    """
    try:
        with _lines("/proc/self/mountinfo") as mounts, _lines("/proc/self/cgroup") as groups:
            version, own = place(mounts, groups)
        group = f"{own}/runners-without-{','.join(map(str, sorted(minors)))}"
        os.makedirs(group, 0o755, exist_ok=True)
        if version == 1:
            for minor in minors:
                _write(f"{group}/devices.deny", f"c {MAJOR}:{minor} rwm")
            with _lines(f"{group}/devices.list") as allowed:
                check_denied(allowed)
        else:
            _attach(group, program(minors))
        _write(f"{group}/cgroup.procs", "0")
    except OSError as error:
        return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
    return None


def place(mounts: Iterable[str], groups: Iterable[str]) -> tuple[int, str]:
    """Version and directory of the group in which devices are controlled, from /proc/self/mountinfo and cgroup.

    Raises:
        OSError: there is none, or it is not to be seen from here.
    """
    within = {}  # by version: the group's path
    for line in groups:
        number, controllers, path = line.rstrip("\n").split(":", 2)
        if number == "0":
            within[2] = path
        elif "devices" in controllers.split(","):
            within[1] = path
    found = {}
    for line in mounts:
        words = line.rstrip("\n").split(" ")
        root, directory, after = words[3], words[4], words[words.index("-") + 1 :]
        version = 2 if after[0] == "cgroup2" else 1 if after[0] == "cgroup" and "devices" in after[2].split(",") else 0
        path = within.get(version, "/..")
        root = root.rstrip("/")
        if version and ".." not in path.split("/") and (path + "/").startswith(root + "/"):
            found[version] = (directory + path[len(root) :]).rstrip("/")
    if not found:
        raise OSError(errno.ENOENT, "there is no control group for devices here")
    version = min(found)
    return version, found[version]


def check_denied(allowed: Iterable[str]) -> None:
    """Pass only if a group of version 1, which was just denied some cards, has not all of them by one line of its
    ``devices.list``: where everything is denied but what is listed, the kernel takes nothing out of such a line.

    Raises:
        OSError: it has.
    """
    for line in allowed:
        kind, number, access = line.split()
        if kind == "c" and number in (f"{MAJOR}:*", "*:*") and access != "m":  # who may only make nodes opens none
            raise OSError(errno.EPERM, f"the control group above allows all cards by {line.strip()!r}")


def program(minors: Sequence[int]) -> bytes:
    """The BPF program that denies these cards and nothing else.

    Its context (struct bpf_cgroup_dev_ctx) is the kind of device in the low half of the first word, major and minor.
    """
    refuse = 8 + len(minors)  # where `_DENY` is returned

    def instruction(code: int, registers: int, offset: int, value: int) -> bytes:
        return struct.pack("<BBhi", code, registers, offset, value)

    load, mask, equal, unequal, put, leave = 0x61, 0x57, 0x15, 0x55, 0xB7, 0x95
    allow = refuse - 2
    lines = [
        instruction(load, 0x12, 0, 0),
        instruction(mask, 0x02, 0, 0xFFFF),
        instruction(unequal, 0x02, allow - 3, _CHARACTER),
        instruction(load, 0x12, 4, 0),
        instruction(unequal, 0x02, allow - 5, MAJOR),
        instruction(load, 0x12, 8, 0),
        *(instruction(equal, 0x02, refuse - 7 - place, minor) for place, minor in enumerate(minors)),
        instruction(put, 0x00, 0, _ALLOW),
        instruction(leave, 0x00, 0, 0),
        instruction(put, 0x00, 0, _DENY),
        instruction(leave, 0x00, 0, 0),
    ]
    return b"".join(lines)


def _attach(group: str, code: bytes) -> None:
    """Have the program decide for the group, in place of the one that did; groups above it decide too."""
    held, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"MIT")
    where = ctypes.addressof(held), ctypes.addressof(licence)
    loaded = _bpf(_PROG_LOAD, struct.pack("=IIQQ24x", _CGROUP_DEVICE_PROGRAM, len(code) // 8, *where))
    try:
        directory = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _bpf(_PROG_ATTACH, struct.pack("=IIII", directory, loaded, _CGROUP_DEVICE, 0))
        finally:
            os.close(directory)
    finally:
        os.close(loaded)


def _bpf(command: int, attributes: bytes) -> int:
    number = _BPF.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, "no number of bpf() is known for this machine")
    held = ctypes.create_string_buffer(attributes, len(attributes))
    done = int(_libc.syscall(number, command, held, len(attributes)))
    if done < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf: {os.strerror(code)}")
    return done


def _lines(file: str) -> TextIO:
    return open(file, encoding="utf-8", errors="surrogateescape")


def _write(file: str, text: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, file) from error
    finally:
        os.close(descriptor)
