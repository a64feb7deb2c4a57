"""The words between the daemon and its telemetry processes: frames of a length (four bytes, big-endian) and a body.

To the process every body is a JSON object; `do` says what it asks for. From it, a body begins with one byte that says
what it is: an answer to what was asked (`ANSWER`), why there is none (`REFUSAL`), or something for the log (`WORD`).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

ANSWER, REFUSAL, WORD = b"+", b"-", b"!"
#: The longest body that is believed, in bytes.
LONGEST = 64 << 20

_LENGTH = struct.Struct(">I")


def framed(body: bytes) -> bytes:
    """A body as it is sent."""
    return _LENGTH.pack(len(body)) + body


def asked(**request: Any) -> bytes:
    """A frame to a process."""
    return framed(json.dumps(request, separators=(",", ":")).encode())


class Frames:
    """Bodies out of a stream of bytes."""

    def __init__(self) -> None:
        self._received = bytearray()

    def take(self, data: bytes) -> Iterator[bytes]:
        """The bodies that are whole now.

        Raises:
            ValueError: the stream is none of frames.
        """
        self._received += data
        while len(self._received) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._received)
            if size > LONGEST:
                raise ValueError(f"a frame of {size} bytes")
            end = _LENGTH.size + size
            if len(self._received) < end:
                return
            body = bytes(self._received[_LENGTH.size : end])
            del self._received[:end]
            yield body
