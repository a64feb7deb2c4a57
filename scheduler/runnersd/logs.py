"""The daemon's own log, to stderr: for people on a terminal, for the journal on a pipe, or as JSON.

A record is a sentence and, by ``extra``, the values it is about: ``log.info("card drained", extra={"gpu": ...})``.
One record is one line, whatever text it holds; only a traceback has more. Environments are never logged.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import TextIO

from runnersd.config import LogConfig

#: Attributes every record has; whatever else it has came by ``extra``.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
#: syslog's priorities, which sd-daemon(3) takes in front of a line.
_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_COLOUR = {logging.DEBUG: "2", logging.INFO: "32", logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "1;31"}


def set_up(config: LogConfig, stream: TextIO | None = None) -> None:
    """Log as configured, to ``stream`` (stderr). May be called again, as after a reload."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(config.format, stream))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.level.upper())
    logging.captureWarnings(True)
    # asyncio's debug lines speak of its selectors, not of the daemon.
    logging.getLogger("asyncio").setLevel(max(root.level, logging.INFO))


def _formatter(format: str, stream: TextIO) -> logging.Formatter:
    if format == "json":
        return JsonFormatter()
    if format == "auto" and stream.isatty():
        return TerminalFormatter(colour="NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb")
    return TextFormatter(journal=_is_journal(stream))


def _is_journal(stream: TextIO) -> bool:
    """Whether the stream is the one that systemd connected to the journal (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO sentence key=value`; for the journal `<6>sentence key=value`."""

    def __init__(self, *, journal: bool = False) -> None:
        super().__init__()
        self.converter = time.gmtime
        self.journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """The record's line, and its traceback's."""
        pairs = "".join(f" {name}={_value(value)}" for name, value in _fields(record).items())
        line = _one_line(record.getMessage()) + pairs
        traceback = self.formatException(record.exc_info) if record.exc_info else ""
        if self.journal:
            prefix = f"<{_PRIORITY.get(record.levelno, 6)}>"
            return "\n".join(prefix + part for part in [line, *traceback.splitlines()])
        stamp = f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z"
        return f"{stamp} {record.levelname} {line}" + (f"\n{traceback}" if traceback else "")


class TerminalFormatter(logging.Formatter):
    """`12:00:00 sentence  key=value`, the level as a colour."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self.colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """The record's line, and its traceback's."""
        pairs = "  ".join(f"{name}={_value(value)}" for name, value in _fields(record).items())
        level = "" if record.levelno == logging.INFO else record.levelname.lower()
        clock = self.formatTime(record, "%H:%M:%S")
        message = _one_line(record.getMessage())
        if self.colour:
            colour = _COLOUR.get(record.levelno, "0")
            clock, pairs = f"\x1b[2m{clock}\x1b[0m", f"\x1b[2m{pairs}\x1b[0m" if pairs else ""
            level = f"\x1b[{colour}m{level}\x1b[0m" if level else ""
        line = " ".join(part for part in (clock, level, message, f" {pairs}" if pairs else "") if part)
        return line + (f"\n{self.formatException(record.exc_info)}" if record.exc_info else "")


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time (Unix seconds), level, logger, message, its values, and `traceback`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line."""
        document = {
            "time": round(record.created, 6),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            document["traceback"] = self.formatException(record.exc_info)
        return json.dumps(document, default=str)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _OWN}


def _value(value: object) -> str:
    """A value as it stands in a line: quoted where it could be taken for more than one."""
    text = str(value)
    return text if text and text.isprintable() and not set(text) & set(' "=') else json.dumps(text)


def _one_line(text: str) -> str:
    """No text from outside makes a line of its own, or moves the cursor."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
