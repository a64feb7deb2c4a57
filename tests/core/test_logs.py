"""The daemon's log: one line a record, in the form its reader wants."""

from __future__ import annotations

import io
import json
import logging
import os
import re
from collections.abc import Iterator

import pytest

from runnersd.config import LogConfig
from runnersd.logs import set_up


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def root_logger_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def logged(config: LogConfig, stream: io.StringIO) -> str:
    set_up(config, stream)
    log = logging.getLogger("runnersd.test")
    log.debug("not at this level")
    log.info("card drained", extra={"gpu": "GPU-0", "by": "ada b", "count": 3})
    log.warning("a job named %s", "x\n<0>forged\x1b[2J")
    try:
        raise ValueError("no such thing")
    except ValueError:
        log.exception("failed")
    return stream.getvalue()


def test_plain_lines_on_a_pipe() -> None:
    lines = logged(LogConfig(), io.StringIO()).splitlines()
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert re.fullmatch(stamp + r' INFO card drained gpu=GPU-0 by="ada b" count=3', lines[0])
    assert re.fullmatch(stamp + r" WARNING a job named x\\n<0>forged\\x1b\[2J", lines[1])
    assert re.fullmatch(stamp + r" ERROR failed", lines[2])
    assert lines[3] == "Traceback (most recent call last):" and lines[-1] == "ValueError: no such thing"


def test_priorities_for_the_journal(tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.path.join(tmp_path, "journal")
    with open(path, "w+") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        set_up(LogConfig(), stream)
        log = logging.getLogger("runnersd.test")
        log.info("hello", extra={"job": 1})
        log.error("oh no", exc_info=ValueError("x"))
        log.critical("the end")
        stream.seek(0)
        lines = stream.read().splitlines()
    assert lines == ["<6>hello job=1", "<3>oh no", "<3>ValueError: x", "<2>the end"]


def test_another_pipe_is_not_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    assert not logged(LogConfig(), io.StringIO()).startswith("<")


def test_json_has_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [json.loads(line) for line in logged(LogConfig(format="json"), Terminal()).splitlines()]
    assert [record["level"] for record in records] == ["info", "warning", "error"]
    first = records[0]
    assert (first["message"], first["gpu"], first["by"], first["count"]) == ("card drained", "GPU-0", "ada b", 3)
    assert first["logger"] == "runnersd.test" and first["time"] > 1e9
    assert records[2]["traceback"].endswith("ValueError: no such thing")


def test_people_on_a_terminal_get_colour_unless_they_want_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    coloured = logged(LogConfig(), Terminal()).splitlines()
    assert "\x1b[33mwarning\x1b[0m" in coloured[1]
    monkeypatch.setenv("NO_COLOR", "1")
    plain = logged(LogConfig(), Terminal()).splitlines()
    assert re.fullmatch(r'\d\d:\d\d:\d\d card drained  gpu=GPU-0  by="ada b"  count=3', plain[0])
    assert "\x1b" not in "".join(plain)


@pytest.mark.parametrize(("level", "lines"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_says_what_is_logged(level: str, lines: int) -> None:
    text = logged(LogConfig(level=level, format="json"), io.StringIO())
    assert len(text.splitlines()) == lines


def test_setting_up_again_replaces() -> None:
    first, second = io.StringIO(), io.StringIO()
    set_up(LogConfig(), first)
    set_up(LogConfig(), second)
    logging.getLogger("runnersd.test").info("once")
    assert first.getvalue() == "" and second.getvalue().count("once") == 1
