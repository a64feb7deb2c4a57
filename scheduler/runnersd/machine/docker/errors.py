"""What a call to the container engine can end in. Nothing above `connection` sees another error of its libraries.

EngineError
├── NotFound          404: no such container or image
├── Conflict          409: the name is taken, or the container is not in the state for that
├── Refused           the engine understood, and said no: its message is for people
├── Unavailable       it does not answer, and has done nothing
└── UnknownOutcome    it did not answer, and may have done it: look
"""

from __future__ import annotations

#: Characters that are kept of what an engine, a registry or an image says.
LONGEST = 500


def one_line(text: str) -> str:
    """What somebody else says, fit for a sentence that everybody reads: one line, no control characters, not long."""
    line = "".join(character if character.isprintable() else " " for character in text[: 4 * LONGEST])
    line = " ".join(line.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


class EngineError(Exception):
    """The root: a call to the engine failed. The message says which and why."""


class NotFound(EngineError):
    """There is no such container or image."""


class Conflict(EngineError):
    """The name is taken, or the container is in another state."""


class Refused(EngineError):
    """The engine said no."""


class Unavailable(EngineError):
    """The engine does not answer; the call has had no effect."""


class UnknownOutcome(EngineError):
    """No answer came, and the call may have had its effect."""
