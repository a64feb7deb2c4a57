"""Where a process's control group for devices is, by what /proc says; what is done with it is tested on real ones."""

from __future__ import annotations

import re
import struct

import pytest

from runnersd.machine.host.confinement import check_denied, place, program

V1 = "33 25 0:28 / /sys/fs/cgroup/devices rw,nosuid shared:9 - cgroup cgroup rw,devices\n"
MEMORY = "34 25 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
UNIT = "0::/system.slice/runnersd.service\n"


@pytest.mark.parametrize(
    ("mounts", "groups", "found"),
    [
        ([V2], [UNIT], (2, "/sys/fs/cgroup/system.slice/runnersd.service")),
        ([V2], ["0::/\n"], (2, "/sys/fs/cgroup")),
        ([MEMORY, V1], ["9:memory:/a\n", "5:devices:/b\n"], (1, "/sys/fs/cgroup/devices/b")),
        ([V1, V2], ["5:devices:/\n", UNIT], (1, "/sys/fs/cgroup/devices")),
        ([MEMORY, V2], ["9:memory:/a\n", "0::/c\n"], (2, "/sys/fs/cgroup/c")),
        ([V2.replace(" / ", " /docker/4b1c ", 1)], ["0::/docker/4b1c/inner\n"], (2, "/sys/fs/cgroup/inner")),
    ],
)
def test_the_group_is_found(mounts: list[str], groups: list[str], found: tuple[int, str]) -> None:
    assert place(mounts, groups) == found


@pytest.mark.parametrize(
    ("mounts", "groups"),
    [
        ([], [UNIT]),
        ([MEMORY], ["9:memory:/a\n"]),
        ([V2], ["0::/../outside\n"]),
        ([V2.replace(" / ", " /docker/4b1c ", 1)], ["0::/docker/4b1\n"]),
    ],
)
def test_what_cannot_be_seen_is_not_guessed(mounts: list[str], groups: list[str]) -> None:
    with pytest.raises(OSError, match="no control group for devices"):
        place(mounts, groups)


@pytest.mark.parametrize("line", ["c 195:* rwm", "c 195:* r", "c *:* rw"])
def test_a_line_for_all_cards_denies_none(line: str) -> None:
    with pytest.raises(OSError, match=f"allows all cards by '{re.escape(line)}'"):
        check_denied(["c 1:3 rwm\n", f"{line}\n"])


def test_lines_for_some_cards_or_for_making_nodes_are_no_matter() -> None:
    check_denied(["a *:* rwm\n", "b *:* rwm\n", "c *:* m\n", "c 195:255 rwm\n", "c 1:* rwm\n"])


@pytest.mark.parametrize("minors", [(0,), (1, 2), tuple(range(16))])
def test_the_program_denies_these_cards_and_nothing_else(minors: tuple[int, ...]) -> None:
    code = program(minors)
    for kind, major, minor in [(2, 195, n) for n in (*range(18), 254, 255)] + [(1, 195, minors[0]), (2, 1, minors[0])]:
        allowed = not (kind == 2 and major == 195 and minor in minors)
        for access in (1, 2, 6, 7):
            assert decided(code, (access << 16 | kind, major, minor)) == allowed, (kind, major, minor)


def decided(code: bytes, context: tuple[int, int, int]) -> bool:
    """What the kernel would make of a program of these few instructions."""
    lines = list(struct.iter_unpack("<BBhi", code))
    registers, at = [0] * 11, 0
    while True:
        operation, which, offset, value = lines[at]
        into, at = which & 15, at + 1
        if operation == 0x61:
            assert which >> 4 == 1, "the context is in register 1"
            registers[into] = context[offset // 4]
        elif operation == 0x57:
            registers[into] &= value
        elif operation == 0xB7:
            registers[into] = value
        elif operation == 0x95:
            return bool(registers[0])
        elif (operation == 0x15) == (registers[into] == value):
            assert operation in (0x15, 0x55)
            at += offset
