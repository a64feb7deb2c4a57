"""HTTP/1.1 over a Unix socket, as little as the client needs of it: one request a connection, streamed answers.

`http.client` would cost three times the start of Python (it imports ssl and email). What fails is an :class:`OSError`
of the standard library; :mod:`runners.refusals` gives it a sentence.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Mapping

#: Longest path the kernel takes in a Unix address, in bytes, without its closing zero.
MAX_ADDRESS = 107
_MOST_HEADERS = 64 * 1024


def connect(path: str, timeout: float) -> socket.socket:
    """A blocking connection to ``path`` whose sends and receives give up after ``timeout`` seconds.

    Raises :class:`OSError` as the kernel said it. The limits are the socket's own (``SO_SNDTIMEO``): a connect with
    :meth:`socket.settimeout` would fail at once, not wait, when the daemon's backlog is full.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        set_timeout(sock, timeout)
        encoded = os.fsencode(path)
        if len(encoded) <= MAX_ADDRESS:
            sock.connect(encoded)
            return sock
        # A longer path is reached through its directory's descriptor.
        directory = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
        finally:
            os.close(directory)
        return sock
    except BlockingIOError:
        sock.close()
        raise TimeoutError(f"no connection after {timeout:.0f} s") from None
    except BaseException:
        sock.close()
        raise


def set_timeout(sock: socket.socket, seconds: float) -> None:
    """Make sends and receives of a blocking ``sock`` give up after ``seconds``; 0 is never."""
    value = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)


def exchange(
    sock: socket.socket, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """Send one request and read the head of its answer. ``sock`` belongs to the answer from then on."""
    lines = [f"{method} {target} HTTP/1.1", "Host: runners", "Connection: close", "Accept: */*"]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    elif method != "GET":
        lines.append("Content-Length: 0")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    answer = Answer(sock)
    try:
        try:
            sock.sendall("\r\n".join([*lines, "", ""]).encode() + (body or b""))
        except BlockingIOError:
            raise TimeoutError("the daemon does not take the request") from None
        except (BrokenPipeError, ConnectionResetError) as refused:
            # A daemon that will not read all of it (too large) says so before it hangs up.
            try:
                answer.read_head()
            except OSError:
                raise refused from None
            return answer
        answer.read_head()
        return answer
    except BaseException:
        sock.close()
        raise


class Answer:
    """What came back: ``status``, ``headers`` (names in lower case) and a body that can be read as it arrives."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._left: int | None = None  # of the body, or of the chunk; None: until the daemon hangs up
        self._chunked = False
        self._after_chunk = False
        self.ended = False  #: the whole body has been handed out
        self.status = 0
        self.headers: dict[str, str] = {}

    def fileno(self) -> int:
        """The descriptor to poll before :meth:`receive`."""
        return self._sock.fileno()

    def close(self) -> None:
        """Hang up."""
        self._sock.close()

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def patient(self) -> None:
        """Wait without end for what comes next: a stream may be silent for hours."""
        set_timeout(self._sock, 0)

    def read_head(self) -> None:
        """Read the status line and the headers; :class:`ConnectionError` when they are not HTTP or do not come."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > _MOST_HEADERS:
                raise ConnectionError("the answer is not HTTP")
            self._fill()
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        words = lines[0].split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
            raise ConnectionError("the answer is not HTTP")
        self.status = int(words[1])
        for line in lines[1:]:
            name, _, value = line.partition(":")
            self.headers[name.strip().lower()] = value.strip()
        length = self.headers.get("content-length", "")
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            self._chunked, self._left = True, 0
        elif length.isdigit():
            self._left = int(length)
        self.ended = self.status in (204, 304) or (not self._chunked and self._left == 0)

    def read(self) -> bytes:
        """All of the body that is left."""
        return b"".join(self)

    def __iter__(self) -> Iterator[bytes]:
        """The body, piece by piece as it comes."""
        piece = self.pending()
        while True:
            if piece:
                yield piece
            if self.ended:
                return
            piece = self.receive()

    def receive(self) -> bytes:
        """Read from the socket once and return the body's new bytes: perhaps none, though it has not ``ended``."""
        try:
            self._fill()
        except ConnectionAbortedError:
            if self._left is not None or self._chunked:
                raise
            self.ended = True  # nobody said how long it is: it ends where the daemon hangs up
        return self.pending()

    def pending(self) -> bytes:
        """The body's bytes that have already been read from the socket."""
        if self._chunked:
            return self._dechunk()
        take = len(self._buffer) if self._left is None else min(self._left, len(self._buffer))
        piece = bytes(self._buffer[:take])
        del self._buffer[:take]
        if self._left is not None:
            self._left -= take
            self.ended = self._left == 0
        return piece

    def _dechunk(self) -> bytes:
        pieces = bytearray()
        buffer = self._buffer
        while not self.ended:
            if self._left:
                take = min(self._left, len(buffer))
                pieces += buffer[:take]
                del buffer[:take]
                self._left -= take
                if self._left:
                    break
                self._after_chunk = True
            end = buffer.find(b"\r\n")
            if end < 0:
                break
            line = bytes(buffer[:end])
            del buffer[: end + 2]
            if self._after_chunk and not line:
                self._after_chunk = False
                continue
            try:
                self._left = int(line.partition(b";")[0], 16)
            except ValueError:
                raise ConnectionError("the answer is not HTTP") from None
            self.ended = self._left == 0  # trailers, were there any, end with the connection
        return bytes(pieces)

    def _fill(self) -> None:
        try:
            data = self._sock.recv(65536)
        except BlockingIOError:
            raise TimeoutError("the daemon does not answer") from None
        if not data:
            raise ConnectionAbortedError("the daemon hung up in the middle of its answer")
        self._buffer += data


def quote(text: str) -> str:
    """``text`` as one part of a request's target."""
    return "".join(
        chr(byte) if byte in b"-._~" or (byte < 128 and chr(byte).isalnum()) else f"%{byte:02X}"
        for byte in os.fsencode(text)
    )


def query(values: Mapping[str, object]) -> str:
    """The end of a request's target, from its ``?`` on; what is None is left out, and True is 1."""
    parts = [
        f"{name}={1 if value is True else quote(str(value)).replace('%2C', ',')}"
        for name, value in values.items()
        if value is not None
    ]
    return "?" + "&".join(parts) if parts else ""
