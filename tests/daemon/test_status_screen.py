"""The screens in docs/status.md are what the program prints, of a machine in the middle of its day."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from core.pages import blocks, text_of
from fake_nvml import FakeDriver
from harness.scene import SIZES, scene, screen, settled
from runners.render.lines import width

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")


def test_the_screens_of_the_page_are_what_status_shows(fake_nvml: Callable[[int], FakeDriver], tmp_path: Path) -> None:
    told = [block.text for block in blocks(text_of("docs/status.md"), "text")]
    assert len(told) == len(SIZES)
    with scene(tmp_path / "d", fake_nvml(8)) as daemon:
        for expected, (columns, rows) in zip(told, SIZES, strict=True):
            shown = screen(daemon, columns, rows)
            assert "\x1b" not in shown and "…" not in shown, "nothing is cut"
            assert max(map(width, shown.splitlines())) <= columns
            assert settled(shown) == settled(expected), f"write it again with harness.scene --write:\n{shown}"
        for words in (("--mine",), ("--limit", "1")):  # also where their jobs are not listed
            shown = screen(daemon, 120, 40, "status", *words)
            assert "5 notebook ann, 6 jupyter bob" in shown and "8 evaluate ann" in shown, shown
        coloured = screen(daemon, 120, 40, "status", colour=True)
        assert "\x1b[" in coloured
        assert "\x1b" not in daemon.run("status").stdout.decode(), "no colour in a pipe"
